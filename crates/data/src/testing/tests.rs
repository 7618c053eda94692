//! The store path below the commands, against a plain model.
//!
//! Three databases see the same commands. The *plain* one never flushes: all of it stays in
//! memory. The *leader* executes too, while it flushes, forgets, loads, and is reopened from its
//! tables and the log at random. The *follower* replays the leader's batches and does the same at
//! other times. Replies and batches must be the same, and at the end memory and tables.

use super::*;
use crate::effects::ReplayError;
use proptest::prelude::*;
use quorate_base::Index;

const SHARDS: u32 = 2;

/// Command lines by the type they mostly meet, for which the first letter of their keys stands.
/// In them stand `k` for a key, `f` for a field or member, `v` for a value, `n` for a number, `t`
/// for a time in milliseconds, `many` for more numbers than a chunk of elements holds. What a failing case shrinks to comes first.
#[rustfmt::skip]
const COMMANDS: &[(&str, &[&str])] = &[
    ("", &["DEL k", "DEL k k k", "RENAME k k", "RENAMENX k k", "COPY k k REPLACE", "EXISTS k k", "TYPE k",
        "OBJECT ENCODING k", "KEYS *", "SCAN 0 COUNT 1000", "DBSIZE", "PEXPIRE k t", "PEXPIRE k t GT",
        "PEXPIREAT k 1", "PERSIST k", "PTTL k", "SORT k ALPHA STORE k", "SORT k BY nosort GET # GET *->f", "FLUSHALL"]),
    ("s", &["SET k v", "SET k v PX t", "SET k v KEEPTTL", "SET k v XX GET", "SET k n", "GET k", "GETDEL k", "GETEX k PX t",
        "APPEND k v", "SETRANGE k 5 v", "INCR k", "INCRBYFLOAT k 0.1", "MSET k v k v", "MSETNX k v k v", "SETBIT k 9 1",
        "BITOP OR k k k", "BITFIELD k SET u8 4 200", "PFADD k v v", "PFMERGE k k", "PFCOUNT k k", "LCS k k"]),
    ("h", &["HSET k f v", "HSET k f v f v f v", "HDEL k f", "HDEL k f f f", "HINCRBY k f n", "HINCRBYFLOAT k f n",
        "HSETNX k f v", "HGETALL k", "HRANDFIELD k 2", "HSCAN k 0", "HSET k many", "HDEL k many"]),
    ("m", &["SADD k f", "SADD k f f f", "SADD k n n", "SREM k f f", "SPOP k", "SPOP k 2", "SMOVE k k f",
        "SUNIONSTORE k k k", "SINTERSTORE k k k", "SDIFFSTORE k k k", "SMEMBERS k", "SADD k many", "SREM k many"]),
    ("l", &["RPUSH k v v", "LPUSH k v", "LPOP k", "RPOP k 2", "LINSERT k BEFORE v v", "LSET k 0 v", "LREM k 0 v",
        "LTRIM k 1 2", "LMOVE k k LEFT RIGHT", "LRANGE k 0 -1", "RPOPLPUSH k k", "LMPOP 2 k k LEFT COUNT 2",
        "RPUSH k many", "LPUSH k many", "LPOP k 100"]),
    ("z", &["ZADD k n f", "ZADD k n f n f", "ZREM k f", "ZINCRBY k n f", "ZPOPMIN k", "ZPOPMAX k 2", "ZRANGE k 0 -1 WITHSCORES",
        "ZUNIONSTORE k 2 k k", "ZINTERSTORE k 2 k k", "ZDIFFSTORE k 2 k k", "ZRANGESTORE k k 0 1", "ZREMRANGEBYRANK k 0 0",
        "ZREMRANGEBYSCORE k 0 1", "GEOADD k 13.3 38.1 f", "GEOSEARCHSTORE k k FROMMEMBER f BYRADIUS 100 km",
        "ZADD k many", "ZREM k many"]),
    ("x", &["XADD k * f v", "XADD k MAXLEN 2 * f v f v", "XADD k NOMKSTREAM * f v", "XDEL k 1-1", "XTRIM k MAXLEN 1",
        "XRANGE k - +", "XGROUP CREATE k f 0 MKSTREAM", "XGROUP DESTROY k f", "XREADGROUP GROUP f f COUNT 2 STREAMS k >",
        "XPENDING k f", "XACK k f 1-1", "XAUTOCLAIM k f f 0 0", "XSETID k 9999999999999-0", "XINFO STREAM k FULL"]),
];

const MANY: usize = 140;
const FIELDS: &[&str] = &["f", "g", "h", "1", ""];
const VALUES: &[&str] = &["v", "w", "1", "", "a value that is too long to be stored in place"];
const NUMBERS: &[&str] = &["0", "1", "-2", "2.5"];
const TIMES: &[&str] = &["1", "20", "300"];

