//! For tests: a table in memory, a harness that executes commands without a node, and a replica
//! that replays what the harness logs and must hold the same.

use crate::command::{Block, Ctx, Spec, families};
use crate::db::Db;
use crate::entry::{Entry, Kind};
use crate::error::Error;
use crate::keyspace::Keyspace;
use crate::place::{SpaceMap, SpaceShards, place_hash};
use crate::settings::Settings;
use crate::table::{Flush, Mark, Table, TableError, TableOp, Visit};
use quorate_base::{Millis, Prng, ShardId};
use quorate_resp::{Proto, Reply};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

/// A [`Table`] in memory. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryTable(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    mark: Mark,
    /// Nothing can be read.
    damaged: bool,
}

impl Content {
    fn check(&self) -> Result<(), TableError> {
        if self.damaged { Err(TableError("the test damaged it".into())) } else { Ok(()) }
    }
}

impl MemoryTable {
    /// Applies a flush whole.
    pub fn apply(&self, flush: &Flush) {
        let mut content = self.content();
        if flush.clear {
            content.pairs.clear();
            content.damaged = false;
        }
        for op in &flush.ops {
            if let TableOp::DeletePrefix(prefix) = op {
                content.pairs.retain(|key, _| !key.starts_with(prefix));
            }
        }
        for op in &flush.ops {
            match op {
                TableOp::Put(key, value) => {
                    content.pairs.insert(key.clone(), value.clone());
                }
                TableOp::Delete(key) => {
                    content.pairs.remove(key);
                }
                TableOp::DeletePrefix(_) => {}
            }
        }
        content.mark = flush.mark;
    }

    /// Nothing can be read any more, until a flush clears it.
    pub fn damage(&self) {
        self.content().damaged = true;
    }

    /// All pairs in order.
    pub fn pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.content().pairs.clone().into_iter().collect()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("nobody panics while holding the content")
    }
}

impl Table for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        let content = self.content();
        content.check()?;
        Ok(content.pairs.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        let content = self.content();
        content.check()?;
        for (key, value) in content.pairs.range(from.to_vec()..) {
            if to.is_some_and(|to| key.as_slice() >= to) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn mark(&self) -> Mark {
        self.content().mark
    }

    fn snapshot(&self) -> Box<dyn Table> {
        let content = self.content();
        let copy = Content { pairs: content.pairs.clone(), ..*content };
        Box::new(Self(Arc::new(Mutex::new(copy))))
    }
}

/// Keys the place hash of every harness.
const SEED: u64 = 7;

/// The database that `tables` hold, one for each shard of its only space.
pub fn open(tables: &[MemoryTable]) -> Db {
    let shards = tables.len() as u32;
    let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards };
    let mut db = Db::new(SpaceMap::new(vec![space], SEED));
    for (shard, table) in tables.iter().enumerate() {
        db.insert(Box::new(Keyspace::new(shard as u32, SEED, Box::new(table.clone()))));
    }
    db
}

/// All that a shard holds, expired keys included, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// The number of keys as the shard counts them.
    pub keys: u64,
    /// Each key in bytewise order.
    pub entries: Vec<KeyDump>,
}

/// All that a shard holds of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDump {
    /// The key.
    pub key: Vec<u8>,
    /// The type.
    pub kind: Kind,
    /// The version of the last change.
    pub version: u64,
    /// When it expires.
    pub expiry: Option<Millis>,
    /// A string with the flag that it was changed in place.
    pub string: Option<(Vec<u8>, bool)>,
    /// A collection's generation, encoding number, and what the family keeps beside the elements.
    pub coll: Option<(u64, u8, Vec<u8>)>,
    /// A collection's elements.
    pub elements: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Dumps a shard and asserts that its books agree with its entries. Brings everything into memory.
pub fn dump(keyspace: &mut Keyspace) -> Dump {
    let stored = if keyspace.resident {
        Vec::new()
    } else {
        keyspace.table_keys(0, usize::MAX).expect("the table can be read").0
    };
    for key in stored {
        keyspace.load(key.place, &key.name).expect("the table can be read");
    }
    let mut entries: Vec<KeyDump> =
        keyspace.index.iter().filter(|entry| !entry.is_tomb()).map(dump_key).collect();
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(keyspace.keys(), entries.len() as u64, "the number of keys");
    let place = |entry: &Entry| place_hash(keyspace.index.seed(), entry.key());
    let bytes: usize = keyspace.index.iter().map(Entry::bytes).sum();
    assert_eq!(keyspace.entry_bytes, bytes, "the bytes of all entries");
    let expiries: BTreeSet<_> =
        keyspace.index.iter().filter_map(|e| Some((e.expiry()?, place(e)))).collect();
    assert_eq!(keyspace.expiries, expiries, "the expiries of all entries");
    for entry in keyspace.index.iter().filter(|entry| entry.flags() & keyspace.cycle.dirty() != 0) {
        assert!(keyspace.dirty.contains(&place(entry)), "no flush writes {:?}", entry.key());
    }
    Dump { keys: keyspace.keys(), entries }
}

fn dump_key(entry: &Entry) -> KeyDump {
    let pair = |(sub, val): (&[u8], &[u8])| (sub.to_vec(), val.to_vec());
    KeyDump {
        key: entry.key().to_vec(),
        kind: entry.kind(),
        version: entry.version(),
        expiry: entry.expiry(),
        string: entry.value().map(|value| (value.to_vec(), entry.is_raw())),
        coll: entry.coll().map(|c| (c.generation, c.encoding(), c.aux().to_vec())),
        elements: entry.coll().map_or(Vec::new(), |c| c.elements().iter().map(pair).collect()),
    }
}

