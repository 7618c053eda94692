//! CPU time of a command in the node alone, without sockets or disks:
//! `cargo run --release -p quorate-node --example turn_speed [keys] [commands a turn]`.
//!
//! One worker, 16 shards, relaxed durability, pipelines of 64 SETs and then GETs of 64 bytes on
//! random keys. Frames and flushes are answered at once.

use quorate_base::Prng;
use quorate_data::Keyspace;
use quorate_data::place::{SpaceMap, SpaceShards};
use quorate_data::table::{Mark, Table, TableError, Visit};
use quorate_log::raft::{RaftLog, Restored};
use quorate_node::config::{About, Space};
use quorate_node::{Config, Durability, Effect, Event, ShardStart, Time, Worker};
use std::sync::Arc;

const SHARDS: u32 = 16;
const PIPELINE: usize = 64;

/// A table that forgets everything; memory holds all there is.
struct Nothing;

impl Table for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(None)
    }
    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: &mut Visit<'_>) -> Result<(), TableError> {
        Ok(())
    }
    fn mark(&self) -> Mark {
        Mark::default()
    }
    fn snapshot(&self) -> Box<dyn Table> {
        Box::new(Self)
    }
}

fn main() {
    let number =
        |at, default| std::env::args().nth(at).map_or(default, |a| a.parse().expect("a number"));
    let (keys, per_turn) = (number(1, 1_000_000u64), number(2, 3_200) as usize);
    let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards: SHARDS };
    let config = Config {
        workers: 1,
        map: SpaceMap::new(vec![space], 7),
        spaces: vec![Space { name: "default".into(), durability: Durability::Relaxed }],
        cluster: None,
        memory_bytes_max: 8 << 30,
        flush_bytes: 4 << 20,
        query_buffer_bytes_max: 1 << 30,
        script_watch: None,
        about: About::default(),
    };
    let starts = (0..SHARDS).map(|shard| ShardStart {
        keyspace: Box::new(Keyspace::new(shard, 7, Box::new(Nothing))),
        log: Box::new(RaftLog::new(shard, 1, &[1], Restored::default(), 1).expect("a new log")),
        durability: Durability::Relaxed,
    });
    let mut worker = Worker::new(0, Arc::new(config), starts.collect(), 1).expect("a new worker");
    let mut effects = Vec::new();
    let now = Time { wall: 1_700_000_000_000, mono: 1, mono_us: 1_000 };
    let connected = Event::Connected { conn: 1, peer: "a:1".into(), local: "b:2".into() };
    worker.step(now, connected, &mut effects);
    let mut prng = Prng::new(3);
    let value = "v".repeat(64);
    let mut run = |name: &str, commands: usize, request: &dyn Fn(u64) -> String| {
        let pipelines: Vec<String> = (0..commands / PIPELINE)
            .map(|_| (0..PIPELINE).map(|_| request(prng.below(keys))).collect())
            .collect();
        let before = cpu_ms();
        for turn in pipelines.chunks(per_turn / PIPELINE) {
            for bytes in turn {
                worker.step(
                    now,
                    Event::Received { conn: 1, bytes: bytes.as_bytes() },
                    &mut effects,
                );
            }
            worker.end_turn(now, &mut effects);
            let mut answers = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Persist(frame) => {
                        answers.push(Event::Persisted { ticket: frame.ticket });
                    }
                    Effect::Flush(flush) => {
                        answers.push(Event::Flushed { shard: flush.shard, mark: flush.mark });
                    }
                    _ => {}
                }
            }
            for event in answers {
                worker.step(now, event, &mut effects);
            }
        }
        println!("{name}: {:.3} µs a command", (cpu_ms() - before) * 1000.0 / commands as f64);
    };
    let set = |key: u64| format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n$64\r\n{value}\r\n");
    let get = |key: u64| format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n");
    run("fill", keys as usize * 3, &set);
    for _ in 0..3 {
        run("SET", 2_000_000, &set);
        run("GET", 2_000_000, &get);
    }
}

/// CPU time of this process, milliseconds.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    let ns: f64 = stat.split(' ').next().expect("a field").parse().expect("a number");
    ns / 1e6
}
