use super::*;
use proptest::prelude::*;
use quorate_base::Prng;
use quorate_data::table::TableOp;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn small() -> StoreOptions {
    StoreOptions { cache_bytes: 256 << 10, open_files_max: 8 }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, small()).unwrap()
}

fn contents(table: &dyn Table) -> Result<Model, quorate_data::table::TableError> {
    let mut found = Model::new();
    let mut last: Option<Vec<u8>> = None;
    table.scan(b"", None, &mut |key, value| {
        assert!(last.as_deref().is_none_or(|last| last < key), "a scan left key order");
        last = Some(key.to_vec());
        found.insert(key.to_vec(), value.to_vec());
        true
    })?;
    Ok(found)
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> TableOp {
    TableOp::Put(key.as_ref().to_vec(), value.as_ref().to_vec())
}

fn flush(shard: ShardId, applied: u64, clear: bool, ops: Vec<TableOp>) -> Flush {
    Flush {
        shard,
        mark: Mark { applied, term: applied / 3, keys: applied * 7 },
        clear,
        durable: false,
        ops,
    }
}

fn apply(model: &mut Model, flush: &Flush) {
    if flush.clear {
        model.clear();
    }
    for op in &flush.ops {
        match op {
            TableOp::Put(key, value) => drop(model.insert(key.clone(), value.clone())),
            TableOp::Delete(key) => drop(model.remove(key)),
            TableOp::DeletePrefix(prefix) => model.retain(|key, _| !key.starts_with(prefix)),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { clear: bool, puts: Vec<(u8, u16)>, deletes: Vec<u8>, prefix: Option<u8> },
    Persist,
    Maintain,
    Reopen,
    Crash,
    Drop,
    Check { from: u8, to: Option<u8> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (
        prop::bool::weighted(0.08),
        prop::collection::vec((any::<u8>(), any::<u16>()), 0..30),
        prop::collection::vec(any::<u8>(), 0..10),
        prop::option::weighted(0.3, 0u8..16),
    );
    let write = write.prop_map(|(clear, puts, deletes, prefix)| Step::Write {
        clear,
        puts,
        deletes,
        prefix,
    });
    let check = (any::<u8>(), any::<Option<u8>>()).prop_map(|(from, to)| Step::Check { from, to });
    let step = prop_oneof![
        10 => write, 5 => Just(Step::Persist), 4 => Just(Step::Maintain), 1 => Just(Step::Reopen),
        1 => Just(Step::Crash), 1 => check, 1 => Just(Step::Drop),
    ];
    prop::collection::vec(step, 1..60)
}

/// Sixteen groups of keys that share a prefix; every eighth key is too long for the tree.
fn key_of(n: u8) -> Vec<u8> {
    let mut key = vec![n >> 4, 0];
    if n % 8 == 7 {
        key.extend(std::iter::repeat_n(b'x', keys::KEY_MAX));
    }
    key.push(n);
    key
}

fn ops_of(puts: &[(u8, u16)], deletes: &[u8], prefix: Option<u8>) -> Vec<TableOp> {
    let mut ops = BTreeMap::new();
    for &n in deletes {
        ops.insert(n, TableOp::Delete(key_of(n)));
    }
    for &(n, value) in puts.iter().filter(|(n, _)| Some(n >> 4) != prefix) {
        ops.insert(n, put(key_of(n), vec![value as u8; usize::from(value) % 700]));
    }
    let ops = ops.into_values();
    ops.chain(prefix.map(|p| TableOp::DeletePrefix(vec![p, 0]))).collect()
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (mut model, mut mark) = (Model::new(), Mark::default());
    let (mut durable, mut durable_mark) = (Model::new(), Mark::default());
    for (i, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write { clear, puts, deletes, prefix } => {
                let flush = flush(3, i as u64 + 1, clear, ops_of(&puts, &deletes, prefix));
                apply(&mut model, &flush);
                mark = flush.mark;
                store.write(flush).unwrap();
                assert!(store.unpersisted_bytes(3) > 0);
            }
            Step::Persist => {
                assert_eq!(store.persist(3).unwrap(), mark);
                assert_eq!(store.unpersisted_bytes(3), 0);
                (durable, durable_mark) = (model.clone(), mark);
            }
            Step::Maintain => drop(store.maintain(3).unwrap()),
            Step::Reopen => {
                store.persist(3).unwrap();
                (durable, durable_mark) = (model.clone(), mark);
                drop(store);
                store = open(dir.path());
            }
            Step::Crash => {
                // Nothing is written on drop, so this is what a kill leaves.
                drop(store);
                store = open(dir.path());
                (model, mark) = (durable.clone(), durable_mark);
            }
            Step::Drop => {
                store.drop_shard(3).unwrap();
                (model, mark) = (Model::new(), Mark::default());
                (durable, durable_mark) = (Model::new(), Mark::default());
            }
            Step::Check { from, to } => {
                let (from, to) = (key_of(from), to.map(key_of));
                let mut found = Vec::new();
                let table = store.table(3);
                table
                    .scan(&from, to.as_deref(), &mut |key, value| {
                        found.push((key.to_vec(), value.to_vec()));
                        true
                    })
                    .unwrap();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| **key >= from && to.as_ref().is_none_or(|to| *key < to))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(found, expected);
            }
        }
        let table = store.table(3);
        assert_eq!(table.mark(), mark);
        assert!(contents(&*table).unwrap() == model, "contents differ after step {i}");
        for n in 0..=255 {
            assert!(table.get(&key_of(n)).unwrap() == model.get(&key_of(n)).cloned(), "key {n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_history_equals_the_model(steps in steps()) {
        run(steps);
    }
}

#[test]
fn a_scan_stops_when_told_and_honours_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = store.table(1);
    store.write(flush(1, 1, false, (0..100u8).map(|n| put([n], [n])).collect())).unwrap();
    let scan = |from: &[u8], to: Option<&[u8]>, limit: usize| {
        let mut found = Vec::new();
        table
            .scan(from, to, &mut |key, _| {
                found.push(key[0]);
                found.len() < limit
            })
            .unwrap();
        found
    };
    assert_eq!(scan(&[10], Some(&[13]), 99), [10, 11, 12]);
    assert_eq!(scan(&[10, 0], Some(&[13, 0]), 99), [11, 12, 13]);
    assert_eq!(scan(&[98], None, 99), [98, 99]);
    assert_eq!(scan(b"", None, 2), [0, 1]);
    assert_eq!(scan(&[13], Some(&[10]), 99), [0u8; 0]);
    assert_eq!(scan(&[0xff], None, 99), [0u8; 0]);
    assert_eq!(scan(&[98], Some(&[0xff, 0xff]), 99), [98, 99]);
}

#[test]
fn a_prefix_of_ff_bytes_and_a_cleared_shard() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let table = store.table(1);
    let ops = vec![put([1, 255], "a"), put([1, 255, 255], "b"), put([2], "c")];
    store.write(flush(1, 1, false, ops)).unwrap();
    store.persist(1).unwrap();
    store.write(flush(1, 2, false, vec![TableOp::DeletePrefix(vec![1, 255])])).unwrap();
    assert_eq!(contents(&*table).unwrap().len(), 1);
    store.write(flush(1, 3, true, vec![])).unwrap();
    assert_eq!((contents(&*table).unwrap().len(), table.mark().applied), (0, 3));
    drop(store);
    let store = open(dir.path());
    assert_eq!(contents(&*store.table(1)).unwrap().len(), 3, "the clear was not persisted");
    store.write(flush(1, 3, true, vec![])).unwrap();
    store.persist(1).unwrap();
    assert!(store.maintain(1).unwrap(), "the old generation goes");
    drop(store);
    let store = open(dir.path());
    assert_eq!(contents(&*store.table(1)).unwrap().len(), 0);
    assert_eq!(store.table(1).mark().applied, 3);
}

#[test]
fn a_scan_under_way_survives_clear_compaction_and_drop() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for round in 0..6u64 {
        let ops = (0..500u16).map(|n| put(n.to_be_bytes(), vec![round as u8; 200])).collect();
        store.write(flush(1, round + 1, false, ops)).unwrap();
        store.persist(1).unwrap();
    }
    let mut seen = 0;
    store
        .table(1)
        .scan(b"", None, &mut |_, value| {
            assert_eq!(value, [5; 200]);
            if seen == 100 {
                while store.maintain(1).unwrap() {}
                store.write(flush(1, 9, true, vec![put("z", "z")])).unwrap();
                store.persist(1).unwrap();
                store.maintain(1).unwrap();
            }
            if seen == 200 {
                store.drop_shard(1).unwrap();
                assert_eq!(store.table(1).mark(), Mark::default());
            }
            seen += 1;
            true
        })
        .unwrap();
    assert_eq!(seen, 500);
    assert!(store.maintain(1).unwrap());
    assert!(!store.maintain(1).unwrap());
    let left = files::list(&dir.path().join("1")).unwrap();
    assert!(left.is_empty(), "{left:?}");
    drop(store);
    assert_eq!(open(dir.path()).shards(), [0u32; 0]);
}

#[test]
fn a_value_of_100_megabytes_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut prng = Prng::new(1);
    let mut value: Vec<u8> = Vec::with_capacity(100 << 20);
    while value.len() < 100 << 20 {
        value.extend(prng.next_u64().to_le_bytes());
    }
    store
        .write(flush(1, 1, false, vec![put("a", "1"), put("big", &value), put("c", "3")]))
        .unwrap();
    assert!(store.unpersisted_bytes(1) > 100 << 20);
    store.persist(1).unwrap();
    while store.maintain(1).unwrap() {}
    drop(store);
    let store = open(dir.path());
    let table = store.table(1);
    assert!(table.get(b"big").unwrap() == Some(value));
    assert_eq!(table.get(b"c").unwrap().unwrap(), b"3");
    assert!(store.stats().cache_bytes < 1 << 20, "the value stayed in the cache");
}

