//! What enters a worker and what leaves it.

use crate::job::JobId;
use crate::message::Message;
use crate::status::Outside;
use quorate_base::ids::NodeId;
use quorate_base::{Millis, ShardId};
use quorate_data::table::{Flush, Mark};
use quorate_log::Record;

/// A client connection, unique over all workers and the whole life of the process; what
/// `CLIENT ID` answers.
pub type ConnId = u64;

/// A worker of the node, dense from 0.
pub type WorkerId = u16;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Since the Unix epoch. Expiry is measured by it; it may jump.
    pub wall: Millis,
    /// Since any fixed point. Timeouts are measured by it; it never goes back.
    pub mono: Millis,
    /// The same clock as `mono`, finer: in microseconds. Durations are counted by it, and nothing
    /// is decided.
    pub mono_us: u64,
}

/// What happened outside.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client connected to this worker.
    Connected {
        /// Its id, never used before.
        conn: ConnId,
        /// `ADDR:PORT` of the client.
        peer: String,
        /// `ADDR:PORT` it connected to.
        local: String,
    },
    /// Bytes came from a client.
    Received {
        /// From whom.
        conn: ConnId,
        /// What it sent.
        bytes: &'a [u8],
    },
    /// The client will send nothing more. What it has sent is still executed and answered, unless
    /// it waits for a key to change; then it is closed.
    Ended {
        /// Who.
        conn: ConnId,
    },
    /// The client's socket closed.
    Disconnected {
        /// Who left.
        conn: ConnId,
    },
    /// How many bytes of output a client has not taken yet; sent when it changes by much.
    Backlog {
        /// Which client.
        conn: ConnId,
        /// The bytes that wait outside for its socket.
        bytes: usize,
    },
    /// Another worker of this node says something. Messages between two workers keep their order.
    Message {
        /// Who.
        from: WorkerId,
        /// What.
        message: Box<Message>,
    },
    /// The frames of this worker up to `ticket` are as durable as they asked to be.
    Persisted {
        /// See [`Frame::ticket`].
        ticket: u64,
    },
    /// A flush took effect in the shard's table.
    Flushed {
        /// Whose table.
        shard: ShardId,
        /// What the flush carried.
        mark: Mark,
    },
    /// The journal cannot be trimmed before this shard is flushed.
    FlushWanted {
        /// Which shard.
        shard: ShardId,
    },
    /// The disk is full, or has room again.
    DiskFull {
        /// Writes are refused while it is.
        full: bool,
    },
    /// A part of the reserve is used that is kept for commands which make room on a full disk, or
    /// can be used again.
    ReserveUsed {
        /// These are refused as well while it is.
        used: bool,
    },
    /// The tables are far behind the journal, or have caught up.
    Throttled {
        /// Writes wait while they are.
        on: bool,
    },
    /// A link to another node is up: from now on, what is sent to it arrives in order, unless
    /// [`Event::PeerDown`] says that the link broke. Every worker is told.
    PeerUp {
        /// Which node.
        node: NodeId,
    },
    /// The link to another node broke: anything sent over it may be lost. Every worker is told.
    PeerDown {
        /// Which node.
        node: NodeId,
    },
    /// Another node says something to this worker: its part of a parcel, see [`crate::peer`].
    Peer {
        /// Which node.
        from: NodeId,
        /// Its messages for this worker, in the order in which they were sent.
        bytes: &'a [u8],
    },
    /// Time passed; wanted at [`crate::Worker::next_deadline`].
    Tick,
    /// The answer to [`Effect::Observe`].
    Observed {
        /// Who asked.
        job: JobId,
        /// What the outside knows.
        outside: Box<Outside>,
    },
    /// The node is about to stop: no new commands, flush everything.
    Shutdown,
}

/// What a worker wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send bytes to a client, in this order.
    Send {
        /// To whom.
        conn: ConnId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close a client's connection once everything sent before has left.
    Close {
        /// Whose.
        conn: ConnId,
    },
    /// Append to the journal; answered by [`Event::Persisted`].
    Persist(Frame),
    /// Apply to a shard's table; answered by [`Event::Flushed`].
    Flush(Flush),
    /// A client asked the node to stop: every worker is to get [`Event::Shutdown`].
    Shutdown,
    /// Send a parcel to another node: all that this worker has to tell it, in this order. It is
    /// dropped if there is no link.
    Peer {
        /// Which node.
        to: NodeId,
        /// Messages for workers of that node, see [`crate::peer`].
        bytes: Vec<u8>,
    },
    /// Tell what only the outside knows of this node; answered by [`Event::Observed`].
    Observe {
        /// Who asks.
        job: JobId,
    },
    /// Note how long a message to another node and its answer took, from worker to worker.
    RoundTrip {
        /// Which node.
        node: NodeId,
        /// What [`crate::peer::ping`] was given.
        stamp: u64,
    },
    /// Tell another worker of this node.
    Message {
        /// Whom.
        to: WorkerId,
        /// What.
        message: Box<Message>,
    },
}

/// What a worker's turn adds to the journal: it survives a crash whole or not at all.
#[derive(Debug)]
pub struct Frame {
    /// Ascending by one within a worker.
    pub ticket: u64,
    /// The entries and states, in order.
    pub records: Vec<Record>,
    /// Whether they must be on disk before the answer; otherwise within a second.
    pub sync: bool,
}