/// A line of [`COMMANDS`] with words for its letters.
fn command(family: usize, line: usize, picks: [u8; 6]) -> Vec<Vec<u8>> {
    let (letter, lines) = COMMANDS[family % COMMANDS.len()];
    let mut picks = picks.into_iter().map(usize::from).cycle();
    let mut pick = || picks.next().expect("picks go round");
    let mut one_of = |words: &[&str]| words[pick() % words.len()].to_owned();
    let mut word = |word: &str| match word {
        "k" if letter.is_empty() => {
            let letter = one_of(&["h", "s", "m", "l", "z", "x"]);
            match one_of(&["1", "{}", "3"]).as_str() {
                "{}" => format!("{letter}{{{letter}1}}"),
                digit => format!("{letter}{digit}"),
            }
        }
        // The two that share a slot, another, and one for all types.
        "k" => one_of(&[
            &format!("{letter}1"),
            &format!("{letter}{{{letter}1}}"),
            &format!("{letter}3"),
            "h1",
        ]),
        "f" => one_of(FIELDS),
        "v" => one_of(VALUES),
        "n" => one_of(NUMBERS),
        "t" => one_of(TIMES),
        _ => word.to_owned(),
    };
    let many = (0..MANY).map(|n| (n * 7 % 500).to_string().into_bytes());
    let words = lines[line % lines.len()].split(' ');
    words
        .flat_map(|w| match w {
            "many" => many.clone().collect(),
            _ => vec![word(w).into_bytes()],
        })
        .collect()
}

/// A command: family and line of [`COMMANDS`], and picks for its words.
type Line = (usize, usize, [u8; 6]);

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A command, or a transaction of several.
    Commands(Vec<Line>),
    /// Time passes, ms.
    Wait(u64),
    /// The leader removes expired keys.
    ExpireDue(ShardId),
    /// Something below the commands, on the leader or the follower.
    Below(bool, ShardId, Below),
}

#[derive(Clone, Copy, Debug)]
enum Below {
    Cut,
    /// Begins a cut, which goes on with [`Below::CutSome`].
    BeginCut,
    CutSome,
    Apply,
    Flushed,
    /// The three in a row, and then [`Below::Evict`].
    FlushAndEvict,
    Evict,
    Load(usize),
    /// The process dies; the table and the log are what is left.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let line = (0..COMMANDS.len(), 0usize..32, any::<[u8; 6]>());
    let below = prop_oneof![
        1 => Just(Below::Cut),
        3 => Just(Below::BeginCut),
        2 => Just(Below::CutSome),
        1 => Just(Below::Apply),
        1 => Just(Below::Flushed),
        3 => Just(Below::FlushAndEvict),
        1 => Just(Below::Evict),
        1 => (1usize..6).prop_map(Below::Load),
        1 => Just(Below::Reopen),
    ];
    prop_oneof![
        14 => line.clone().prop_map(|line| Step::Commands(vec![line])),
        3 => prop::collection::vec(line, 2..5).prop_map(Step::Commands),
        1 => (1u64..100).prop_map(Step::Wait),
        1 => (0..SHARDS).prop_map(Step::ExpireDue),
        6 => (any::<bool>(), 0..SHARDS, below).prop_map(|(l, s, b)| Step::Below(l, s, b)),
    ]
}

/// Tables, the log since the beginning, and flushes on their way, by shard.
struct Disk {
    tables: Vec<MemoryTable>,
    log: Vec<Vec<(Index, Vec<u8>)>>,
    /// A flush that was cut, and whether the table has it already.
    flushes: Vec<Option<(Flush, bool)>>,
    /// What the table must hold after the flush under way, if that is checked.
    begun: Vec<Option<Dump>>,
}

impl Disk {
    fn new(tables: Vec<MemoryTable>) -> Self {
        let log = tables.iter().map(|_| Vec::new()).collect();
        let flushes = tables.iter().map(|_| None).collect();
        let begun = tables.iter().map(|_| None).collect();
        Self { tables, log, flushes, begun }
    }

    fn append(&mut self, index: Index, batches: &[Vec<u8>]) {
        for (log, batch) in self.log.iter_mut().zip(batches) {
            if !batch.is_empty() {
                log.push((index, batch.clone()));
            }
        }
    }

