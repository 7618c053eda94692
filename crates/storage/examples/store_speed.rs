//! What the store costs on this machine: bulk writing, overwriting, reopening, point reads and a
//! full scan. Other work on the machine disturbs wall time much and CPU time little.
//!
//! `cargo run --release -p quorate-storage --example store_speed [directory] [records] [shards]`

use quorate_base::Prng;
use quorate_data::table::{Flush, Mark, TableOp};
use quorate_storage::store::{Store, StoreError, StoreOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The node's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE_BYTES: usize = 100;
const FLUSH_BYTES: usize = 1 << 20;
const PERSIST_BYTES: u64 = 8 << 20;
const READS: u64 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("store_speed"), PathBuf::from);
    let records: u64 = args.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let shards = args.next().map_or(Ok(16), |n| n.parse())?;
    for (distinct, rounds) in [(records, 1), (records / 2, 3)] {
        println!("{distinct} records, each written {rounds} times");
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        write(&dir, distinct, rounds, shards)?;
        read(&dir, distinct, shards)?;
        clear(&dir, shards)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, StoreOptions::default())
}

/// Record `n` lies in this shard, at a place that scatters.
fn key(n: u64, shards: u32) -> (u32, Vec<u8>) {
    let hash = Prng::new(n).next_u64();
    let mut key = (hash >> 1).to_be_bytes().to_vec();
    key.push(0);
    key.extend(format!("record:{n:012}").bytes());
    ((hash % u64::from(shards)) as u32, key)
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

/// The time that a kind of work took.
#[derive(Default)]
struct Spent {
    wall: Duration,
    cpu: f64,
    slowest: Duration,
}

impl Spent {
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let result = work();
        let wall = start.elapsed();
        self.cpu += cpu_seconds() - cpu;
        self.wall += wall;
        self.slowest = self.slowest.max(wall);
        result
    }

    fn print(&self, what: &str, count: u64) {
        let each = self.cpu * 1e6 / count as f64;
        let Self { wall, slowest, .. } = self;
        println!(
            "{what}: {each:.2} µs of CPU each; {wall:.1?}, the slowest {slowest:.0?} at a time"
        );
    }
}

fn write(dir: &Path, distinct: u64, rounds: u64, shards: u32) -> Result<(), StoreError> {
    let store = open(dir)?;
    let mut pending: Vec<(Vec<TableOp>, usize, u64)> = vec![(Vec::new(), 0, 0); shards as usize];
    let (mut writing, mut persisting, mut maintaining) =
        (Spent::default(), Spent::default(), Spent::default());
    let records = distinct * rounds;
    for n in 0..=records {
        let last = n == records;
        let target = if last {
            0..shards
        } else {
            let ((shard, key), value) = (key(n % distinct, shards), value(n));
            let (ops, size, keys) = &mut pending[shard as usize];
            *size += key.len() + value.len();
            *keys += 1;
            ops.push(TableOp::Put(key, value));
            shard..shard + 1
        };
        for shard in target {
            let (ops, size, keys) = &mut pending[shard as usize];
            if *size < FLUSH_BYTES && !last {
                continue;
            }
            *size = 0;
            let mark = Mark { applied: n, term: 1, keys: *keys };
            let flush =
                Flush { shard, mark, clear: false, durable: false, ops: std::mem::take(ops) };
            writing.on(|| store.write(flush))?;
            if last || store.unpersisted_bytes(shard) >= PERSIST_BYTES {
                persisting.on(|| store.persist(shard))?;
                while maintaining.on(|| store.maintain(shard))? {}
            }
        }
    }
    writing.print("write", records);
    persisting.print("persist", records);
    maintaining.print("maintain", records);
    let all = (writing.cpu + persisting.cpu + maintaining.cpu) * 1e6 / records as f64;
    println!("all of that: {all:.2} µs of CPU each");
    println!("after: {:?}", store.stats());
    Ok(())
}

fn read(dir: &Path, records: u64, shards: u32) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let store = open(dir)?;
    println!("open: {:.1?}", start.elapsed());
    let tables: Vec<_> = (0..shards).map(|shard| store.table(shard)).collect();
    let mut scanning = Spent::default();
    let seen = scanning.on(|| {
        let mut seen = 0u64;
        for table in &tables {
            table.scan(b"", None, &mut |_, _| {
                seen += 1;
                true
            })?;
        }
        Ok::<_, quorate_data::table::TableError>(seen)
    })?;
    assert_eq!(seen, records);
    scanning.print("scan", seen);
    let (mut found, mut absent) = (Spent::default(), Spent::default());
    let mut prng = Prng::new(7);
    let hits: Vec<_> = (0..READS).map(|_| key(prng.below(records), shards)).collect();
    let misses: Vec<_> = (records..records + READS).map(|n| key(n, shards)).collect();
    for (keys, expected, spent) in
        [(hits, Some(VALUE_BYTES), &mut found), (misses, None, &mut absent)]
    {
        spent.on(|| {
            for (shard, key) in &keys {
                let found = tables[*shard as usize].get(key).expect("the store is whole");
                assert_eq!(found.map(|v| v.len()), expected);
            }
        });
    }
    found.print("get", READS);
    absent.print("get of an absent key", READS);
    Ok(())
}

fn clear(dir: &Path, shards: u32) -> Result<(), StoreError> {
    let store = open(dir)?;
    let start = Instant::now();
    for shard in 0..shards {
        store.write(Flush {
            shard,
            mark: Mark::default(),
            clear: true,
            durable: false,
            ops: Vec::new(),
        })?;
        store.persist(shard)?;
        while store.maintain(shard)? {}
    }
    println!("clear of all shards, durable: {:.1?}", start.elapsed());
    Ok(())
}

/// User and system time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
