//! The thread that writes flushes to the store, and the one that tidies up behind it.
//!
//! Compactions take seconds where flushes take milliseconds, so they have a thread of their own.
//!
//! A write that fails for want of room would end the node, so neither thread begins what may not
//! fit the disk. Nothing is lost by waiting: the journal keeps what is not persisted, and writes
//! are refused once the disk is full.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::{Fatal, journal};
use quorate_base::ShardId;
use quorate_data::table::Flush;
use quorate_node::home;
use quorate_storage::store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// A shard is persisted when so many of its bytes are in memory only.
const PERSIST_BYTES: u64 = 8 << 20;

/// The shard with the most such bytes is persisted when all shards together have so many.
const PERSIST_BYTES_TOTAL: u64 = 32 << 20;

/// Without flushes for this time, whatever is in memory only is persisted.
const IDLE: Duration = Duration::from_millis(500);

/// A shard is persisted only if the disk has half as much again free as is in memory only, and so
/// many bytes more.
const PERSIST_ROOM_BYTES: u64 = 8 << 20;

/// Nothing is compacted while the disk has less free: the results come before their inputs go.
const COMPACT_ROOM_BYTES: u64 = 128 << 20;

/// What the thread is asked.
pub(crate) enum Request {
    /// Apply a flush.
    Write(Flush),
    /// Persist this shard with its next flush: the journal waits for it.
    Hurry(ShardId),
    /// Persist this shard if tidying up left something to.
    Tidied(ShardId),
    /// Persist everything and end.
    Close { done: Sender<()> },
}

pub(crate) struct StoreThread {
    pub(crate) store: Arc<Store>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) inboxes: Inboxes,
    pub(crate) journal: Sender<journal::Request>,
    pub(crate) fatal: Fatal,
    /// Flushes for which the disk had no room. A shard has one flush at a time, so that there are
    /// few; the journal has what they hold, and a node that stops leaves them.
    pub(crate) waiting: VecDeque<Flush>,
    /// Shards that the journal waits for.
    pub(crate) hurried: BTreeSet<ShardId>,
    /// Shards of which something is in memory only, and how many bytes.
    pub(crate) unpersisted: BTreeMap<ShardId, u64>,
    /// Told which shards may have something to tidy up.
    pub(crate) untidy: Sender<ShardId>,
}

/// Compacts shards, one after the other.
pub(crate) struct TidyThread {
    pub(crate) store: Arc<Store>,
    pub(crate) untidy: Receiver<ShardId>,
    pub(crate) tidied: Sender<Request>,
    pub(crate) fatal: Fatal,
}

impl TidyThread {
    /// Serves until nobody can ask any more.
    pub(crate) fn run(self) {
        while let Ok(shard) = self.untidy.recv() {
            loop {
                let has_room = self.store.free_bytes().map(|free| free >= COMPACT_ROOM_BYTES);
                match has_room.and_then(|has| Ok(has && self.store.maintain(shard)?)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => self.fatal.stop(&format!("the store failed: {error}")),
                }
            }
            // An error means that the node is stopping.
            let _ = self.tidied.send(Request::Tidied(shard));
        }
    }
}

