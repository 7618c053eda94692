//! What a shard with one voter costs its node per turn, all but the journal itself.
//!
//! `cargo run --release -p quorate-log --example raft_speed`

use quorate_base::Index;
use quorate_log::raft::{RaftLog, Restored};
use quorate_log::{Log, Outputs};
use std::hint::black_box;
use std::time::Instant;

const SHARDS: u32 = 16;
const ROUNDS: usize = 200_000;

fn main() {
    for payload_bytes in [100, 1_000, 20_000] {
        for entries in [1, 8] {
            measure(payload_bytes, entries);
        }
    }
}

fn measure(payload_bytes: usize, entries: usize) {
    let mut logs: Vec<Box<dyn Log>> = (0..SHARDS)
        .map(|shard| {
            let log = RaftLog::new(shard, 1, &[1], Restored::default(), u64::from(shard));
            Box::new(log.expect("an empty replica starts")) as Box<dyn Log>
        })
        .collect();
    let mut out = Outputs::default();
    let rounds = ROUNDS / entries / (1 + payload_bytes / 1_000);
    let template = vec![7u8; payload_bytes];
    // The payloads' own allocation and copy, which the log does not cause.
    let start = Instant::now();
    for _ in 0..rounds * SHARDS as usize * entries {
        black_box(template.clone());
    }
    let copies = start.elapsed();

    let mut written = 0usize;
    let start = Instant::now();
    for _ in 0..rounds {
        for log in &mut logs {
            for _ in 0..entries {
                black_box(log.propose(template.clone()).expect("it leads"));
            }
            log.take(&mut out);
            let seq = out.seq;
            written += out.persist.len();
            out.clear();
            log.persisted(seq);
            log.take(&mut out);
            let commit: Index = out.commit;
            out.clear();
            log.applied(commit);
            log.compact(commit);
        }
    }
    let turns = rounds * SHARDS as usize;
    let all = start.elapsed();
    assert!(logs.iter().all(|log| log.commit() == log.last_index()), "something is not agreed on");
    let log_only = all.saturating_sub(copies);
    println!(
        "{SHARDS} shards, {entries} × {payload_bytes} B: {:>9.0} turns/s, {:>5.0} ns a turn, {:>5.0} ns \
         without making the payload ({written} records)",
        turns as f64 / all.as_secs_f64(),
        all.as_nanos() as f64 / turns as f64,
        log_only.as_nanos() as f64 / turns as f64,
    );
}
