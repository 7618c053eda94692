//! What the workers of one node tell each other.

use crate::event::{ConnId, WorkerId};
use crate::job::{Args, JobId, Origin};
use crate::peer::message::Body;
use crate::pubsub::Registration;
use crate::shard::Shard;
use quorate_base::{Millis, ShardId};
use quorate_data::Keyspace;
use quorate_resp::Proto;

/// A message from one worker to another.
#[derive(Debug)]
pub enum Message {
    /// Execute a command all of whose shards are at home with the receiver.
    Forward(Forwarded),
    /// The reply to a [`Message::Forward`].
    Reply {
        /// Whose command it was.
        conn: ConnId,
        /// The place of the reply among the client's replies.
        slot: u64,
        /// The reply in RESP.
        bytes: Vec<u8>,
    },
    /// Ask the replicas of a shard at home with the receiver.
    Request(Box<Requested>),
    /// A shard's part of the reply to a command over the whole keyspace.
    Part {
        /// The receiver's number for that command.
        gather: u64,
        /// Whose part.
        shard: ShardId,
        /// The reply in RESP.
        reply: Vec<u8>,
    },
    /// The client is gone: drop what it is blocked on.
    Gone {
        /// Who left.
        conn: ConnId,
    },
    /// Lend me these shards, all at home with the receiver.
    Borrow {
        /// The sender's job that needs them.
        job: JobId,
        /// Which shards.
        shards: Vec<ShardId>,
    },
    /// The shards that were asked for.
    Lend {
        /// The receiver's job that needs them.
        job: JobId,
        /// The shards.
        shards: Vec<Travelling>,
    },
    /// The shards that were lent, with everything done to them durable.
    Return {
        /// The shards.
        shards: Vec<Travelling>,
    },
    /// A key that the receiver's job waits for has changed.
    Wake {
        /// Which job.
        job: JobId,
    },
    /// Forget a watched key or waiting job at the shard's home.
    Release {
        /// Which shard.
        shard: ShardId,
        /// Which key.
        key: Vec<u8>,
        /// The waiting job; `None` for a watch.
        job: Option<JobId>,
    },
    /// The sender's subscriptions changed.
    Registered(Registration),
    /// A message for the receiver's subscribers.
    Publish {
        /// Whether the channel is a sharded one.
        sharded: bool,
        /// Where to.
        channel: Vec<u8>,
        /// What.
        payload: Vec<u8>,
    },
    /// Every worker is asked something.
    Ask {
        /// The sender's job.
        job: JobId,
        /// What.
        question: Question,
    },
    /// The answer to [`Message::Ask`].
    Answer {
        /// The receiver's job.
        job: JobId,
        /// What.
        answer: Answer,
    },
}

/// A command executed by another worker than its client's.
#[derive(Debug)]
pub struct Forwarded {
    /// Whose command it is.
    pub conn: ConnId,
    /// The place of the reply among the client's replies.
    pub slot: u64,
    /// The command.
    pub args: Args,
    /// The protocol version of the reply.
    pub proto: Proto,
}

/// A request for the replicas of a shard.
#[derive(Debug)]
pub struct Requested {
    pub(crate) shard: ShardId,
    /// Who gets the reply.
    pub(crate) origin: Origin,
    /// The protocol version of the reply.
    pub(crate) proto: Proto,
    pub(crate) body: Body,
}

/// A shard on its way between workers.
pub struct Travelling {
    pub(crate) shard: Box<Shard>,
    pub(crate) keyspace: Box<Keyspace>,
}

impl std::fmt::Debug for Travelling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shard.fmt(f)
    }
}

/// Something that every worker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Counters for these sections of INFO.
    Info(Vec<Vec<u8>>),
    /// The lines of CLIENT LIST.
    ClientList(ClientFilter),
    /// CLIENT KILL; true means the old form, which names one address.
    ClientKill(ClientFilter, bool),
    /// CLIENT UNBLOCK of a client; true means with an error.
    Unblock(ConnId, bool),
    /// CLIENT PAUSE for so many milliseconds; true means all commands.
    Pause(Millis, bool),
    /// CLIENT UNPAUSE.
    Unpause,
    /// CONFIG SET of names and values that were found valid.
    ConfigSet(Vec<(String, i64)>),
    /// CONFIG RESETSTAT.
    ResetStats,
    /// QUORATE SHARDS.
    Replicas,
    /// QUORATE STATUS.
    Status,
    /// SCRIPT LOAD of a script that was found valid.
    LoadScript(Vec<u8>),
    /// SCRIPT FLUSH.
    FlushScripts,
}

impl Question {
    /// True if a worker that answers it changes.
    pub(crate) fn changes(&self) -> bool {
        !matches!(self, Self::Info(_) | Self::ClientList(_) | Self::Replicas | Self::Status)
    }
}

/// Which clients CLIENT LIST and CLIENT KILL mean: those for which everything given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// One of these ids.
    pub ids: Option<Vec<ConnId>>,
    /// Subscribers (true) or all others; `Some(None)` is a type that no client here has.
    pub subscriber: Option<Option<bool>>,
    /// The client's address.
    pub peer: Option<Vec<u8>>,
    /// The address it connected to.
    pub local: Option<Vec<u8>>,
    /// Not the client that asks.
    pub skip_asker: bool,
}

/// What a worker answers to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To `Info`.
    Stats(Box<crate::stats::Stats>),
    /// To `ClientList` and `Replicas`: lines by the id of the client or shard.
    Lines(Vec<(ConnId, String)>),
    /// To `Status`.
    Status(Box<crate::status::WorkerStatus>),
    /// To `Status`, from the outside.
    Outside(Box<crate::status::Outside>),
    /// How many were affected.
    Count(u64),
}

/// The home of a shard: workers take turns.
pub fn home(shard: ShardId, workers: WorkerId) -> WorkerId {
    (shard % u32::from(workers)) as WorkerId
}