    /// Does `step` to `db`. A flush must leave in the table what `model` holds when it is begun.
    fn step(
        &mut self,
        db: &mut Db,
        mut model: Option<&mut Db>,
        shard: ShardId,
        applied: Index,
        step: Below,
    ) {
        let at = shard as usize;
        if matches!(step, Below::Cut | Below::BeginCut) && !db.shard(shard).is_flushing() {
            self.begun[at] = model.as_mut().map(|model| dump(model.shard(shard)));
        }
        match step {
            Below::BeginCut if !db.shard(shard).is_flushing() => {
                db.shard(shard).begin_cut(applied, 1);
            }
            Below::CutSome => {
                if let Some(flush) = db.shard(shard).cut_some(2) {
                    self.flushes[at] = Some((flush, false));
                }
            }
            Below::Cut if db.shard(shard).is_cutting() => {
                let flush = db.shard(shard).cut_some(usize::MAX).expect("no limit");
                self.flushes[at] = Some((flush, false));
            }
            Below::Cut if self.flushes[at].is_none() => {
                self.flushes[at] = Some((db.shard(shard).cut(applied, 1), false));
            }
            Below::Apply => {
                if let Some((flush, in_table)) = &mut self.flushes[at]
                    && !*in_table
                {
                    check_flush(flush);
                    self.tables[at].apply(flush);
                    *in_table = true;
                    if let Some(want) = self.begun[at].take() {
                        let table = Box::new(self.tables[at].clone());
                        let got = dump(&mut Keyspace::new(shard, SEED, table));
                        assert_eq!(got, want, "the table as of index {}", flush.mark.applied);
                    }
                }
            }
            Below::Flushed if matches!(self.flushes[at], Some((_, true))) => {
                let (flush, _) = self.flushes[at].take().expect("just seen");
                db.shard(shard).flushed(flush.mark);
            }
            Below::FlushAndEvict => {
                for step in [Below::Cut, Below::Apply, Below::Flushed, Below::Evict] {
                    self.step(db, model.as_deref_mut(), shard, applied, step);
                }
            }
            Below::Evict => db.shard(shard).evict(),
            Below::Load(limit) => {
                db.shard(shard).load_some(limit).expect("the table can be read");
            }
            Below::Reopen => {
                self.flushes[at] = None;
                let table = Box::new(self.tables[at].clone());
                let mut keyspace = Keyspace::new(shard, SEED, table);
                let durable = keyspace.durable().applied;
                for (index, batch) in self.log[at].iter().filter(|(index, _)| *index > durable) {
                    keyspace.replay(*index, batch).expect("a batch can be replayed");
                }
                db.remove(shard);
                db.insert(Box::new(keyspace));
            }
            Below::Cut | Below::BeginCut | Below::Flushed => {}
        }
    }

    /// Flushes everything; the pairs of all tables.
    fn finish(&mut self, db: &mut Db, applied: Index) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        for shard in 0..self.tables.len() as u32 {
            for _ in 0..2 {
                for step in [Below::Apply, Below::Flushed, Below::Cut, Below::Apply, Below::Flushed]
                {
                    self.step(db, None, shard, applied, step);
                }
            }
        }
        self.tables.iter().map(MemoryTable::pairs).collect()
    }
}

/// What [`Flush::ops`] promises.
fn check_flush(flush: &Flush) {
    let mut seen = BTreeSet::new();
    for op in &flush.ops {
        let (TableOp::Put(key, _) | TableOp::Delete(key)) = op else { continue };
        assert!(seen.insert(key), "the flush changes {key:?} twice");
        let under = |op: &TableOp| matches!(op, TableOp::DeletePrefix(p) if key.starts_with(p));
        let put = matches!(op, TableOp::Put(..));
        assert!(!put || !flush.ops.iter().any(under), "the flush puts and deletes {key:?}");
    }
}