#[test]
fn a_reader_beside_the_writer_sees_whole_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (table, done) = (store.table(1), &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let before = table.mark().applied;
                    let mut values = Vec::new();
                    table
                        .scan(b"", None, &mut |_, value| {
                            values.push(u64::from_le_bytes(value[..8].try_into().unwrap()));
                            true
                        })
                        .unwrap();
                    let after = table.mark().applied;
                    assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "a torn flush");
                    if let Some(&value) = values.first() {
                        assert_eq!(values.len(), 300);
                        assert!(before <= value && value <= after, "{before} {value} {after}");
                        assert!(last <= value, "time ran backwards");
                        last = value;
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.maintain(1).unwrap();
            }
        });
        for round in 1..400u64 {
            let value = [&round.to_le_bytes()[..], &[7; 100]].concat();
            let ops = (0..300u16).map(|n| put(n.to_be_bytes(), &value)).collect();
            store.write(flush(1, round, round.is_multiple_of(50), ops)).unwrap();
            if round % 5 == 0 {
                store.persist(1).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Files below `dir`.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn a_flipped_byte_is_an_error_and_never_a_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    {
        let store = open(dir.path());
        for round in 0..7u64 {
            let ops =
                (0..60u16).map(|n| put((n * 7 + round as u16).to_be_bytes(), [round as u8; 40]));
            let mut ops: Vec<_> = ops.collect();
            ops.push(TableOp::Delete(vec![0, 0]));
            let flush = flush(1, round + 1, false, ops);
            apply(&mut model, &flush);
            store.write(flush).unwrap();
            store.persist(1).unwrap();
            if round == 4 {
                while store.maintain(1).unwrap() {}
            }
        }
    }
    let (mut errors, mut harmless) = (0, 0);
    for path in files_of(dir.path()) {
        let whole = std::fs::read(&path).unwrap();
        // A sample of the blocks, and every byte of the structures at the end.
        let (sampled, every) = (0..whole.len(), whole.len().saturating_sub(600)..whole.len());
        for at in sampled.step_by(13).chain(every) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            match read_all(dir.path()) {
                Err(_) => errors += 1,
                Ok((mark, found, gets)) => {
                    assert!(found == model, "{} byte {at}: a scan lied", path.display());
                    assert!(gets == model, "{} byte {at}: a get lied", path.display());
                    assert_eq!(mark.applied, 7, "{} byte {at}", path.display());
                    harmless += 1;
                }
            }
            // Opening may have removed what it took for leftovers.
            assert!(path.exists() || path.ends_with("pointer"), "{} is gone", path.display());
        }
        std::fs::write(&path, &whole).unwrap();
    }
    println!("{errors} flips were errors, {harmless} were harmless");
    assert!(errors > harmless);
}

