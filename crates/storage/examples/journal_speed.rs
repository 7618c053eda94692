//! Measures the journal beside a plain `write` + `fdatasync` loop in the same directory.
//!
//! `cargo run --release -p quorate-storage --example journal_speed [DIRECTORY [ROUNDS]]`
//!
//! The contenders take turns, a slice of time each, because the speed of a disk changes
//! from second to second; the figures are medians over the rounds.

use quorate_log::{Body, Entry, Record};
use quorate_storage::journal::{FileDisk, Journal, Options};
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENTRY_BYTES: usize = 64;
const SLICE: Duration = Duration::from_millis(300);

/// Does one synced append and says how long it took.
type Append = Box<dyn FnMut() -> Result<Duration, Box<dyn Error>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds = args.next().map_or(Ok(11), |text| text.parse())?;
    let directory = parent.join(format!("journal-speed-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let measured = measure(&directory, rounds);
    fs::remove_dir_all(&directory)?;
    measured
}

fn measure(directory: &Path, rounds: usize) -> Result<(), Box<dyn Error>> {
    for batch in [1, 128] {
        println!("{batch} entries of {ENTRY_BYTES} bytes per synced append:");
        let mut contenders = [
            ("write + fdatasync, growing file", plain(directory, batch * ENTRY_BYTES)?, vec![]),
            (
                "journal, direct",
                journal(&directory.join(format!("d{batch}")), true, batch)?,
                vec![],
            ),
            (
                "journal, page cache",
                journal(&directory.join(format!("c{batch}")), false, batch)?,
                vec![],
            ),
        ];
        for _ in 0..rounds {
            for (_, append, figures) in &mut contenders {
                figures.push(slice(append)?);
            }
        }
        for (name, _, figures) in &mut contenders {
            figures.sort_by(f64::total_cmp);
            let [low, median, high] = [0, figures.len() / 2, figures.len() - 1].map(|i| figures[i]);
            let entries = median * batch as f64;
            println!(
                "  {name:32} {median:6.0} appends/s ({low:.0} to {high:.0}) {entries:9.0} entries/s"
            );
        }
    }
    for payload_bytes in [ENTRY_BYTES, 1024, 16 * 1024] {
        read_back(&directory.join(format!("read-{payload_bytes}")), payload_bytes)?;
    }
    Ok(())
}

/// Appends per second over a slice of time.
fn slice(append: &mut Append) -> Result<f64, Box<dyn Error>> {
    let (mut time, mut appends) = (Duration::ZERO, 0.0);
    while time < SLICE {
        time += append()?;
        appends += 1.0;
    }
    Ok(appends / time.as_secs_f64())
}

fn plain(directory: &Path, bytes: usize) -> Result<Append, Box<dyn Error>> {
    let mut file = File::create(directory.join("plain"))?;
    let data = vec![7; bytes];
    Ok(Box::new(move || {
        let start = Instant::now();
        file.write_all(&data)?;
        file.sync_data()?;
        Ok(start.elapsed())
    }))
}

/// Preparing a segment is left out, as the node does it beside its writes.
fn journal(path: &Path, direct: bool, batch: usize) -> Result<Append, Box<dyn Error>> {
    let disk = FileDisk::open(path, direct)?;
    if direct && !disk.is_direct() {
        println!("  (this file system has no direct writes)");
    }
    let (mut journal, _) = Journal::open(disk, Options::default())?;
    journal.prepare()?;
    let mut index = 1;
    Ok(Box::new(move || {
        let records = records(index, batch, ENTRY_BYTES);
        index += batch.div_ceil(4) as u64;
        let start = Instant::now();
        journal.append(&records, true)?;
        let time = start.elapsed();
        if journal.wants_prepare() {
            journal.trim(&|_| index)?;
            journal.prepare()?;
        }
        Ok(time)
    }))
}

fn records(first: u64, count: usize, payload_bytes: usize) -> Vec<Record> {
    let record = |i: usize| {
        let payload = Arc::new(vec![i as u8; payload_bytes]);
        let entry = Entry { term: 1, index: first + (i / 4) as u64, payload };
        Record { shard: (i % 4) as u32, body: Body::Entry(entry) }
    };
    (0..count).map(record).collect()
}

/// Opens a journal of a few segments that the page cache holds.
fn read_back(path: &Path, payload_bytes: usize) -> Result<(), Box<dyn Error>> {
    let (mut journal, _) = Journal::open(FileDisk::open(path, true)?, Options::default())?;
    let (mut index, per_frame) = (1, (256 * 1024) / payload_bytes);
    while journal.bytes() < 256 * 1024 * 1024 {
        journal.append(&records(index, per_frame, payload_bytes), false)?;
        index += per_frame.div_ceil(4) as u64;
    }
    journal.mark()?;
    drop(journal);
    for _ in 0..2 {
        let disk = FileDisk::open(path, true)?;
        let start = Instant::now();
        let (_, recovered) = Journal::open(disk, Options::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = recovered.report.bytes as f64;
        println!(
            "read back {:.0} MB of {payload_bytes}-byte entries: {:.2} GB/s",
            bytes / 1e6,
            bytes / 1e9 / seconds
        );
    }
    Ok(fs::remove_dir_all(path)?)
}
