//! For tests of families: a database whose effects a second one replays.

use crate::command::{Block, Ctx, Spec, families};
use crate::db::{Db, Value};
use crate::keyspace::Keyspace;
use crate::place::{SpaceMap, SpaceShards};
use crate::settings::Settings;
use crate::testing::MemoryTable;
use quorate_base::{Millis, Prng};
use quorate_resp::{Proto, Reply};
use std::collections::BTreeMap;

const SHARDS: u32 = 2;

/// Two databases, of which the second only sees effects.
pub(crate) struct Twins {
    pub(crate) leader: Db,
    follower: Db,
    pub(crate) settings: Settings,
    pub(crate) now: Millis,
    /// Commands run as blocked ones that are tried again.
    pub(crate) retried: bool,
    pub(crate) in_transaction: bool,
    /// What the last command wanted to wait for.
    pub(crate) blocked: Option<Block>,
    /// The last command changed something.
    pub(crate) changed: bool,
    specs: BTreeMap<&'static str, &'static Spec>,
    prng: Prng,
    index: u64,
}

impl Twins {
    pub(crate) fn new() -> Self {
        let database = || {
            let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards: SHARDS };
            let mut db = Db::new(SpaceMap::new(vec![space], 7));
            for shard in 0..SHARDS {
                db.insert(Box::new(Keyspace::new(shard, 7, Box::new(MemoryTable::default()))));
            }
            db
        };
        Self {
            leader: database(),
            follower: database(),
            settings: Settings::default(),
            now: 1_700_000_000_000,
            retried: false,
            in_transaction: false,
            blocked: None,
            changed: false,
            specs: families().map(|(_, spec)| (spec.name, spec)).collect(),
            prng: Prng::new(3),
            index: 1,
        }
    }

    /// Runs a command of words separated by spaces and replays its effects. Returns the reply with
    /// `|` for CR LF; nothing if the command blocks.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        let name = String::from_utf8_lossy(args[0]).to_lowercase();
        let spec = self.specs[name.as_str()];
        assert!(spec.accepts(args.len()), "{line}");
        for keyspace in self.leader.iter_mut() {
            keyspace.begin_batch(self.index, self.now);
        }
        let mut out = Vec::new();
        let mut ctx = Ctx {
            db: &mut self.leader,
            prng: &mut self.prng,
            reply: Reply::new(&mut out, Proto::Resp2),
            settings: &self.settings,
            now: self.now,
            in_transaction: self.in_transaction,
            retried: self.retried,
            blocked: None,
        };
        if let Err(error) = (spec.run)(&mut ctx, &args) {
            ctx.reply.truncate(0);
            ctx.reply.error(error.to_string().as_bytes());
        }
        self.blocked = ctx.blocked.take();
        let batches: Vec<Vec<u8>> = self.leader.iter_mut().map(Keyspace::take_batch).collect();
        self.changed = batches.iter().any(|batch| !batch.is_empty());
        for (keyspace, batch) in self.follower.iter_mut().zip(&batches) {
            keyspace.replay(self.index, batch).expect("a batch can be replayed");
        }
        self.index += 1;
        String::from_utf8_lossy(&out).replace("\r\n", "|")
    }

    #[track_caller]
    pub(crate) fn check(&mut self, line: &str, reply: &str) {
        assert_eq!(self.run(line), reply, "{line}");
    }

    /// The value of `key`, which must be the same in both databases.
    #[track_caller]
    pub(crate) fn value(&mut self, key: &str) -> Option<Value> {
        let leader = self.leader.value(key.as_bytes()).expect("memory can be read");
        let follower = self.follower.value(key.as_bytes()).expect("memory can be read");
        assert_eq!(leader, follower, "{key}");
        leader.map(|(value, _)| value)
    }
}