type Everything = (Mark, Model, Model);

fn read_all(dir: &Path) -> Result<Everything, String> {
    let store = Store::open(dir, small()).map_err(|e| e.to_string())?;
    let table = store.table(1);
    let found = contents(&*table).map_err(|e| e.to_string())?;
    let mut gets = Model::new();
    for n in 0..500u16 {
        let key = n.to_be_bytes();
        if let Some(value) = table.get(&key).map_err(|e| e.to_string())? {
            gets.insert(key.to_vec(), value);
        }
    }
    Ok((table.mark(), found, gets))
}

#[test]
fn a_truncated_or_missing_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        store.write(flush(1, 1, false, vec![put("a", "b")])).unwrap();
        store.persist(1).unwrap();
    }
    for path in files_of(dir.path()) {
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(read_all(dir.path()).is_err(), "{} was cut", path.display());
        // Without its pointer a shard is a leftover by definition.
        if !path.ends_with("pointer") {
            std::fs::remove_file(&path).unwrap();
            let error = read_all(dir.path()).unwrap_err();
            assert!(error.contains("damaged"), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(read_all(dir.path()).unwrap().1.len(), 1);
    }
}

#[test]
fn the_first_failure_ends_writing_but_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(flush(1, 1, false, vec![put("a", "1")])).unwrap();
    std::fs::rename(dir.path().join("1/1/tables"), dir.path().join("away")).unwrap();
    assert!(store.persist(1).is_err());
    std::fs::rename(dir.path().join("away"), dir.path().join("1/1/tables")).unwrap();
    for result in [store.persist(1).map(drop), store.write(flush(1, 2, false, vec![]))] {
        assert!(matches!(result, Err(StoreError::Stopped { .. })), "{result:?}");
    }
    assert_eq!(store.table(1).get(b"a").unwrap().unwrap(), b"1");
    store.write(flush(2, 1, false, vec![])).unwrap();
    assert_eq!(store.persist(2).unwrap().applied, 1, "other shards go on");
    drop(store);
    assert_eq!(open(dir.path()).shards(), [2]);
}