fn run_steps(steps: &[Step]) {
    let mut plain = Harness::new(SHARDS);
    let mut leader = Harness::new(SHARDS);
    let mut leader_disk = Disk::new(leader.tables.clone());
    let mut follower_disk = Disk::new((0..SHARDS).map(|_| MemoryTable::default()).collect());
    let mut follower = open(&follower_disk.tables);
    for step in steps {
        match step {
            Step::Commands(lines) => {
                let lines: Vec<_> =
                    lines.iter().map(|&(f, l, picks)| command(f, l, picks)).collect();
                let lines: Vec<Vec<&[u8]>> =
                    lines.iter().map(|line| line.iter().map(Vec::as_slice).collect()).collect();
                let lines: Vec<&[&[u8]]> = lines.iter().map(Vec::as_slice).collect();
                let reply = leader.run_transaction(&lines);
                let want = plain.run_transaction(&lines);
                let shown = || {
                    let words =
                        |line: &&[&[u8]]| line.join(b" ".as_slice()).escape_ascii().to_string();
                    lines.iter().map(words).collect::<Vec<_>>()
                };
                assert_eq!(
                    String::from_utf8_lossy(&reply),
                    String::from_utf8_lossy(&want),
                    "{:?}",
                    shown()
                );
                assert_eq!(leader.batches, plain.batches, "{:?}", shown());
            }
            Step::Wait(ms) => {
                leader.now += ms;
                plain.now += ms;
                continue;
            }
            Step::ExpireDue(shard) => {
                leader.expire_due(*shard, 2);
                for (keyspace, batch) in plain.db.iter_mut().zip(&leader.batches) {
                    keyspace.replay(plain.index, batch).expect("a batch can be replayed");
                }
                plain.index += 1;
            }
            Step::Below(true, shard, below) => {
                let model = Some(&mut plain.db);
                leader_disk.step(&mut leader.db, model, *shard, leader.index - 1, *below);
                continue;
            }
            Step::Below(false, shard, below) => {
                let model = Some(&mut plain.db);
                follower_disk.step(&mut follower, model, *shard, leader.index - 1, *below);
                continue;
            }
        }
        let index = leader.index - 1;
        leader_disk.append(index, &leader.batches);
        follower_disk.append(index, &leader.batches);
        for (keyspace, batch) in follower.iter_mut().zip(&leader.batches) {
            keyspace.replay(index, batch).expect("a batch can be replayed");
        }
    }
    let applied = leader.index - 1;
    let mut plain_disk = Disk::new(plain.tables.clone());
    let want = plain_disk.finish(&mut plain.db, applied);
    assert_eq!(leader_disk.finish(&mut leader.db, applied), want, "the leader's tables");
    assert_eq!(follower_disk.finish(&mut follower, applied), want, "the follower's tables");
    for shard in 0..SHARDS {
        let want = dump(plain.db.shard(shard));
        assert_eq!(dump(leader.db.shard(shard)), want, "the leader's shard {shard}");
        assert_eq!(dump(follower.shard(shard)), want, "the follower's shard {shard}");
        let mark = leader.db.shard(shard).durable();
        assert_eq!(mark.keys, want.keys, "the keys in the leader's mark");
    }
}

proptest! {
    #[test]
    fn the_store_path_equals_a_plain_model(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        run_steps(&steps);
    }
}

#[test]
fn commands_run_without_a_node() {
    let mut harness = Harness::with_replica(4);
    harness.check("SET a 1", "+OK|");
    harness.check("GET a", "$1|1|");
    harness.check("HSET h f v", ":1|");
    harness.check("DEL a b", ":1|");
    harness.check("GET a", "$-1|");
    harness.check_replica();
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let mut keyspace = Keyspace::new(0, SEED, Box::new(MemoryTable::default()));
    assert_eq!(keyspace.replay(1, b"\x02"), Err(ReplayError::Malformed(0)));
    let unknown = [&[1u8][..], &7u64.to_le_bytes(), &[99]].concat();
    assert_eq!(keyspace.replay(1, &unknown), Err(ReplayError::Malformed(10)));
    assert_eq!(keyspace.replay(2, b""), Ok(()));
}

/// What clients see of a shard: versions and generations are others after a change was taken back.
fn visible(dump: Dump) -> Vec<KeyDump> {
    let same = |mut key: KeyDump| {
        key.version = 0;
        key.string = key.string.map(|(value, _)| (value, false));
        key.coll = key.coll.map(|(_, encoding, aux)| (0, encoding, aux));
        key
    };
    dump.entries.into_iter().map(same).collect()
}

fn slices(args: &[Vec<u8>]) -> Vec<&[u8]> {
    args.iter().map(Vec::as_slice).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_taken_back_was_never_there(
        before in prop::collection::vec((0..COMMANDS.len(), 0usize..32, any::<[u8; 6]>()), 0..12),
        undone in prop::collection::vec((0..COMMANDS.len(), 0usize..32, any::<[u8; 6]>()), 1..12),
        flush in any::<bool>(),
    ) {
        let mut h = Harness::with_replica(SHARDS);
        for (family, line, picks) in before {
            h.run_args(&slices(&command(family, line, picks)));
        }
        if flush {
            for shard in 0..SHARDS {
                let flush = h.db.shard(shard).cut(h.index - 1, 1);
                h.tables[shard as usize].apply(&flush);
                h.db.shard(shard).flushed(flush.mark);
            }
        }
        // What expires is gone whether it is noticed or not.
        h.now += 50;
        for shard in 0..SHARDS {
            h.expire_due(shard, 10_000);
        }
        let held: Vec<_> = h.db.iter_mut().map(|shard| visible(dump(shard))).collect();
        let undone: Vec<Vec<Vec<u8>>> = undone
            .into_iter()
            .map(|(family, line, picks)| command(family, line, picks))
            .filter(|args| args[0] != b"FLUSHALL")
            .collect();
        let undone: Vec<Vec<&[u8]>> = undone.iter().map(|args| slices(args)).collect();
        let undone: Vec<&[&[u8]]> = undone.iter().map(Vec::as_slice).collect();
        h.run_and_undo(&undone);
        let holds: Vec<_> = h.db.iter_mut().map(|shard| visible(dump(shard))).collect();
        prop_assert_eq!(held, holds);
        h.check_replica();
    }
}
