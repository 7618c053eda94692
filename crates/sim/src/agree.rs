//! What can be seen of agreement from outside the nodes.
//!
//! Two entries of a shard with the same index and term are the same entry, whoever writes it to
//! its journal (Raft's log matching). And what a flush says it contains is agreed on, because a
//! flush leaves a worker only then; so is what a replica's journal holds up to the commit index it
//! knows. At each index these name the same term, and terms grow with the index.

use crate::shape::Shape;
use quorate_base::hash::checksum;
use quorate_base::{Index, ShardId, Term};
use quorate_data::table::Flush;
use quorate_log::{Body, Record};
use quorate_node::ReplicaView;
use std::collections::{BTreeMap, HashMap};

/// See the module.
#[derive(Debug)]
pub(crate) struct Agreement {
    shards: Vec<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    /// A checksum of each entry ever written.
    entries: HashMap<(Index, Term), u64>,
    /// The terms of agreed entries.
    agreed: BTreeMap<Index, Term>,
    /// By node: the terms of the entries in its journal that are not known to be agreed on.
    journals: Vec<BTreeMap<Index, Term>>,
    /// Who led in a term.
    leaders: HashMap<Term, usize>,
}

impl Agreement {
    /// Nothing seen yet.
    pub(crate) fn new(shape: &Shape) -> Self {
        let shard = |_| Shard { journals: vec![BTreeMap::new(); shape.nodes], ..Shard::default() };
        Self { shards: (0..shape.shards).map(shard).collect() }
    }

    /// A node writes these to its journal.
    pub(crate) fn on_persist(&mut self, node: usize, records: &[Record]) -> Result<(), String> {
        for record in records {
            let Body::Entry(entry) = &record.body else { continue };
            let sum = checksum(&entry.payload);
            let shard = &mut self.shards[record.shard as usize];
            let journal = &mut shard.journals[node];
            journal.split_off(&entry.index);
            journal.insert(entry.index, entry.term);
            let entries = &mut shard.entries;
            let first = *entries.entry((entry.index, entry.term)).or_insert(sum);
            // A node alone may use a term again of which a crash has left nothing.
            if first != sum && shard.journals.len() > 1 {
                return Err(format!(
                    "log agreement: node {} has another entry {} of term {} in shard {} than \
                     was written before",
                    node + 1,
                    entry.index,
                    entry.term,
                    record.shard
                ));
            }
        }
        Ok(())
    }

    /// A node flushes a shard.
    pub(crate) fn on_flush(&mut self, node: usize, flush: &Flush) -> Result<(), String> {
        let (index, term) = (flush.mark.applied, flush.mark.term);
        // The parts of a snapshot have no mark before the last one.
        if flush.clear || index == 0 {
            // What the journal has does not belong to what the table gets.
            self.shards[flush.shard as usize].journals[node].clear();
        }
        if index == 0 {
            return Ok(());
        }
        self.agree(node, flush.shard, index, term)
    }

    /// How a replica stands, at any moment: what it holds up to `commit` is agreed on, and nobody
    /// else leads in a term in which it does.
    pub(crate) fn on_view(&mut self, node: usize, view: &ReplicaView) -> Result<(), String> {
        let shard = &mut self.shards[view.shard as usize];
        if view.leads {
            let leader = *shard.leaders.entry(view.term).or_insert(node);
            if leader != node {
                return Err(format!(
                    "two leaders: nodes {} and {} both lead shard {} in term {}",
                    leader + 1,
                    node + 1,
                    view.shard,
                    view.term
                ));
            }
        }
        if view.lost || !view.serving {
            return Ok(());
        }
        let later = shard.journals[node].split_off(&(view.commit + 1));
        let agreed = std::mem::replace(&mut shard.journals[node], later);
        agreed.into_iter().try_for_each(|(index, term)| self.agree(node, view.shard, index, term))
    }

    fn agree(
        &mut self,
        node: usize,
        shard: ShardId,
        index: Index,
        term: Term,
    ) -> Result<(), String> {
        let agreed = &mut self.shards[shard as usize].agreed;
        let before = agreed.range(..=index).next_back();
        let after = agreed.range(index..).next();
        let fits = before.is_none_or(|(at, t)| if *at == index { *t == term } else { *t <= term })
            && after.is_none_or(|(_, t)| *t >= term);
        if !fits {
            return Err(format!(
                "log agreement: node {} has applied entry {index} of term {term} in shard \
                 {shard}, but agreed on are {before:?} and {after:?} (index, term)",
                node + 1
            ));
        }
        agreed.insert(index, term);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use quorate_log::Entry;
    use std::sync::Arc;

    #[test]
    fn another_entry_at_the_same_place_is_noticed() {
        let mut agreement = Agreement::new(&Shape::draw(1, &Options::default()));
        let record = |term, payload: &str| Record {
            shard: 0,
            body: Body::Entry(Entry { term, index: 5, payload: Arc::new(payload.into()) }),
        };
        assert!(agreement.on_persist(0, &[record(1, "a"), record(2, "b")]).is_ok());
        assert!(agreement.on_persist(1, &[record(1, "a")]).is_ok());
        assert!(agreement.on_persist(2, &[record(2, "c")]).is_err());
    }

    #[test]
    fn terms_of_agreed_entries_grow_and_never_differ() {
        let mut agreement = Agreement::new(&Shape::draw(1, &Options::default()));
        for (index, term, fits) in
            [(5, 2, true), (9, 4, true), (5, 2, true), (7, 3, true), (9, 3, false), (8, 2, false)]
        {
            assert_eq!(agreement.agree(0, 0, index, term).is_ok(), fits, "{index} {term}");
        }
    }
}
