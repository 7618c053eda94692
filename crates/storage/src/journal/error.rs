//! What can go wrong in the journal, sorted by culprit, each with the next step to take.

use quorate_base::{Index, ShardId};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a call of the journal failed. Cheap to clone, because the first failure is
/// repeated by every later call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The machine failed: a file operation did not succeed. The journal is poisoned.
    #[error(
        "{op} {}: {source}. Stop the node, look after the disk and start again: everything \
         that was acknowledged is read back, or named if it cannot be", path.display()
    )]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// No prepared room is left and the disk has none. Nothing was written, the journal
    /// stays usable.
    #[error(
        "the journal has no room for {needed_bytes} bytes and the disk is full. Free disk \
         space, or flush the shards that pin the oldest segment, and try again"
    )]
    Full {
        /// What the call needed.
        needed_bytes: u64,
    },
    /// Data that was synced is damaged or missing.
    #[error("{0}")]
    Rot(Box<Rot>),
    /// A newer release wrote the journal.
    #[error(
        "{} has format {found}, this release knows up to {known}. Start the release that \
         wrote it, or a newer one", path.display()
    )]
    Version {
        /// The segment.
        path: PathBuf,
        /// The format it states.
        found: u16,
        /// The newest format this release reads.
        known: u16,
    },
}

/// Where synced data is damaged, and what it held as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// The segment.
    pub path: PathBuf,
    /// Where in the segment the damage begins, in bytes.
    pub offset: u64,
    /// The sequence number of the first frame that is missing.
    pub sequence: u64,
    /// What was found there.
    pub what: &'static str,
    /// The entries concerned, in order of the shard; at most [`Rot::LOST_MAX`]. The damage
    /// may also hold states and entries that cannot be told any more.
    pub lost: Vec<Lost>,
}

impl Rot {
    /// The most shards that [`Rot::lost`] names.
    pub const LOST_MAX: usize = 32;
}

/// Entries of one shard that a damaged place held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The shard.
    pub shard: ShardId,
    /// The first index; 0 if only a state of the shard is concerned.
    pub first: Index,
    /// The last index.
    pub last: Index,
}

impl fmt::Display for Rot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "synced data of the journal is damaged: {} at byte {}, sequence {}: {}; concerned: ",
            self.path.display(),
            self.offset,
            self.sequence,
            self.what
        )?;
        if self.lost.is_empty() {
            write!(f, "shards cannot be told")?;
        }
        for (i, lost) in self.lost.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match (lost.first, lost.last) {
                (0, _) => write!(f, "{comma}shard {} state", lost.shard)?,
                (a, b) if a == b => write!(f, "{comma}shard {} index {a}", lost.shard)?,
                (a, b) => write!(f, "{comma}shard {} indexes {a} to {b}", lost.shard)?,
            }
        }
        write!(
            f,
            ". Nothing was changed. Keep a copy of the files, then restore this node from a \
             backup or let it refetch its shards from its replicas"
        )
    }
}
