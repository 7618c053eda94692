//! A damaged journal opens to exactly what its first frames left, or is refused; and what
//! one damaged block hits is never lost silently if a mark covers it. It never panics, and
//! what opened takes appends that are there the next time.
//!
//! The first byte of the input chooses: even, the rest are two segments as they are; odd, the
//! rest are a script that writes a journal, 0xff, and damages of four bytes each.
//! `cargo +nightly fuzz run recover` in `crates/storage`.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use quorate_log::{Body, Entry, Record};
use quorate_storage::journal::{
    BLOCK_BYTES, Journal, JournalError, MemoryDisk, Options, Recovered, RecoveredShard,
};

const SEGMENT_BYTES: usize = 6 * BLOCK_BYTES;

fuzz_target!(|data: &[u8]| {
    match data {
        [mode, segments @ ..] if mode % 2 == 0 => any_bytes(segments),
        [_, rest @ ..] => damaged(rest),
        [] => {}
    }
});

fn open(disk: MemoryDisk) -> Result<(Journal<MemoryDisk>, Recovered), JournalError> {
    let options = Options { segment_bytes: SEGMENT_BYTES as u64, ..Options::default() };
    Journal::open(disk, options)
}

fn any_bytes(segments: &[u8]) {
    let mut disk = MemoryDisk::default();
    let (first, second) = segments.split_at(segments.len() / 2);
    for (number, bytes) in [(1, first), (2, second)] {
        disk.replace(number, Some(bytes.to_vec()));
    }
    if let Ok((journal, _)) = open(disk) {
        goes_on(journal);
    }
}

fn damaged(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == 0xff).unwrap_or(input.len());
    let (script, damages) = input.split_at(end);
    let (mut disk, frames, marked) = written(script);
    let numbers = disk.numbers();
    let mut blocks = BTreeSet::new();
    for damage in damages.get(1..).unwrap_or_default().chunks_exact(4) {
        let number = numbers[usize::from(damage[0]) % numbers.len()];
        let bytes = disk.bytes_mut(number).expect("a number from the list");
        let at = usize::from(damage[1]) << 8 | usize::from(damage[2]);
        let at = at % bytes.len();
        bytes[at] ^= damage[3];
        if damage[3] != 0 {
            blocks.insert((number, at / BLOCK_BYTES));
        }
    }
    match open(disk) {
        Ok((journal, recovered)) => {
            let kept =
                (0..=frames.len()).rev().find(|&kept| left(&frames[..kept]) == recovered.shards);
            let kept = kept.expect("what opens is what the first frames left");
            assert!(blocks.len() > 1 || kept >= marked, "{kept} of {marked} marked frames");
            goes_on(journal);
        }
        Err(error) => {
            assert!(!blocks.is_empty(), "an undamaged journal is refused: {error}");
            assert!(matches!(error, JournalError::Rot(_)), "{error}");
        }
    }
}

/// Writes what `script` says: the disk, its frames, and how many of them are marked.
fn written(script: &[u8]) -> (MemoryDisk, Vec<Record>, usize) {
    let (mut journal, _) = open(MemoryDisk::default()).expect("an empty disk opens");
    let (mut frames, mut marked, mut last) = (Vec::new(), 0, 0);
    for (i, &byte) in script.iter().take(24).enumerate() {
        let shard = u32::from(byte >> 6);
        let body = match byte % 8 {
            0 => {
                journal.mark().expect("the disk has room");
                marked = frames.len();
                continue;
            }
            1 => Body::State(vec![i as u8; usize::from(byte)]),
            back => {
                last = (last + 3_u64).saturating_sub(u64::from(back)).max(1);
                let payload = Arc::new(vec![i as u8; usize::from(byte) * 20]);
                Body::Entry(Entry { term: i as u64, index: last, payload })
            }
        };
        let record = Record { shard, body };
        journal.append(std::slice::from_ref(&record), byte & 8 != 0).expect("the disk has room");
        frames.push(record);
    }
    // So that there is a segment to damage.
    journal.append(&[Record { shard: 9, body: Body::State(vec![9]) }], true).expect("has room");
    frames.push(Record { shard: 9, body: Body::State(vec![9]) });
    (journal.into_disk(), frames, marked)
}

/// What `frames` leave.
fn left(frames: &[Record]) -> BTreeMap<u32, RecoveredShard> {
    let mut shards = BTreeMap::<_, RecoveredShard>::new();
    for record in frames {
        let shard = shards.entry(record.shard).or_default();
        match &record.body {
            Body::State(state) => shard.state.clone_from(state),
            Body::Entry(entry) => {
                shard.entries.retain(|old| old.index < entry.index);
                shard.entries.push(entry.clone());
            }
        }
    }
    shards
}

/// What was opened takes an append and has it the next time.
fn goes_on(mut journal: Journal<MemoryDisk>) {
    let entry = Entry { term: 99, index: 1 << 40, payload: Arc::new(vec![1]) };
    let record = Record { shard: 5, body: Body::Entry(entry.clone()) };
    journal.append(&[record], true).expect("the disk has room");
    let (_, recovered) = open(journal.into_disk()).expect("it opened before");
    assert_eq!(recovered.shards[&5].entries.last(), Some(&entry));
}
