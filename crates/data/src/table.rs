//! The seam to the durable half of a shard's store.
//!
//! A shard's state on disk is one ordered map of byte strings, its *table*. It is read here,
//! one call at a time; it changes only by [`Flush`] batches, each of which takes effect whole
//! or not at all and carries the log index up to which the shard is contained in it.
//! Implemented by an LSM tree in `storage` and by a simulated disk in `sim`.

use quorate_base::{Index, ShardId, Term};

/// Called with each pair in key order; returning false ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// Reads one shard's durable state as of its last completed [`Flush`].
pub trait Table: Send {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;

    /// Every pair with `from ≤ key`, and `key < to` where `to` is given, in key order.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>)
    -> Result<(), TableError>;

    /// What the last completed flush recorded; all zero for a new table.
    fn mark(&self) -> Mark;

    /// The same state for as long as the returned table lives, whatever is flushed meanwhile.
    fn snapshot(&self) -> Box<dyn Table>;
}

/// How much of the shard's log a table contains, and what cannot be had without a full scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Every entry up to this index is contained, none after it.
    pub applied: Index,
    /// The term of that entry.
    pub term: Term,
    /// The number of keys (not pairs) in the table.
    pub keys: u64,
}

/// An atomic change of one shard's table.
#[derive(Debug)]
pub struct Flush {
    /// Whose table.
    pub shard: ShardId,
    /// The state of the table after this flush.
    pub mark: Mark,
    /// Drop everything the table held before applying `ops`.
    pub clear: bool,
    /// Completed only once the table keeps it through a crash; otherwise as soon as it is read.
    pub durable: bool,
    /// The changes, in no particular order, at most one for each key; a key that also lies in
    /// the range of a `DeletePrefix` is never put by the same flush.
    pub ops: Vec<TableOp>,
}

/// One change in a [`Flush`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// Set `key` to `value`.
    Put(Vec<u8>, Vec<u8>),
    /// Remove `key`, which may be absent.
    Delete(Vec<u8>),
    /// Remove every key that starts with this prefix.
    DeletePrefix(Vec<u8>),
}

/// Why a table could not be read: the machine failed, or the disk holds something that was
/// never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError(
    /// What failed and where, for the operator.
    pub String,
);

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TableError {}
