//! The journal against a model, on a disk that crashes, fails, fills up and rots.

use super::memory::{Fate, SECTOR_BYTES};
use super::*;
use proptest::prelude::*;
use quorate_base::{Prng, Term};
use quorate_log::Entry;
use std::collections::BTreeMap;

const SEGMENT_BYTES: u64 = 8 * BLOCK_BYTES as u64;

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, prepared_max: 2, id: 77 }
}

fn open(disk: MemoryDisk) -> (Journal<MemoryDisk>, Recovered) {
    Journal::open(disk, options()).unwrap()
}

fn entry(shard: ShardId, index: Index, payload: impl Into<Vec<u8>>) -> Record {
    let payload = Arc::new(payload.into());
    Record { shard, body: Body::Entry(Entry { term: 1, index, payload }) }
}

fn state(shard: ShardId, state: &[u8]) -> Record {
    Record { shard, body: Body::State(state.to_vec()) }
}

fn indexes(recovered: &Recovered, shard: ShardId) -> Vec<Index> {
    let shard = recovered.shards.get(&shard);
    shard.map_or(Vec::new(), |shard| shard.entries.iter().map(|entry| entry.index).collect())
}

// ---- the model -------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    /// `count` entries to each of the shards from `shard` to `shard + shards`, the first of
    /// which replaces `back` entries.
    Append {
        shard: u32,
        shards: u32,
        count: u64,
        back: u64,
        len: usize,
        sync: bool,
    },
    State {
        shard: u32,
        len: usize,
        sync: bool,
    },
    Sync,
    Mark,
    /// The stores have all but the last `keep` entries of each shard, shard 0 only `lag` more.
    Trim {
        keep: u64,
        lag: u64,
    },
    Prepare,
    Reopen,
}

fn ops() -> impl Strategy<Value = Op> {
    let append = (0..3u32, 1..3u32, 1..4u64, 0..4u64, 0..6000usize, any::<bool>()).prop_map(
        |(shard, shards, count, back, len, sync)| Op::Append {
            shard,
            shards,
            count,
            back,
            len,
            sync,
        },
    );
    prop_oneof![
        12 => append,
        3 => (0..3u32, 0..300usize, any::<bool>())
            .prop_map(|(shard, len, sync)| Op::State { shard, len, sync }),
        2 => Just(Op::Sync),
        1 => Just(Op::Mark),
        3 => (0..6u64, 0..20u64).prop_map(|(keep, lag)| Op::Trim { keep, lag }),
        1 => Just(Op::Prepare),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Debug, Default)]
struct Model {
    frames: Vec<Vec<Record>>,
    synced: usize,
    durable: BTreeMap<ShardId, Index>,
    last: BTreeMap<ShardId, Index>,
    term: Term,
}

type Content = BTreeMap<ShardId, (Vec<u8>, BTreeMap<Index, Entry>)>;

impl Model {
    fn records(&mut self, op: &Op) -> Vec<Record> {
        self.term += 1;
        let term = self.term;
        let Op::Append { shard, shards, count, back, len, .. } = *op else {
            let Op::State { shard, len, .. } = *op else { unreachable!() };
            return vec![state(shard, &vec![term as u8; len])];
        };
        let mut records = Vec::new();
        for shard in shard..shard + shards {
            let durable = self.durable.get(&shard).copied().unwrap_or(0);
            let last = self.last.entry(shard).or_default();
            let next = (*last + 1).saturating_sub(back).max(durable + 1);
            for index in next..next + count {
                let payload = Arc::new(vec![(term ^ index) as u8; len]);
                records.push(Record { shard, body: Body::Entry(Entry { term, index, payload }) });
                *last = index;
            }
        }
        records
    }

    fn content(&self, frames: usize) -> Content {
        let mut content = Content::new();
        for record in self.frames[..frames].iter().flatten() {
            let (state, entries) = content.entry(record.shard).or_default();
            match &record.body {
                Body::State(new) => state.clone_from(new),
                Body::Entry(new) => {
                    entries.split_off(&new.index);
                    entries.insert(new.index, new.clone());
                }
            }
        }
        content
    }

