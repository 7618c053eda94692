//! How fast the store is on this machine: bulk writing, reopening, point reads and a full scan.
//!
//! `cargo run --release -p quorate-storage --example store_speed [directory] [records]`

use quorate_base::Prng;
use quorate_data::table::{Flush, Mark, TableOp};
use quorate_storage::store::{Store, StoreError, StoreOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SHARDS: u32 = 16;
const VALUE_BYTES: usize = 100;
const FLUSH_BYTES: usize = 1 << 20;
const PERSIST_BYTES: u64 = 16 << 20;
const READS: u64 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("store_speed"), PathBuf::from);
    let records = args.next().map_or(Ok(2_000_000), |n| n.parse())?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    write(&dir, records)?;
    read(&dir, records)?;
    clear(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, StoreOptions::default())
}

/// Record `n` lies in this shard, at a place that scatters.
fn key(n: u64) -> (u32, Vec<u8>) {
    let hash = Prng::new(n).next_u64();
    let mut key = (hash >> 1).to_be_bytes().to_vec();
    key.push(0);
    key.extend(format!("record:{n:012}").bytes());
    ((hash % u64::from(SHARDS)) as u32, key)
}

/// Half of a value repeats, as text does.
fn value(n: u64) -> Vec<u8> {
    let mut prng = Prng::new(!n);
    let mut value =
        format!("{{\"name\":\"user {n}\",\"visits\":{},\"tags\":\"", n % 97).into_bytes();
    while value.len() < VALUE_BYTES {
        value.extend(format!("{:x}", prng.next_u64()).bytes());
    }
    value.truncate(VALUE_BYTES);
    value
}

fn write(dir: &Path, records: u64) -> Result<(), StoreError> {
    let store = open(dir)?;
    let mut pending: Vec<(Vec<TableOp>, usize, u64)> = vec![(Vec::new(), 0, 0); SHARDS as usize];
    let (mut bytes, mut worst) = (0, Duration::ZERO);
    let (mut writing, mut persisting, mut maintaining) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut spent = 0.0;
    for n in 0..=records {
        let last = n == records;
        if !last {
            let ((shard, key), value) = (key(n), value(n));
            let (ops, size, keys) = &mut pending[shard as usize];
            *size += key.len() + value.len();
            *keys += 1;
            ops.push(TableOp::Put(key, value));
        }
        for (shard, (ops, size, keys)) in (0..).zip(&mut pending) {
            if *size < FLUSH_BYTES && !last {
                continue;
            }
            bytes += std::mem::take(size);
            let mark = Mark { applied: n, term: 1, keys: *keys };
            let (start, cpu) = (Instant::now(), cpu_seconds());
            store.write(Flush { shard, mark, clear: false, ops: std::mem::take(ops) })?;
            writing += start.elapsed();
            if last || store.unpersisted_bytes(shard) >= PERSIST_BYTES {
                let start = Instant::now();
                store.persist(shard)?;
                persisting += start.elapsed();
                worst = worst.max(start.elapsed());
                let start = Instant::now();
                while store.maintain(shard)? {}
                maintaining += start.elapsed();
            }
            spent += cpu_seconds() - cpu;
        }
    }
    let mb = bytes as f64 / 1e6;
    let busy = writing + persisting + maintaining;
    println!(
        "write: {mb:.0} MB in {:.2} s: {:.0} MB/s, {:.0} records/s, {spent:.2} s of CPU",
        busy.as_secs_f64(),
        mb / busy.as_secs_f64(),
        records as f64 / busy.as_secs_f64(),
    );
    println!(
        "of that: write {writing:.1?}, persist {persisting:.1?} (slowest {worst:.0?}), \
         maintain {maintaining:.1?}"
    );
    println!("after: {:?}", store.stats());
    Ok(())
}

fn read(dir: &Path, records: u64) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let store = open(dir)?;
    println!("open: {:.1?}", start.elapsed());
    let tables: Vec<_> = (0..SHARDS).map(|shard| store.table(shard)).collect();
    for round in ["cold", "warm"] {
        let mut prng = Prng::new(7);
        let start = Instant::now();
        for _ in 0..READS {
            let n = prng.below(records);
            let (shard, key) = key(n);
            let found = tables[shard as usize].get(&key)?;
            assert_eq!(found.map(|v| v.len()), Some(VALUE_BYTES), "record {n}");
        }
        println!("get, {round}: {:.2?} each", start.elapsed() / READS as u32);
    }
    let start = Instant::now();
    for n in records..records + READS {
        let (shard, key) = key(n);
        assert_eq!(tables[shard as usize].get(&key)?, None);
    }
    println!("get of an absent key: {:.2?} each", start.elapsed() / READS as u32);
    let (start, mut seen) = (Instant::now(), 0u64);
    for table in &tables {
        table.scan(b"", None, &mut |_, _| {
            seen += 1;
            true
        })?;
    }
    assert_eq!(seen, records);
    println!("scan: {:.2} M keys/s", seen as f64 / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn clear(dir: &Path) -> Result<(), StoreError> {
    let store = open(dir)?;
    let start = Instant::now();
    for shard in 0..SHARDS {
        store.write(Flush { shard, mark: Mark::default(), clear: true, ops: Vec::new() })?;
        store.persist(shard)?;
        while store.maintain(shard)? {}
    }
    println!("clear of all shards, durable: {:.1?}", start.elapsed());
    Ok(())
}

/// User and system time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // Fields 14 and 15 of the line, in ticks of 10 ms; two precede the closing parenthesis.
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}