const CHILD_DIR: &str = "QUORATE_STORE_TEST_CHILD";

/// What flush `round` of the child holds: some puts, some deletes, now and then a clear.
fn child_flush(round: u64) -> Flush {
    let mut prng = Prng::new(round);
    let mut ops = BTreeMap::new();
    for _ in 0..prng.below(200) {
        let key = vec![prng.below(4) as u8, prng.below(256) as u8];
        let op = if prng.below(4) == 0 {
            TableOp::Delete(key.clone())
        } else {
            put(&key, vec![round as u8; prng.below(300) as usize])
        };
        ops.insert(key, op);
    }
    flush(1, round, round.is_multiple_of(37), ops.into_values().collect())
}

/// Not a test by itself: the process that `a_killed_process_…` kills.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let first = store.table(1).mark().applied + 1;
    for round in first.. {
        store.write(child_flush(round)).unwrap();
        if round % 3 == 0 {
            println!("persisted {}", store.persist(1).unwrap().applied);
        }
        store.maintain(1).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_a_persisted_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut prng = Prng::new(5);
    let (mut model, mut at) = (Model::new(), 0);
    for _ in 0..15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stop_after = prng.below(40);
        let mut promised = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..stop_after {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, mark)) = line.split_once("persisted ") {
                promised = mark.parse().unwrap();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some((_, mark)) = line.split_once("persisted ") {
                promised = mark.parse().unwrap_or(promised);
            }
        }
        let store = open(dir.path());
        let table = store.table(1);
        let mark = table.mark();
        assert!(mark.applied >= promised, "{promised} was promised, {mark:?} is there");
        assert!(mark.applied.is_multiple_of(3) && mark.applied >= at);
        while at < mark.applied {
            at += 1;
            apply(&mut model, &child_flush(at));
        }
        assert_eq!(mark, child_mark(at));
        assert!(contents(&*table).unwrap() == model, "not the state of mark {at}");
    }
    assert!(at > 100, "the children got nowhere");
}

