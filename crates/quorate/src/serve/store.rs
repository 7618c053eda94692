//! The thread that writes flushes to the store and keeps it tidy.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::{Fatal, journal};
use quorate_base::ShardId;
use quorate_data::table::Flush;
use quorate_node::home;
use quorate_storage::store::{Store, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// A shard is persisted when so many of its bytes are in memory only.
const PERSIST_BYTES: u64 = 8 << 20;

/// How long the thread waits for work before it looks for upkeep.
const IDLE: Duration = Duration::from_millis(200);

/// What the thread is asked.
pub(crate) enum Request {
    /// Apply a flush.
    Write(Flush),
    /// Persist this shard with its next flush: the journal waits for it.
    Hurry(ShardId),
    /// Persist everything and end.
    Close { done: Sender<()> },
}

pub(crate) struct StoreThread {
    pub(crate) store: Arc<Store>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) inboxes: Inboxes,
    pub(crate) journal: Sender<journal::Request>,
    pub(crate) fatal: Fatal,
    /// Shards that the journal waits for.
    pub(crate) hurried: BTreeSet<ShardId>,
    /// Shards that may have upkeep to do.
    pub(crate) untidy: BTreeSet<ShardId>,
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
            let wait = if self.untidy.is_empty() { Duration::from_secs(3600) } else { IDLE };
            match self.requests.recv_timeout(wait) {
                Ok(Request::Write(flush)) => self.write(flush)?,
                Ok(Request::Hurry(shard)) => {
                    self.hurried.insert(shard);
                }
                Ok(Request::Close { done }) => {
                    for shard in self.store.shards() {
                        self.persist(shard)?;
                    }
                    let _ = done.send(());
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => self.tidy()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn write(&mut self, flush: Flush) -> Result<(), StoreError> {
        let (shard, mark) = (flush.shard, flush.mark);
        self.store.write(flush)?;
        self.inboxes.send(home(shard, self.inboxes.len()), Input::Flushed(shard, mark));
        let hurried = self.hurried.remove(&shard);
        if hurried || self.store.unpersisted_bytes(shard) >= PERSIST_BYTES {
            self.persist(shard)?;
            self.untidy.insert(shard);
        }
        Ok(())
    }

    /// Makes a shard durable. The journal goes first: a table must not keep what a crash takes
    /// from the other shards of the same transaction.
    fn persist(&self, shard: ShardId) -> Result<(), StoreError> {
        let (done, synced) = channel();
        if self.journal.send(journal::Request::Sync { done }).is_ok() {
            // An error means that the journal has failed, which ends the process by itself.
            let _ = synced.recv();
        }
        let mark = self.store.persist(shard)?;
        let _ = self.journal.send(journal::Request::Durable { shard, applied: mark.applied });
        Ok(())
    }

    /// One piece of upkeep.
    fn tidy(&mut self) -> Result<(), StoreError> {
        let Some(shard) = self.untidy.first().copied() else { return Ok(()) };
        if !self.store.maintain(shard)? {
            self.untidy.remove(&shard);
            if self.store.unpersisted_bytes(shard) > 0 {
                self.persist(shard)?;
            }
        }
        Ok(())
    }
}
