//! For tests: a table in memory, and a harness that executes commands without a node.

use crate::command::{Block, Ctx, Spec, families};
use crate::db::Db;
use crate::keyspace::Keyspace;
use crate::place::{SpaceMap, SpaceShards};
use crate::settings::Settings;
use crate::table::{Flush, Mark, Table, TableError, TableOp, Visit};
use quorate_base::{Millis, Prng};
use quorate_resp::{Proto, Reply};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

/// A [`Table`] in memory. Clones share their content.
#[derive(Clone, Debug, Default)]
pub struct MemoryTable(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    mark: Mark,
}

impl MemoryTable {
    /// Applies a flush whole.
    pub fn apply(&self, flush: &Flush) {
        let mut content = self.content();
        if flush.clear {
            content.pairs.clear();
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
        Ok(self.content().pairs.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        let content = self.content();
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
    prng: Prng,
    specs: HashMap<&'static str, &'static Spec>,
}

impl Harness {
    /// An empty database.
    pub fn new(shards: u32) -> Self {
        let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards };
        let mut db = Db::new(SpaceMap::new(vec![space], 7));
        let tables: Vec<MemoryTable> = (0..shards).map(|_| MemoryTable::default()).collect();
        for (shard, table) in tables.iter().enumerate() {
            db.insert(Box::new(Keyspace::new(shard as u32, 7, Box::new(table.clone()))));
        }
        Self {
            db,
            tables,
            now: 1_700_000_000_000,
            proto: Proto::Resp2,
            blocked: None,
            settings: Settings::default(),
            index: 1,
            prng: Prng::new(7),
            specs: families().map(|(_, spec)| (spec.name, spec)).collect(),
        }
    }

    /// Executes one command and returns its reply in RESP; empty if it blocked.
    pub fn run_args(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let name = String::from_utf8_lossy(args[0]).to_lowercase();
        let Some(spec) = self.specs.get(name.as_str()) else {
            return format!("-ERR unknown command '{name}'\r\n").into_bytes();
        };
        if !spec.accepts(args.len()) {
            let text = format!("-ERR wrong number of arguments for '{name}' command\r\n");
            return text.into_bytes();
        }
        let (now, index) = (self.now, self.index);
        for keyspace in self.db.iter_mut() {
            keyspace.begin_batch(index, now);
        }
        let mut ctx = Ctx {
            db: &mut self.db,
            prng: &mut self.prng,
            reply: Reply::new(&mut out, self.proto),
            settings: &self.settings,
            now,
            in_transaction: false,
            retried: false,
            blocked: None,
        };
        let result = (spec.run)(&mut ctx, args);
        self.blocked = ctx.blocked.take();
        if let Err(error) = result {
            ctx.reply.truncate(0);
            ctx.reply.error(error.to_string().as_bytes());
        }
        for keyspace in self.db.iter_mut() {
            keyspace.take_batch();
        }
        self.index += 1;
        out
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
mod tests {
    use super::*;

    #[test]
    fn commands_run_without_a_node() {
        let mut harness = Harness::new(4);
        harness.check("SET a 1", "+OK|");
        harness.check("GET a", "$1|1|");
        harness.check("DEL a b", ":1|");
        harness.check("GET a", "$-1|");
    }
}
