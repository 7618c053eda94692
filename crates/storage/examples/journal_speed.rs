//! Measures the journal beside a plain `write` + `fdatasync` loop in the same directory.
//!
//! `cargo run --release -p quorate-storage --example journal_speed [DIRECTORY [SECONDS]]`

use quorate_log::{Body, Entry, Record};
use quorate_storage::journal::{FileDisk, Journal, Options};
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENTRY_BYTES: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let run_for = Duration::from_secs(args.next().map_or(Ok(3), |text| text.parse())?);
    let directory = parent.join(format!("journal-speed-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let measured = measure(&directory, run_for);
    fs::remove_dir_all(&directory)?;
    measured
}

fn measure(directory: &Path, run_for: Duration) -> Result<(), Box<dyn Error>> {
    for batch in [1, 128] {
        println!("{batch} entries of {ENTRY_BYTES} bytes per synced append:");
        let bytes = batch * ENTRY_BYTES;
        report("write + fdatasync, growing file", batch, plain(directory, bytes, run_for)?);
        for (name, direct) in [("journal, direct", true), ("journal, page cache", false)] {
            let path = directory.join(format!("{batch}-{direct}"));
            report(name, batch, journal(&path, direct, batch, run_for)?);
        }
    }
    for payload_bytes in [ENTRY_BYTES, 1024, 16 * 1024] {
        read_back(&directory.join(format!("read-{payload_bytes}")), payload_bytes)?;
    }
    Ok(())
}

fn report(name: &str, batch: usize, (appends, time): (u64, Duration)) {
    let per_second = appends as f64 / time.as_secs_f64();
    let entries = per_second * batch as f64;
    println!("  {name:32} {per_second:9.0} appends/s {entries:11.0} entries/s");
}

fn plain(
    directory: &Path,
    bytes: usize,
    run_for: Duration,
) -> Result<(u64, Duration), Box<dyn Error>> {
    let mut file = File::create(directory.join("plain"))?;
    let data = vec![7; bytes];
    let (start, mut appends) = (Instant::now(), 0);
    while start.elapsed() < run_for {
        file.write_all(&data)?;
        file.sync_data()?;
        appends += 1;
    }
    Ok((appends, start.elapsed()))
}

fn records(first: u64, count: usize, payload_bytes: usize) -> Vec<Record> {
    let record = |i: usize| {
        let payload = Arc::new(vec![i as u8; payload_bytes]);
        let entry = Entry { term: 1, index: first + (i / 4) as u64, payload };
        Record { shard: (i % 4) as u32, body: Body::Entry(entry) }
    };
    (0..count).map(record).collect()
}

fn journal(
    path: &Path,
    direct: bool,
    batch: usize,
    run_for: Duration,
) -> Result<(u64, Duration), Box<dyn Error>> {
    let disk = FileDisk::open(path, direct)?;
    if direct && !disk.is_direct() {
        println!("  (this file system has no direct writes)");
    }
    let (mut journal, _) = Journal::open(disk, Options::default())?;
    journal.prepare()?;
    // Time spent preparing is left out, as the node does it beside its writes.
    let (mut time, mut appends, mut index) = (Duration::ZERO, 0, 1);
    while time < run_for {
        let records = records(index, batch, ENTRY_BYTES);
        index += batch.div_ceil(4) as u64;
        let start = Instant::now();
        journal.append(&records, true)?;
        time += start.elapsed();
        appends += 1;
        if journal.wants_prepare() {
            journal.trim(&|_| index)?;
            journal.prepare()?;
        }
    }
    Ok((appends, time))
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