fn child_mark(at: u64) -> Mark {
    if at == 0 { Mark::default() } else { child_flush(at).mark }
}

#[test]
fn a_removed_prefix_goes_piece_by_piece_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let ops = (0..1000u16).map(|n| put([&[5, 0][..], &n.to_be_bytes()].concat(), "old"));
    store.write(flush(1, 1, false, ops.chain([put([4], "a"), put([6], "b")]).collect())).unwrap();
    store.persist(1).unwrap();
    let before = store.unpersisted_bytes(1);
    store.write(flush(1, 2, false, vec![TableOp::DeletePrefix(vec![5, 0])])).unwrap();
    assert!(store.unpersisted_bytes(1) - before < 2000, "a tombstone for each pair was written");
    store.write(flush(1, 3, false, vec![put([5, 0, 0, 9], "new")])).unwrap();
    store.persist(1).unwrap();
    let expected: Model = [(vec![4], "a"), (vec![5, 0, 0, 9], "new"), (vec![6], "b")]
        .map(|(key, value)| (key, value.as_bytes().to_vec()))
        .into();
    for round in 0..2000u32 {
        let table = store.table(1);
        assert_eq!(contents(&*table).unwrap(), expected);
        assert_eq!(table.get(&[5, 0, 0, 8]).unwrap(), None);
        assert_eq!(table.get(&[5, 0, 0, 9]).unwrap().unwrap(), b"new");
        drop(table);
        let changed = store.maintain(1).unwrap();
        if round.is_multiple_of(97) {
            store.persist(1).unwrap();
            drop(store);
            store = open(dir.path());
        } else if !changed {
            return;
        }
    }
    panic!("maintenance never ends");
}

