//! What a log asks its node to make durable.

use quorate_base::{Index, ShardId, Term};
use std::sync::Arc;

/// One position of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader proposed it.
    pub term: Term,
    /// Its position; positions of a shard have no gaps.
    pub index: Index,
    /// What it says; empty for an entry that only marks a new term. Shared, because the
    /// log and the journal both hold it and values may be large.
    pub payload: Arc<Vec<u8>>,
}

/// One thing the journal keeps for one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub shard: ShardId,
    /// What it is.
    pub body: Body,
}

/// The content of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An entry. It replaces every earlier entry of its shard at the same or a later index.
    Entry(Entry),
    /// The log engine's own durable state (for Raft: term, vote, commit), opaque to the
    /// journal. It replaces every earlier state of its shard. At most a few hundred bytes.
    State(Vec<u8>),
}
