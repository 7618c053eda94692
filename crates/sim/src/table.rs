//! A shard's table on a simulated disk.
//!
//! It has two contents: what readers see, and what survives a crash. A flush changes the first;
//! [`SimTable::persist`] brings the second up to it. A pair can be damaged: whoever reads it gets
//! an error, as a checksum would make it, until the table is cleared.

use quorate_data::table::{Flush, Mark, Table, TableError, TableOp, Visit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a disk holds of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// Shared with snapshots.
    pairs: Arc<Pairs>,
    damaged: Arc<BTreeSet<Vec<u8>>>,
    mark: Mark,
}

impl Content {
    fn apply(&mut self, flush: &Flush) {
        let pairs = Arc::make_mut(&mut self.pairs);
        if flush.clear {
            pairs.clear();
            self.damaged = Arc::default();
        }
        for op in &flush.ops {
            if let TableOp::DeletePrefix(prefix) = op {
                let from = pairs.range(prefix.clone()..);
                let gone = from.take_while(|(key, _)| key.starts_with(prefix));
                let gone: Vec<Vec<u8>> = gone.map(|(key, _)| key.clone()).collect();
                for key in gone {
                    pairs.remove(&key);
                }
            }
        }
        for op in &flush.ops {
            match op {
                TableOp::Put(key, value) => drop(pairs.insert(key.clone(), value.clone())),
                TableOp::Delete(key) => drop(pairs.remove(key)),
                TableOp::DeletePrefix(_) => {}
            }
        }
        self.mark = flush.mark;
    }

    /// Damages the `nth` pair, counted around, and all behind it if `spreads`; false if there is
    /// none.
    pub(crate) fn damage(&mut self, nth: u64, spreads: bool) -> bool {
        let count = self.pairs.len() as u64;
        let Some(nth) = nth.checked_rem(count) else { return false };
        let most = if spreads { usize::MAX } else { 1 };
        let keys = self.pairs.keys().skip(nth as usize).take(most).cloned();
        Arc::make_mut(&mut self.damaged).extend(keys);
        true
    }

    /// Whether a look at all of it would find damage.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    fn check(&self, key: &[u8]) -> Result<(), TableError> {
        if self.damaged.is_empty() || !self.damaged.contains(key) {
            return Ok(());
        }
        Err(TableError(format!("a block with a pair of {} bytes is damaged", key.len())))
    }
}

#[derive(Debug, Default)]
struct State {
    live: Content,
    durable: Content,
    /// Applied to `live` and not yet to `durable`.
    unpersisted: Vec<Flush>,
    unpersisted_bytes: u64,
}

/// A running node's table. Clones share their content.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimTable(Arc<Mutex<State>>);

impl SimTable {
    /// The table as the disk holds it when a node starts.
    pub(crate) fn open(durable: Content) -> Self {
        let state = State { live: durable.clone(), durable, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Applies a flush, which a crash may take back.
    pub(crate) fn write(&self, flush: Flush) {
        let mut state = self.state();
        state.live.apply(&flush);
        let op_bytes = |op: &TableOp| match op {
            TableOp::Put(key, value) => key.len() + value.len(),
            TableOp::Delete(key) | TableOp::DeletePrefix(key) => key.len(),
        };
        state.unpersisted_bytes += flush.ops.iter().map(op_bytes).sum::<usize>() as u64 + 16;
        state.unpersisted.push(flush);
    }

    /// Makes all flushes so far durable; up to where the table then contains the log.
    pub(crate) fn persist(&self) -> Mark {
        let mut state = self.state();
        for flush in std::mem::take(&mut state.unpersisted) {
            state.durable.apply(&flush);
        }
        state.unpersisted_bytes = 0;
        state.durable.mark
    }

    /// Bytes of flushes that a crash would take back.
    pub(crate) fn unpersisted_bytes(&self) -> u64 {
        self.state().unpersisted_bytes
    }

    /// What a crash leaves.
    pub(crate) fn durable(&self) -> Content {
        self.state().durable.clone()
    }

    /// Whether a read may find damage, now or after a crash.
    pub(crate) fn is_damaged(&self) -> bool {
        let state = self.state();
        state.live.is_damaged() || state.durable.is_damaged()
    }

    /// Damages pairs, on the disk and for readers; false if there are none.
    pub(crate) fn damage(&self, nth: u64, spreads: bool) -> bool {
        let mut state = self.state();
        state.live.damage(nth, spreads) | state.durable.damage(nth, spreads)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics while holding the state")
    }
}

impl Table for SimTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.state().live.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        self.state().live.scan(from, to, visit)
    }

    fn mark(&self) -> Mark {
        self.state().live.mark
    }

    fn snapshot(&self) -> Box<dyn Table> {
        Box::new(self.state().live.clone())
    }
}

/// A snapshot: nothing changes it.
impl Table for Content {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.check(key)?;
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        for (key, value) in self
            .pairs
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded))
        {
            if to.is_some_and(|to| key.as_slice() >= to) {
                break;
            }
            self.check(key)?;
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    fn snapshot(&self) -> Box<dyn Table> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, applied: u64) -> Flush {
        let mark = Mark { applied, term: 1, keys: 1 };
        let ops = vec![TableOp::Put(key.into(), b"v".to_vec())];
        Flush { shard: 0, mark, clear: false, durable: false, ops }
    }

    #[test]
    fn a_crash_takes_back_what_was_not_persisted() {
        let table = SimTable::default();
        table.write(put("a", 1));
        let snapshot = table.snapshot();
        assert_eq!(table.persist().applied, 1);
        table.write(put("b", 2));
        assert!(table.get(b"b").unwrap().is_some() && snapshot.get(b"b").unwrap().is_none());
        let again = SimTable::open(table.durable());
        assert_eq!(again.mark().applied, 1);
        assert_eq!((again.get(b"a"), again.get(b"b")), (Ok(Some(b"v".to_vec())), Ok(None)));
    }

    #[test]
    fn damage_is_an_error_until_the_table_is_cleared() {
        let table = SimTable::default();
        assert!(!table.damage(0, false));
        table.write(put("a", 1));
        table.persist();
        assert!(table.damage(5, true) && table.durable().is_damaged());
        assert!(table.get(b"a").is_err());
        assert!(table.scan(b"", None, &mut |_, _| true).is_err());
        table.write(Flush { clear: true, ..put("b", 0) });
        table.persist();
        assert!(!table.durable().is_damaged() && table.get(b"a") == Ok(None));
    }
}
