//! Commands that cannot execute the moment they arrive: they wait for shards, for a key to
//! change, or for the other workers.

use crate::dispatch::Command;
use crate::event::{ConnId, WorkerId};
use crate::message::{Answer, Question};
use crate::output::Output;
use crate::replica::serving::Asked;
use quorate_base::{Millis, ShardId};
use quorate_data::command::OnTimeout;
use quorate_resp::Proto;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// A job of one worker; never used twice.
pub type JobId = u64;

/// The arguments of a command, kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    /// A copy of `args`.
    pub fn new(args: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(args.iter().map(|a| a.len()).sum());
        let mut ends = Vec::with_capacity(args.len());
        for arg in args {
            bytes.extend_from_slice(arg);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    /// The arguments.
    pub fn slices(&self) -> SmallVec<[&[u8]; 8]> {
        let mut start = 0;
        self.ends
            .iter()
            .map(|&end| {
                let arg = &self.bytes[start..end];
                start = end;
                arg
            })
            .collect()
    }

    /// About how many bytes of memory they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.ends.len() * size_of::<usize>()
    }

    /// How many bytes the arguments have together.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Whose command a job executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of this worker.
    Local(ConnId),
    /// The place of the reply among those of a client of this worker.
    Slot { conn: ConnId, slot: u64 },
    /// The same of another worker.
    Remote { worker: WorkerId, conn: ConnId, slot: u64 },
    /// A shard's part of a command over the whole keyspace.
    Gather { worker: WorkerId, gather: u64, shard: ShardId },
    /// A gateway of the cluster.
    Asked(Asked),
}

/// What a job does once it holds its shards.
#[derive(Debug)]
pub(crate) enum Work {
    Command {
        command: Command,
        args: Args,
    },
    /// Executes what the client queued.
    Exec,
    /// Watches keys for the client.
    Watch(Args),
    /// Puts the answers of all workers together.
    Ask(Question),
}

/// What a job waits for.
#[derive(Debug, PartialEq)]
pub(crate) enum State {
    /// Shards.
    Acquiring,
    /// A change of one of these keys.
    Blocked,
    /// The answers of so many other workers.
    Asking { missing: usize, answers: Vec<Answer> },
    /// The commit of what it did, to send the reply to another worker.
    Replying,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) origin: Origin,
    pub(crate) work: Work,
    pub(crate) state: State,
    pub(crate) proto: Proto,
    /// All shards it needs, ascending.
    pub(crate) shards: Vec<ShardId>,
    /// What it still has to get, by home, in ascending order of homes.
    pub(crate) need: VecDeque<(WorkerId, Vec<ShardId>)>,
    /// It stands in the queues of its shards at this worker.
    pub(crate) claimed: bool,
    /// It was blocked before.
    pub(crate) retried: bool,
    /// Keys it is registered for.
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) deadline: Option<Millis>,
    pub(crate) on_timeout: OnTimeout,
    /// The deadline passed while it was not in a state to give up.
    pub(crate) late: bool,
    /// The client is gone.
    pub(crate) cancelled: bool,
    /// Replies of jobs for other workers.
    pub(crate) output: Option<Output>,
}