/// A database without a node: one space, `shards` shards, tables in memory.
pub struct Harness {
    /// The data.
    pub db: Db,
    /// The tables below, by shard.
    pub tables: Vec<MemoryTable>,
    /// The time that commands see; advance it at will.
    pub now: Millis,
    /// The protocol version of replies.
    pub proto: Proto,
    /// What the last command wanted to wait for.
    pub blocked: Option<Block>,
    /// Settings that commands look at.
    pub settings: Settings,
    /// The next log index, the same for every shard.
    pub index: u64,
    /// The batches of the last command, by shard; empty where it changed nothing.
    pub batches: Vec<Vec<u8>>,
    replica: Option<Db>,
    prng: Prng,
    specs: HashMap<&'static str, &'static Spec>,
}

impl Harness {
    /// An empty database.
    pub fn new(shards: u32) -> Self {
        let tables: Vec<MemoryTable> = (0..shards).map(|_| MemoryTable::default()).collect();
        Self {
            db: open(&tables),
            tables,
            now: 1_700_000_000_000,
            proto: Proto::Resp2,
            blocked: None,
            settings: Settings::default(),
            index: 1,
            batches: vec![Vec::new(); shards as usize],
            replica: None,
            prng: Prng::new(SEED),
            specs: families().map(|(_, spec)| (spec.name, spec)).collect(),
        }
    }

    /// The same, with a replica that replays every batch, see [`Harness::check_replica`].
    pub fn with_replica(shards: u32) -> Self {
        let tables: Vec<MemoryTable> = (0..shards).map(|_| MemoryTable::default()).collect();
        Self { replica: Some(open(&tables)), ..Self::new(shards) }
    }

    /// Asserts that the replica holds the same as the database: keys, values, expiries, versions.
    #[track_caller]
    pub fn check_replica(&mut self) {
        let replica = self.replica.as_mut().expect("made with_replica");
        for keyspace in self.db.iter_mut() {
            let shard = keyspace.shard();
            assert_eq!(dump(replica.shard(shard)), dump(keyspace), "shard {shard}");
        }
    }

    /// Removes up to `limit` expired keys of `shard`, as a node does from time to time.
    pub fn expire_due(&mut self, shard: ShardId, limit: usize) {
        let (now, index) = (self.now, self.index);
        self.db.iter_mut().for_each(|keyspace| keyspace.begin_batch(index, now));
        self.db.shard(shard).expire_due(limit);
        self.db.shard(shard).sweep(limit + 1).expect("the table can be read");
        self.finish_batches();
    }

    /// Executes one command and returns its reply in RESP; empty if it blocked.
    pub fn run_args(&mut self, args: &[&[u8]]) -> Vec<u8> {
        self.run_transaction(&[args])
    }

    /// Executes commands whose changes share one log entry, as those of a transaction do, and
    /// returns their replies in RESP; more than one and none blocks.
    pub fn run_transaction(&mut self, commands: &[&[&[u8]]]) -> Vec<u8> {
        let (now, index) = (self.now, self.index);
        self.db.iter_mut().for_each(|keyspace| keyspace.begin_batch(index, now));
        let mut out = Vec::new();
        for args in commands {
            self.execute(args, commands.len() > 1, &mut out);
        }
        self.finish_batches();
        out
    }

    /// Executes commands as a transaction and takes back what they changed.
    pub fn run_and_undo(&mut self, commands: &[&[&[u8]]]) {
        let (now, index) = (self.now, self.index);
        for keyspace in self.db.iter_mut() {
            keyspace.begin_batch(index, now);
            keyspace.prepare_undo();
        }
        for args in commands {
            self.execute(args, true, &mut Vec::new());
        }
        for keyspace in self.db.iter_mut() {
            let undone = keyspace.undo().expect("the table can be read");
            assert!(undone, "FLUSHALL cannot be taken back");
        }
        self.finish_batches();
    }

    fn execute(&mut self, args: &[&[u8]], in_transaction: bool, out: &mut Vec<u8>) {
        let mut reply = Reply::new(out, self.proto);
        let mark = reply.mark();
        let name = String::from_utf8_lossy(args[0]).to_lowercase();
        let Some(spec) = self.specs.get(name.as_str()) else {
            reply.error(format!("ERR unknown command '{name}'").as_bytes());
            return;
        };
        if !spec.accepts(args.len()) {
            reply.error(Error::WrongArity(name).to_string().as_bytes());
            return;
        }
        let mut ctx = Ctx {
            db: &mut self.db,
            prng: &mut self.prng,
            reply,
            settings: &self.settings,
            now: self.now,
            in_transaction,
            retried: false,
            blocked: None,
        };
        let result = (spec.run)(&mut ctx, args);
        self.blocked = ctx.blocked.take();
        if let Err(error) = result {
            ctx.reply.truncate(mark);
            ctx.reply.error(error.to_string().as_bytes());
        }
    }

    fn finish_batches(&mut self) {
        self.batches = self.db.iter_mut().map(Keyspace::take_batch).collect();
        if let Some(replica) = &mut self.replica {
            for (keyspace, batch) in replica.iter_mut().zip(&self.batches) {
                keyspace.replay(self.index, batch).expect("a batch can be replayed");
            }
        }
        self.index += 1;
    }

    /// The same for words separated by single spaces.
    pub fn run(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.run_args(&args)).replace("\r\n", "|")
    }

    /// Runs `line` and compares its reply, in which `|` stands for CR LF.
    #[track_caller]
    pub fn check(&mut self, line: &str, reply: &str) {
        assert_eq!(self.run(line), reply, "{line}");
    }
}

#[cfg(test)]
mod tests;
