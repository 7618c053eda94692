//! Why the store could not do its work: always the machine's fault, never a client's.

use std::path::{Path, PathBuf};

/// A failure of the store. The message names the place and what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error(
        "cannot {doing} {}: {source}; check the disk's space, permissions and health, \
         then restart the node", path.display()
    )]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The disk holds something that was never written.
    #[error(
        "the store in {} is damaged: {what}; this copy of the shard is lost: stop the node, move \
         the directory away and start again, so that the replica is fetched from its peers or \
         restored from a backup", path.display()
    )]
    Damaged {
        /// The tree's directory.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// There was no room; nothing was changed.
    #[error(
        "the disk has no room to write or compact {}, which takes {needed_bytes} bytes, if only for \
         a while; make room", path.display()
    )]
    Full {
        /// The tree's directory.
        path: PathBuf,
        /// What must be free.
        needed_bytes: u64,
    },
    /// An earlier write or sync failed, so nobody knows what the disk holds.
    #[error(
        "the store in {} stopped writing after an earlier failure ({first}); restart the node",
        path.display()
    )]
    Stopped {
        /// The shard's directory.
        path: PathBuf,
        /// The failure that stopped it.
        first: String,
    },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// True if this says that the disk, or the user's share of it, is full.
    pub(super) fn is_out_of_room(error: &lsm_tree::Error) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(error, lsm_tree::Error::Io(e) if matches!(e.kind(), StorageFull | QuotaExceeded))
    }

    /// A file that is missing or too short was damaged; other I/O errors are the machine's.
    pub(super) fn tree(doing: &'static str, path: &Path, error: lsm_tree::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        match error {
            lsm_tree::Error::Io(e)
                if !matches!(e.kind(), InvalidData | NotFound | UnexpectedEof) =>
            {
                Self::io(doing, path, e)
            }
            other => Self::damaged(path, format!("cannot {doing} it: {other:?}")),
        }
    }
}
