//! A shard beside its data: its log, and who waits for what.

use crate::event::WorkerId;
use crate::job::JobId;
use crate::output::Owner;
use crate::replica::Replica;
use quorate_base::{Index, ShardId, Term};
use quorate_data::Keyspace;
use quorate_data::effects::ReplayError;
use quorate_data::table::Flush;
use quorate_log::{Log, Outputs};
use std::collections::{HashMap, VecDeque};

/// Whether a write is on disk before its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk at a quorum before the reply.
    #[default]
    Sync,
    /// In memory at a quorum before the reply, on disk within a second.
    Relaxed,
}

/// One shard's log and waiting lists. It moves between workers together with its [`Keyspace`].
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) log: Box<dyn Log>,
    pub(crate) durability: Durability,
    /// The turn in which its batch was begun.
    pub(crate) turn: u64,
    /// It is in the list of shards to propose at the end of this turn.
    pub(crate) touched: bool,
    /// Journal writes under way.
    pub(crate) persists: usize,
    /// Outputs that wait for an index, ascending.
    pub(crate) waiting: VecDeque<(Index, Owner)>,
    /// Jobs blocked on keys, oldest first.
    pub(crate) blocked: HashMap<Vec<u8>, VecDeque<(WorkerId, JobId)>>,
    /// A flush that was cut and waits until its index is committed.
    pub(crate) flush: Option<Flush>,
    /// Drop what is in memory once it is flushed.
    pub(crate) evict: bool,
    /// In a cluster: this node's replica of it.
    pub(crate) replica: Option<Box<Replica>>,
    /// How many commands used it since the memory budget last looked.
    pub(crate) uses: u64,
    /// How many commands executed here since the node started.
    pub(crate) commands: u64,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard whose log was restored and not replayed yet.
    pub(crate) fn new(id: ShardId, log: Box<dyn Log>, durability: Durability) -> Self {
        Self {
            id,
            log,
            durability,
            turn: 0,
            touched: false,
            persists: 0,
            waiting: VecDeque::new(),
            blocked: HashMap::new(),
            flush: None,
            evict: false,
            replica: None,
            uses: 0,
            commands: 0,
        }
    }

    /// Replays into `keyspace` what the log hands out when it starts.
    pub(crate) fn replay(
        &mut self,
        keyspace: &mut Keyspace,
        outputs: &mut Outputs,
    ) -> Result<(), ReplayError> {
        for entry in outputs.committed.drain(..) {
            keyspace.replay(entry.index, &entry.payload)?;
        }
        self.log.applied(outputs.commit);
        Ok(())
    }

    /// Nothing of it is on its way to the journal, so it may travel.
    pub(crate) fn is_quiet(&self) -> bool {
        self.persists == 0 && !self.touched && self.flush.is_none()
    }

    /// The last index and term whose effects memory holds.
    pub(crate) fn applied(&self) -> (Index, Term) {
        match &self.replica {
            None => (self.log.last_index(), self.log.term()),
            Some(replica) => {
                let term = self.log.term_at(replica.memory);
                (replica.memory, term.expect("entries stay until the table has them"))
            }
        }
    }
}
