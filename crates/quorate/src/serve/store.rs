//! The thread that writes flushes to the store, and the one that tidies up behind it.
//!
//! Compactions take seconds where flushes take milliseconds, so they have a thread of their own.
//!
//! A flush that fails for want of room would end the node, and a compaction that does is work in
//! vain, so neither thread begins what may not fit the disk. Nothing is lost by waiting: the
//! journal keeps what is not persisted, and writes are refused while the store waits for room.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::{Fatal, journal};
use quorate_base::ShardId;
use quorate_data::table::{Flush, Mark};
use quorate_node::home;
use quorate_storage::store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// A shard is persisted when so many of its bytes are in memory only.
const PERSIST_BYTES: u64 = 8 << 20;

/// The shard with the most such bytes is persisted when all shards together have so many.
const PERSIST_BYTES_TOTAL: u64 = 32 << 20;

/// Without flushes for this time, whatever is in memory only is persisted.
const IDLE: Duration = Duration::from_millis(500);

/// A shard is persisted only if the disk has half as much again free as is in memory only, and so
/// many bytes more.
const PERSIST_ROOM_BYTES: u64 = 8 << 20;

/// How long shards that could not be compacted for want of room wait for another attempt.
const COMPACT_RETRY: Duration = Duration::from_secs(1);

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
    /// When it last tried again what found no room.
    pub(crate) retried: Instant,
    /// Shards whose last flush is reported once it is durable.
    pub(crate) undurable: VecDeque<(ShardId, Mark)>,
    /// Shards that the journal waits for.
    pub(crate) hurried: BTreeSet<ShardId>,
    /// Shards of which something is in memory only, and how many bytes.
    pub(crate) unpersisted: BTreeMap<ShardId, u64>,
    /// Told which shards may have something to tidy up.
    pub(crate) untidy: Sender<ShardId>,
    /// Shards that wait for room. The journal knows whether there are any.
    pub(crate) short: BTreeSet<ShardId>,
}

/// Compacts shards, one after the other.
pub(crate) struct TidyThread {
    pub(crate) store: Arc<Store>,
    pub(crate) untidy: Receiver<ShardId>,
    pub(crate) tidied: Sender<Request>,
    pub(crate) fatal: Fatal,
    /// Shards for whose compaction there was no room.
    pub(crate) postponed: BTreeSet<ShardId>,
}