    /// Whether `recovered` is what the first `frames` frames left.
    fn matches(&self, frames: usize, recovered: &Recovered) -> bool {
        let mut content = self.content(frames);
        let nothing_unknown = recovered.shards.keys().all(|shard| content.contains_key(shard));
        nothing_unknown
            && content.iter_mut().all(|(shard, (state, entries))| {
                let got = recovered.shards.get(shard).cloned().unwrap_or_default();
                let durable = self.durable.get(shard).copied().unwrap_or(0);
                let must = entries.range(durable + 1..).map(|(_, entry)| entry);
                got.state == *state
                    && got.entries.is_sorted_by_key(|entry| entry.index)
                    && got.entries.iter().all(|e| entries.get(&e.index) == Some(e))
                    && must.eq(got.entries.iter().filter(|e| e.index > durable))
            })
    }

    /// Checks what a crash or a close left and goes on from there.
    fn reopened(&mut self, recovered: &Recovered) {
        let frames = (self.synced..=self.frames.len())
            .rev()
            .find(|&frames| self.matches(frames, recovered))
            .unwrap_or_else(|| {
                panic!(
                    "of {} frames, {} synced, none fits {recovered:?}",
                    self.frames.len(),
                    self.synced
                )
            });
        self.frames.truncate(frames);
        self.synced = frames;
        for (shard, (_, entries)) in self.content(frames) {
            let last = entries.last_key_value().map_or(0, |(&index, _)| index);
            self.last.insert(shard, last.max(self.durable.get(&shard).copied().unwrap_or(0)));
        }
    }

