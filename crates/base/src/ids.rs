//! Names for numbers that must not be mixed up.

/// A space: a named policy and a key prefix. 0 is `default`.
pub type SpaceId = u16;

/// A shard, dense from 0 over all spaces of a node.
pub type ShardId = u32;

/// A log position of one shard; the first entry has index 1, 0 means "none".
pub type Index = u64;

/// A Raft term; 0 means "none yet".
pub type Term = u64;

/// Milliseconds since the Unix epoch, always handed in, never read from a clock here.
pub type Millis = u64;

/// A node of the cluster; 0 means "none".
pub type NodeId = u64;