impl StoreThread {
    /// Serves requests until asked to close.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.fatal.stop(&format!("the store failed: {error}"));
        }
    }

    fn serve(&mut self) -> Result<(), StoreError> {
        loop {
            let idle = self.unpersisted.is_empty() && self.waiting.is_empty();
            let wait = if idle { Duration::MAX } else { IDLE };
            match self.requests.recv_timeout(wait) {
                Ok(Request::Write(flush)) => self.write(flush)?,
                Ok(Request::Hurry(shard)) => {
                    self.hurried.insert(shard);
                    // A table that contains everything already is not flushed again.
                    if self.store.unpersisted_bytes(shard) > 0 {
                        self.persist(shard)?;
                    }
                }
                Ok(Request::Tidied(shard)) => {
                    if self.store.unpersisted_bytes(shard) > 0 {
                        self.persist(shard)?;
                    }
                }
                Ok(Request::Close { done }) => {
                    for shard in self.store.shards() {
                        self.persist(shard)?;
                    }
                    let _ = done.send(());
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(flush) = self.waiting.pop_front() {
                        self.write(flush)?;
                    }
                    let shards: Vec<ShardId> = self.unpersisted.keys().copied().collect();
                    for shard in shards {
                        if self.persist(shard)? {
                            break;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn write(&mut self, flush: Flush) -> Result<(), StoreError> {
        let (shard, mark) = (flush.shard, flush.mark);
        // The first write to a shard creates its tree.
        if self.store.free_bytes()? < PERSIST_ROOM_BYTES {
            self.waiting.push_back(flush);
            // An error means that the journal has failed, which ends the process by itself.
            let _ = self.journal.send(journal::Request::LookAfterRoom);
            return Ok(());
        }
        self.store.write(flush)?;
        self.inboxes.send(home(shard, self.inboxes.len()), Input::Flushed(shard, mark));
        let bytes = self.store.unpersisted_bytes(shard);
        self.unpersisted.insert(shard, bytes);
        if self.hurried.remove(&shard) || bytes >= PERSIST_BYTES {
            self.persist(shard)?;
        }
        while self.unpersisted.values().sum::<u64>() > PERSIST_BYTES_TOTAL {
            let largest = self.unpersisted.iter().max_by_key(|(_, bytes)| **bytes);
            let shard = *largest.expect("their sum is not zero").0;
            if !self.persist(shard)? {
                break;
            }
        }
        Ok(())
    }

    /// Makes a shard durable. The journal goes first: a table must not keep what a crash takes
    /// from the other shards of the same transaction. False if the disk has no room for it.
    fn persist(&mut self, shard: ShardId) -> Result<bool, StoreError> {
        let bytes = self.store.unpersisted_bytes(shard);
        if self.store.free_bytes()? < bytes + bytes / 2 + PERSIST_ROOM_BYTES {
            self.unpersisted.insert(shard, bytes);
            let _ = self.journal.send(journal::Request::LookAfterRoom);
            return Ok(false);
        }
        self.unpersisted.remove(&shard);
        let (done, synced) = channel();
        if self.journal.send(journal::Request::Sync { done }).is_ok() {
            // An error means that the journal has failed, which ends the process by itself.
            let _ = synced.recv();
        }
        let mark = self.store.persist(shard)?;
        let _ = self.journal.send(journal::Request::Durable { shard, applied: mark.applied });
        // Without that thread the node is stopping.
        let _ = self.untidy.send(shard);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_data::table::{Mark, TableOp};
    use quorate_storage::store::StoreOptions;

    #[test]
    fn a_shard_that_was_flushed_before_the_journal_waits_for_it_is_persisted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), StoreOptions::default()).unwrap());
        let (sender, requests) = channel();
        let (journal, journal_requests) = channel();
        let mut thread = StoreThread {
            store,
            requests,
            inboxes: Inboxes::new(1).0,
            journal,
            fatal: Fatal,
            waiting: VecDeque::new(),
            hurried: BTreeSet::new(),
            unpersisted: BTreeMap::new(),
            untidy: channel().0,
        };
        let mark = Mark { applied: 7, term: 1, keys: 1 };
        let ops = vec![TableOp::Put(b"k".to_vec(), b"v".to_vec())];
        sender.send(Request::Write(Flush { shard: 0, mark, clear: false, durable: false, ops })).unwrap();
        sender.send(Request::Hurry(0)).unwrap();
        drop(sender);
        let journal = std::thread::spawn(move || {
            let mut durable = Vec::new();
            for request in journal_requests {
                match request {
                    journal::Request::Sync { done } => done.send(()).unwrap(),
                    journal::Request::Durable { shard, applied } => durable.push((shard, applied)),
                    _ => {}
                }
            }
            durable
        });
        thread.serve().unwrap();
        drop(thread);
        assert_eq!(journal.join().unwrap(), [(0, 7)]);
    }
}