    /// Opens a journal and runs `ops` on it until the disk fails.
    fn run(&mut self, disk: &mut MemoryDisk, ops: &[Op]) {
        for ops in ops.split_inclusive(|op| matches!(op, Op::Reopen)) {
            match Journal::open(&mut *disk, options()) {
                Ok((mut journal, recovered)) => {
                    self.reopened(&recovered);
                    if !ops.iter().all(|op| self.run_one(&mut journal, op)) {
                        return;
                    }
                }
                Err(JournalError::Io { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// False if the disk failed.
    fn run_one(&mut self, journal: &mut Journal<&mut MemoryDisk>, op: &Op) -> bool {
        let done = match op {
            Op::Append { sync, .. } | Op::State { sync, .. } => {
                let records = self.records(op);
                self.frames.push(records.clone());
                let done = journal.append(&records, *sync);
                if *sync && done.is_ok() {
                    self.synced = self.frames.len();
                }
                done
            }
            Op::Sync => journal.sync().map(|()| self.synced = self.frames.len()),
            Op::Mark => journal.mark().map(|()| self.synced = self.frames.len()),
            Op::Trim { keep, lag } => {
                for (&shard, &last) in &self.last {
                    let durable = self.durable.entry(shard).or_default();
                    let wanted = last.saturating_sub(*keep);
                    let bound = if shard == 0 { *durable + lag } else { wanted };
                    *durable = wanted.min(bound).max(*durable);
                }
                let durable = &self.durable;
                journal.trim(&|shard| durable.get(&shard).copied().unwrap_or(0)).map(|_| ())
            }
            Op::Prepare => journal.prepare().map(|_| ()),
            Op::Reopen => Ok(()),
        };
        if let Err(error) = &done {
            assert!(matches!(error, JournalError::Io { .. }), "{error}");
            let again = journal.sync().unwrap_err();
            assert_eq!(again.to_string(), error.to_string(), "poisoned");
        }
        done.is_ok()
    }
}

/// Runs `before`, failing at operation `fail_at`, crashes, runs `after`, crashes at a
/// random operation of it (maybe already of the opening), and opens again.
fn crash_twice(before: &[Op], after: &[Op], fail_at: u64, seed: u64) {
    let mut prng = Prng::new(seed);
    let mut model = Model::default();
    let mut disk = MemoryDisk::default();
    disk.fail_at = fail_at;
    model.run(&mut disk, before);
    let mut disk = crash(&disk, &mut prng);
    disk.fail_at = 1 + prng.below(40);
    model.run(&mut disk, after);
    let (_, recovered) = open(crash(&disk, &mut prng));
    model.reopened(&recovered);
}

fn crash(disk: &MemoryDisk, prng: &mut Prng) -> MemoryDisk {
    // Some crashes lose nothing, some all, most a part.
    let (keep, tear) = (prng.below(11), prng.below(3));
    disk.crash(|| match prng.below(10) {
        luck if luck < keep => Fate::Kept,
        luck if luck < keep + tear => Fate::Torn(prng.below(SECTOR_BYTES as u64) as usize),
        _ => Fate::Lost,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn synced_records_survive_any_crash_and_nothing_stale_returns(
        before in prop::collection::vec(ops(), 1..50),
        after in prop::collection::vec(ops(), 0..30),
        fail_at in 0..120u64,
        seed in any::<u64>(),
    ) {
        crash_twice(&before, &after, fail_at, seed);
    }
}

#[test]
fn every_operation_of_a_script_may_be_the_last() {
    let append =
        |shard, count, back, len, sync| Op::Append { shard, shards: 2, count, back, len, sync };
    let mut script = vec![Op::Prepare, Op::State { shard: 1, len: 9, sync: true }];
    for round in 0..6 {
        script.extend([
            append(0, 2, 0, 100, true),
            append(1, 3, 2, 3000, false),
            append(0, 1, 0, 5000, false),
            Op::State { shard: 0, len: 20, sync: false },
            append(0, 1, 1, 9000, round % 2 == 0),
            Op::Trim { keep: 3, lag: 5 },
            Op::Sync,
            append(1, 1, 0, 10, false),
        ]);
    }
    script.extend([Op::Mark, Op::Reopen, append(0, 1, 0, 1, true)]);
    let mut disk = MemoryDisk::default();
    Model::default().run(&mut disk, &script);
    let operations = disk.operations;
    assert!(operations > 60, "the script is too short: {operations}");
    for fail_at in 1..=operations {
        for seed in 0..12 {
            crash_twice(&script, &script[..20], fail_at, seed);
        }
    }
}

// ---- damage ----------------------------------------------------------------------------

/// A journal of three segments with `tail` unmarked frames at its end.
fn small(tail: u64) -> MemoryDisk {
    let (mut journal, _) = open(MemoryDisk::default());
    journal.append(&[state(1, b"vote"), state(2, b"none")], true).unwrap();
    for index in 1..=12 {
        journal.append(&[entry(1, index, [7; 50]), entry(2, index, [8; 4])], true).unwrap();
    }
    journal.mark().unwrap();
    for index in 13..13 + tail {
        journal.append(&[entry(1, index, [9; 50])], true).unwrap();
    }
    assert_eq!(journal.disk_mut().numbers(), [1, 2, 3]);
    journal.into_disk()
}

#[test]
fn a_flipped_bit_below_the_mark_is_found_or_harmless() {
    let disk = small(0);
    let (_, whole) = open(disk.clone());
    let mut found = 0;
    for number in disk.numbers() {
        for at in 0..SEGMENT_BYTES as usize {
            // Frames here are short: what follows in their block is padding.
            if at % BLOCK_BYTES > 300 && at % 97 != 0 {
                continue;
            }
            let mut disk = disk.clone();
            disk.bytes_mut(number).unwrap()[at] ^= 1 << (at % 8);
            match Journal::open(disk.clone(), options()) {
                Err(JournalError::Rot(rot)) => {
                    found += 1;
                    assert_eq!(rot.path, disk.path(number));
                    assert_eq!(rot.offset as usize, at / BLOCK_BYTES * BLOCK_BYTES);
                }
                Err(error) => panic!("{error}"),
                Ok((_, recovered)) => assert_eq!(recovered.shards, whole.shards, "byte {at}"),
            }
        }
    }
    assert!(found > 2000, "{found}");
}

#[test]
fn rot_names_what_it_hit() {
    let mut disk = small(0);
    disk.bytes_mut(1).unwrap()[2 * BLOCK_BYTES + 85] ^= 1;
    let error = Journal::open(disk.clone(), options()).unwrap_err();
    let JournalError::Rot(rot) = &error else { panic!("{error}") };
    assert_eq!((rot.sequence, rot.offset), (3, 2 * BLOCK_BYTES as u64));
    let lost = |shard| Lost { shard, first: 1, last: 1 };
    assert_eq!(rot.lost, [lost(1), lost(2)]);
    assert!(error.to_string().contains("shard 2 index 1. Nothing was changed"), "{error}");

    // Even when the frame itself tells nothing, its neighbours do.
    let mut disk = small(0);
    disk.bytes_mut(1).unwrap()[3 * BLOCK_BYTES..4 * BLOCK_BYTES].fill(0);
    let error = Journal::open(disk, options()).unwrap_err();
    let JournalError::Rot(rot) = &error else { panic!("{error}") };
    assert_eq!(rot.lost, [1, 2].map(|shard| Lost { shard, first: 2, last: 2 }));
}

#[test]
fn a_newer_format_is_named_and_left_alone() {
    let mut disk = small(0);
    let header = &mut disk.bytes_mut(3).unwrap()[..80];
    header[6] = 2;
    let sum = quorate_base::hash::checksum(&header[..72]);
    header[72..].copy_from_slice(&sum.to_le_bytes());
    let error = Journal::open(disk, options()).unwrap_err();
    assert!(matches!(error, JournalError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
#[should_panic(expected = "the state of shard 3 has 4097 bytes")]
fn a_state_beyond_its_bound_is_refused() {
    let (mut journal, _) = open(MemoryDisk::default());
    let _ = journal.append(&[state(3, &[0; STATE_BYTES_MAX + 1])], true);
}

#[test]
fn a_missing_segment_is_rot() {
    for missing in [1, 2] {
        let mut disk = small(0);
        disk.replace(missing, None);
        let error = Journal::open(disk, options()).unwrap_err();
        assert!(matches!(error, JournalError::Rot(_)), "{error}");
    }
}

#[test]
fn damage_of_the_unmarked_end_is_cut_for_good() {
    let disk = small(1);
    let (mut journal, recovered) = open(disk.clone());
    let end = journal.tail as usize - BLOCK_BYTES;
    assert_eq!(indexes(&recovered, 1), (1..=13).collect::<Vec<_>>());
    assert_eq!(journal.disk_mut().numbers().last(), Some(&3));
    for at in end..end + 200 {
        let mut disk = disk.clone();
        disk.bytes_mut(3).unwrap()[at] ^= 0x10;
        let (mut journal, recovered) = open(disk);
        // Header 80, item head 5, payload 50; then padding.
        let kept = if at < end + 135 { 12 } else { 13 };
        assert_eq!(indexes(&recovered, 1), (1..=kept).collect::<Vec<_>>(), "byte {at}");
        journal.append(&[entry(1, 13, "new")], true).unwrap();
        let (_, recovered) = open(journal.into_disk());
        assert_eq!(recovered.shards[&1].entries[12].payload.as_slice(), b"new");
    }
}

#[test]
fn reordered_unsynced_frames_are_cut_from_the_first_gap() {
    let (mut journal, _) = open(MemoryDisk::default());
    journal.append(&[entry(1, 1, "a")], true).unwrap();
    for index in 2..=4 {
        journal.append(&[entry(1, index, "b")], false).unwrap();
    }
    let mut sectors = 0;
    // The frame of index 2 is lost, the two behind it are kept.
    let disk = journal.into_disk().crash(|| {
        sectors += 1;
        if sectors <= BLOCK_BYTES / SECTOR_BYTES { Fate::Lost } else { Fate::Kept }
    });
    let (mut journal, recovered) = open(disk);
    assert_eq!(indexes(&recovered, 1), [1]);
    assert_eq!(recovered.report.cut_bytes, 3 * BLOCK_BYTES as u64);
    journal.append(&[entry(1, 2, "c")], true).unwrap();
    let (_, recovered) = open(journal.into_disk());
    assert_eq!(indexes(&recovered, 1), [1, 2]);
}

// ---- room, trim and failure ------------------------------------------------------------

#[test]
fn a_full_disk_refuses_before_writing_and_trimming_helps() {
    let mut disk = MemoryDisk::default();
    disk.capacity_bytes = 2 * SEGMENT_BYTES;
    let (mut journal, _) = open(disk);
    let mut last = 0;
    let error = loop {
        match journal.append(&[entry(1, last + 1, "x")], true) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert_eq!(last, 10, "two segments of eight blocks, less start and reserve");
    assert!(!journal.prepare().unwrap());
    assert_eq!(journal.room().unwrap(), Room { prepared_bytes: 0, disk_free_bytes: 0 });
    journal.mark().unwrap();
    assert_eq!(journal.oldest().collect::<Vec<_>>(), [1]);

    let (mut journal, recovered) = open(journal.into_disk());
    assert_eq!(indexes(&recovered, 1), (1..=10).collect::<Vec<_>>());
    assert_eq!(journal.trim(&|_| 4).unwrap(), 0);
    assert_eq!(journal.trim(&|_| 5).unwrap(), SEGMENT_BYTES);
    assert!(journal.prepare().unwrap());
    assert_eq!(journal.room().unwrap().prepared_bytes, 5 * BLOCK_BYTES as u64);
    journal.append(&[entry(1, 11, "x")], true).unwrap();
    let (_, recovered) = open(journal.into_disk());
    assert_eq!(indexes(&recovered, 1), (6..=11).collect::<Vec<_>>());
}

#[test]
fn an_idle_shard_is_named_and_its_state_outlives_its_segment() {
    let (mut journal, _) = open(MemoryDisk::default());
    journal.append(&[state(9, b"idle"), entry(9, 1, "old")], true).unwrap();
    for index in 1..=12 {
        journal.append(&[entry(1, index, "busy")], false).unwrap();
    }
    let busy = |shard| if shard == 1 { 12 } else { 0 };
    assert_eq!(journal.trim(&busy).unwrap(), 0);
    assert_eq!(journal.oldest().collect::<Vec<_>>(), [9]);
    assert_eq!(journal.trim(&|_| Index::MAX).unwrap(), 2 * SEGMENT_BYTES);
    assert_eq!(journal.bytes(), SEGMENT_BYTES);
    let (_, recovered) = open(journal.into_disk());
    assert_eq!(recovered.shards[&9], RecoveredShard { state: b"idle".to_vec(), entries: vec![] });
}

#[test]
fn a_replaced_entry_pins_nothing() {
    let (mut journal, _) = open(MemoryDisk::default());
    for index in 1..=7 {
        journal.append(&[entry(1, index, "old")], false).unwrap();
    }
    journal.append(&[entry(1, 3, "new")], true).unwrap();
    assert_eq!(journal.trim(&|_| 1).unwrap(), 0);
    assert_eq!(journal.trim(&|_| 2).unwrap(), SEGMENT_BYTES);
}

#[test]
fn a_large_frame_gets_a_segment_of_its_own() {
    let (mut journal, _) = open(MemoryDisk::default());
    assert!(journal.prepare().unwrap());
    journal.append(&[entry(1, 1, "small")], true).unwrap();
    assert!(journal.prepare().unwrap());
    let large = vec![3; 5 * SEGMENT_BYTES as usize];
    journal.append(&[entry(1, 2, large.clone())], true).unwrap();
    journal.append(&[entry(1, 3, "small")], true).unwrap();
    let (mut journal, recovered) = open(journal.into_disk());
    assert_eq!(indexes(&recovered, 1), [1, 2, 3]);
    assert_eq!(*recovered.shards[&1].entries[1].payload, large);
    journal.trim(&|_| 3).unwrap();
    assert_eq!(journal.bytes(), SEGMENT_BYTES);
}

#[test]
fn the_first_failure_is_repeated_for_ever() {
    let (mut journal, _) = open(MemoryDisk::default());
    journal.append(&[entry(1, 1, "x")], false).unwrap();
    let disk = journal.disk_mut();
    disk.fail_at = disk.operations + 1;
    let first = journal.sync().unwrap_err().to_string();
    assert!(first.starts_with("syncing memory/0000000000000001.journal: the disk fails."));
    journal.disk_mut().fail_at = 0;
    assert_eq!(journal.append(&[], true).unwrap_err().to_string(), first);
    assert_eq!(journal.mark().unwrap_err().to_string(), first);
    assert_eq!(journal.prepare().unwrap_err().to_string(), first);
    assert_eq!(journal.room().unwrap_err().to_string(), first);
    assert_eq!(journal.trim(&|_| 0).unwrap_err().to_string(), first);
}

#[test]
fn an_empty_state_is_forgotten() {
    let (mut journal, _) = open(MemoryDisk::default());
    journal.append(&[state(1, b"x")], true).unwrap();
    journal.append(&[state(1, b"")], true).unwrap();
    let (_, recovered) = open(journal.into_disk());
    assert!(recovered.shards.is_empty());
}

#[test]
fn real_files_keep_what_was_synced() {
    let directory = std::env::temp_dir().join(format!("quorate-journal-{}", std::process::id()));
    for direct in [true, false] {
        let disk = FileDisk::open(&directory, direct).unwrap();
        let (mut journal, recovered) = Journal::open(disk, options()).unwrap();
        assert_eq!(recovered, Recovered::default());
        for index in 1..=40 {
            let records = [entry(1, index, vec![index as u8; 700]), state(2, &[index as u8])];
            journal.append(&records, index % 3 == 0).unwrap();
            if journal.wants_prepare() {
                assert!(journal.prepare().unwrap());
            }
            journal.trim(&|_| index / 2).unwrap();
        }
        journal.mark().unwrap();
        assert!(journal.room().unwrap().disk_free_bytes > 0);
        drop(journal);
        let disk = FileDisk::open(&directory, direct).unwrap();
        let (journal, recovered) = Journal::open(disk, options()).unwrap();
        let kept = indexes(&recovered, 1);
        assert_eq!(*kept.last().unwrap(), 40);
        assert!(kept[0] > 1 && kept[0] <= 21 && kept.len() as u64 == 41 - kept[0], "{kept:?}");
        assert_eq!(recovered.shards[&2].state, [40]);
        drop(journal);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