impl TidyThread {
    /// Serves until nobody can ask any more.
    pub(crate) fn run(mut self) {
        loop {
            let wait = if self.postponed.is_empty() { Duration::MAX } else { COMPACT_RETRY };
            match self.untidy.recv_timeout(wait) {
                Ok(shard) => self.tidy(shard),
                Err(RecvTimeoutError::Timeout) => {
                    for shard in self.postponed.clone() {
                        self.tidy(shard);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what is to be done for a shard, as far as there is room.
    fn tidy(&mut self, shard: ShardId) {
        let has_room = loop {
            match self.tidy_some(shard) {
                Ok(true) => {}
                Ok(false) => break true,
                Err(StoreError::Full { needed_bytes, .. }) => {
                    if self.postponed.insert(shard) {
                        tracing::warn!(shard, needed_bytes, "there is no room to compact a shard");
                    }
                    break false;
                }
                Err(error) => self.fatal.stop(&format!("the store failed: {error}")),
            }
        };
        if has_room && self.postponed.remove(&shard) {
            tracing::info!(shard, "a shard that waited for room is compacted");
        }
        // An error means that the node is stopping.
        let _ = self.tidied.send(Request::Tidied(shard));
    }

    fn tidy_some(&self, shard: ShardId) -> Result<bool, StoreError> {
        let needed_bytes = self.store.maintain_bytes(shard);
        // What removes something goes first, and needs nothing.
        if needed_bytes > 0 && self.store.free_bytes()? < needed_bytes {
            return Err(StoreError::Full { path: PathBuf::new(), needed_bytes });
        }
        self.store.maintain(shard)
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
            let idle =
                self.unpersisted.is_empty() && self.waiting.is_empty() && self.undurable.is_empty();
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
                    let shards: Vec<ShardId> = self.unpersisted.keys().copied().collect();
                    for shard in shards {
                        if self.persist(shard)? {
                            break;
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if self.retried.elapsed() >= IDLE {
                self.retry()?;
            }
        }
    }

    /// Tries again what found no room, however busy the thread is: other nodes' writes come even
    /// when this one's disk is full.
    fn retry(&mut self) -> Result<(), StoreError> {
        self.retried = Instant::now();
        for _ in 0..self.waiting.len() {
            let flush = self.waiting.pop_front().expect("there are as many");
            self.write(flush)?;
        }
        self.make_durable()?;
        for shard in self.short.clone() {
            if self.store.unpersisted_bytes(shard) > 0 {
                self.persist(shard)?;
            } else {
                self.note_room(shard, self.waiting.iter().all(|flush| flush.shard != shard));
            }
        }
        Ok(())
    }

    fn write(&mut self, flush: Flush) -> Result<(), StoreError> {
        let (shard, mark) = (flush.shard, flush.mark);
        // The first write to a shard creates its tree.
        if self.store.free_bytes()? < PERSIST_ROOM_BYTES {
            self.waiting.push_back(flush);
            self.note_room(shard, false);
            return Ok(());
        }
        let durable = flush.durable;
        self.store.write(flush)?;
        if durable {
            self.undurable.push_back((shard, mark));
            return self.make_durable();
        }
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

    /// Persists the shards whose last flush is to be reported only then.
    fn make_durable(&mut self) -> Result<(), StoreError> {
        while let Some(&(shard, mark)) = self.undurable.front() {
            if !self.persist(shard)? {
                return Ok(());
            }
            self.undurable.pop_front();
            self.inboxes.send(home(shard, self.inboxes.len()), Input::Flushed(shard, mark));
        }
        Ok(())
    }

    /// Makes a shard durable. The journal goes first: a table must not keep what a crash takes
    /// from the other shards of the same transaction. False if the disk has no room for it.
    fn persist(&mut self, shard: ShardId) -> Result<bool, StoreError> {
        let bytes = self.store.unpersisted_bytes(shard);
        if self.store.free_bytes()? < bytes + bytes / 2 + PERSIST_ROOM_BYTES {
            self.unpersisted.insert(shard, bytes);
            self.note_room(shard, false);
            return Ok(false);
        }
        self.unpersisted.remove(&shard);
        let (done, synced) = channel();
        if self.journal.send(journal::Request::Sync { done }).is_ok() {
            // An error means that the journal has failed, which ends the process by itself.
            let _ = synced.recv();
        }
        let mark = match self.store.persist(shard) {
            Err(StoreError::Full { needed_bytes, .. }) => {
                if !self.short.contains(&shard) {
                    tracing::error!(shard, needed_bytes, "there is no room for a shard");
                }
                self.unpersisted.insert(shard, bytes);
                // The next attempt to compact it comes from there.
                let _ = self.untidy.send(shard);
                self.note_room(shard, false);
                return Ok(false);
            }
            mark => mark?,
        };
        self.note_room(shard, true);
        let _ = self.journal.send(journal::Request::Durable { shard, applied: mark.applied });
        // Without that thread the node is stopping.
        let _ = self.untidy.send(shard);
        Ok(true)
    }

    /// Tells the journal if the first shard waits for room, or the last no longer does.
    fn note_room(&mut self, shard: ShardId, has_room: bool) {
        let before = self.short.is_empty();
        if has_room {
            self.short.remove(&shard);
        } else {
            self.short.insert(shard);
        }
        if self.short.is_empty() != before {
            // An error means that the journal has failed, which ends the process by itself.
            let _ = self.journal.send(journal::Request::StoreWaits(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_data::table::TableOp;
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
            retried: Instant::now(),
            undurable: VecDeque::new(),
            hurried: BTreeSet::new(),
            unpersisted: BTreeMap::new(),
            untidy: channel().0,
            short: BTreeSet::new(),
        };
        let mark = Mark { applied: 7, term: 1, keys: 1 };
        let ops = vec![TableOp::Put(b"k".to_vec(), b"v".to_vec())];
        sender
            .send(Request::Write(Flush { shard: 0, mark, clear: false, durable: false, ops }))
            .unwrap();
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