#[test]
fn compactions_bound_the_runs_and_the_room_and_keep_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (mut model, mut prng) = (Model::new(), Prng::new(3));
    let (mut runs_most, mut room_most) = (0, 0);
    let key = |n: u64| (n as u16).to_be_bytes().to_vec();
    for round in 0..150u64 {
        // The first fills the base; the others change little.
        let count = if round == 0 { 3000 } else { 60 };
        let mut ops = BTreeMap::new();
        for i in 0..count {
            let n = if round == 0 { i } else { prng.below(3000) };
            let delete = round > 0 && prng.below(4) == 0;
            let op = if delete {
                TableOp::Delete(key(n))
            } else {
                put(key(n), vec![round as u8; 40 + prng.below(60) as usize])
            };
            ops.insert(n, op);
        }
        let flush = flush(1, round + 1, false, ops.into_values().collect());
        apply(&mut model, &flush);
        store.write(flush).unwrap();
        store.persist(1).unwrap();
        if round % 20 == 7 {
            drop(store);
            store = open(dir.path());
        }
        while store.maintain(1).unwrap() {}
        let stats = store.stats();
        runs_most = runs_most.max(stats.runs_max);
        room_most = room_most.max(stats.disk_bytes);
        assert!(contents(&*store.table(1)).unwrap() == model, "after round {round}");
    }
    let between = 5;
    assert!(runs_most > shard::RUNS_MERGE + 1, "no level between was used");
    assert!(runs_most <= shard::RUNS_MERGE + between + 1, "{runs_most} runs");
    let live: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(room_most < 4 * live as u64, "{room_most} bytes on disk for {live}");
    for n in 0..3000 {
        assert!(store.table(1).get(&key(n)).unwrap() == model.get(&key(n)).cloned(), "key {n}");
    }
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None, with a line that says so, where mounting is not permitted.
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("SKIPPED: a small disk cannot be mounted here (needs root)");
        None
    }

    /// Takes room until about so many bytes are left.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while files::free_bytes(self.0.path()).unwrap() > left {
            if std::io::Write::write_all(&mut file, &[1; 64 << 10]).is_err() {
                break;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A persisted run of about a megabyte that shares its keys with the others.
fn add_run(store: &Store, model: &mut Model, n: u64) -> Result<Mark, StoreError> {
    let ops = (0..64u64).map(|key| put((key + n).to_be_bytes(), vec![n as u8; 16 << 10])).collect();
    let flush = flush(0, n, false, ops);
    apply(model, &flush);
    store.write(flush)?;
    store.persist(0)
}

#[test]
fn what_finds_no_room_leaves_everything_as_it_was() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let mut model = Model::new();
    for n in 1..=4 {
        assert_eq!(store.maintain_bytes(0), 0, "there is nothing to compact");
        add_run(&store, &mut model, n).unwrap();
    }
    let bytes = store.maintain_bytes(0);
    let written = bytes - COMPACT_RESERVE_BYTES;
    assert!((4 << 20..5 << 20).contains(&written), "{written} for four runs of a megabyte");

    // It runs out of room at different points; nothing is left of what it wrote until then.
    let tables = || files::table_files(&dir.join("0/1")).unwrap();
    let before = tables();
    for left in [0, 100 << 10, 500 << 10, 900 << 10] {
        let ballast = disk.fill(left);
        let free = store.free_bytes().unwrap();
        let result = store.maintain(0);
        assert!(matches!(result, Err(StoreError::Full { .. })), "{left}: {result:?}");
        assert_eq!(tables(), before);
        assert!(store.free_bytes().unwrap() >= free, "{left}");
        assert!(contents(&*store.table(0)).unwrap() == model);
        std::fs::remove_file(ballast).unwrap();
    }

    // The same for a persist.
    let ballast = disk.fill(500 << 10);
    let error = add_run(&store, &mut model, 5).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(tables(), before);
    assert!(contents(&*store.table(0)).unwrap() == model, "what was written is visible");
    assert!(store.unpersisted_bytes(0) > 0);
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(store.persist(0).unwrap().applied, 5);

    // Writing goes on, and so does compacting once there is room.
    let ballast = disk.fill(900 << 10);
    assert!(store.maintain(0).is_err());
    let small = flush(0, 6, false, vec![put("small", "value")]);
    apply(&mut model, &small);
    store.write(small).unwrap();
    store.persist(0).unwrap();
    drop(store);
    let store = open(&dir);
    assert!(contents(&*store.table(0)).unwrap() == model);
    assert_eq!(store.table(0).mark().applied, 6);
    std::fs::remove_file(ballast).unwrap();
    assert!(store.maintain(0).unwrap());
    assert_eq!(store.maintain_bytes(0), 0);
    assert!(contents(&*store.table(0)).unwrap() == model);
    drop(store);
    assert!(contents(&*open(&dir).table(0)).unwrap() == model);
}

#[test]
fn persists_go_on_without_compactions_until_there_are_too_many_runs() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let dir = disk.0.path().join("store");
    let store = open(&dir);
    let mut model = Model::new();
    // Less is free than what a compaction wants to leave.
    let ballast = disk.fill(30 << 20);
    let mut runs = 0;
    let error = loop {
        match add_run(&store, &mut model, runs + 1) {
            Ok(_) => runs += 1,
            Err(error) => break error,
        }
        assert!(runs < 20, "compactions happen, or runs have no bound");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(runs > 6, "{runs}");
    assert!(contents(&*store.table(0)).unwrap() == model, "what was written is visible");
    assert!(store.unpersisted_bytes(0) > 0);
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(store.persist(0).unwrap().applied, runs + 1);
    drop(store);
    assert!(contents(&*open(&dir).table(0)).unwrap() == model);
}

#[test]
fn removing_what_was_dropped_needs_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = Model::new();
    for n in 1..=4 {
        add_run(&store, &mut model, n).unwrap();
    }
    assert!(store.maintain_bytes(0) > 0);
    store.write(flush(0, 5, true, Vec::new())).unwrap();
    store.persist(0).unwrap();
    assert_eq!(store.maintain_bytes(0), 0);
    assert!(store.maintain(0).unwrap());
    assert_eq!(files::list(&dir.path().join("0")).unwrap().len(), 2, "the pointer and one tree");
}
