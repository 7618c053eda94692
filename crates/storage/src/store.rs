//! The real store: one LSM tree per shard, behind the seam `quorate_data::table`.
//!
//! One background thread of the node calls [`Store::write`], [`Store::persist`] and
//! [`Store::maintain`]; the workers hold only the [`Table`]s. A flush is visible once `write`
//! returns and durable once `persist` returns. There is no journal here: what was written but not
//! persisted is lost in a crash, and the node's journal replays it.
//!
//! ```text
//! <dir>/<shard id>/pointer           which generation counts: magic u64 │ number u64 │ checksum u64
//! <dir>/<shard id>/<generation>/     one lsm-tree: current, v<n> (manifest), tables/<n>
//! ```
//!
//! Invariants:
//! - A crash leaves the state of a completed `persist`, mark included: the mark is a record of the
//!   tree (see `keys`), so one manifest switch makes data and mark durable together.
//! - A flush that clears goes to a new generation; the old one counts until the next `persist`
//!   switches the pointer. Emptying a shard therefore costs the same however much it held.
//! - Removing a prefix costs at most a few thousand tombstones at once (see `gone`).
//! - A directory without a pointer, and a generation the pointer does not name, are leftovers and
//!   are removed when the store opens.
//! - The first failed write or sync of a shard ends its writing; only reopening continues. A
//!   lack of room is no such failure: it leaves files that the tree goes on without, unless the manifest was switched already (see `shard`).
//! - Readers hold a [`snapshot`] and take no lock that is held across disk work.
//! - What is not persisted lies in sorted runs in memory, which `persist` writes as one table (see
//!   `recent`); a shard has a bounded number of overlapping runs, in memory and on disk.
//! - Every block read is checked against its checksum by `lsm-tree`; what `lsm-tree` does not check,
//!   or only after it trusted it, is checked here before a tree is opened (`files::check_tree`).

mod error;
mod files;
mod gone;
mod keys;
mod recent;
mod shard;
mod snapshot;
#[cfg(test)]
mod tests;

pub use error::StoreError;

use lsm_tree::{Cache, DescriptorTable};
use quorate_base::ShardId;
use quorate_data::table::{Flush, Mark, Table};
use shard::Shard;
use snapshot::Reader;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

/// What a store may use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Blocks of table files kept in memory, all shards together. Indexes and filters of the
    /// youngest tables are pinned outside this budget.
    pub cache_bytes: u64,
    /// Table files kept open, all shards together.
    pub open_files_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, open_files_max: 512 }
    }
}

/// Figures of a store, for INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Shards that hold a tree.
    pub shards: usize,
    /// Table files, all shards together.
    pub tables: usize,
    /// Bytes of those files, without manifests and without files that wait for their removal.
    pub disk_bytes: u64,
    /// Bytes written since the last persist, all shards together.
    pub unpersisted_bytes: u64,
    /// Bytes of blocks cached.
    pub cache_bytes: u64,
    /// The largest number of overlapping runs that a read of some shard must look through.
    pub runs_max: usize,
}

/// What stays free of the disk when a compaction begins, besides what it may write: whatever else
/// is written meanwhile must not fail for want of room.
pub const COMPACT_RESERVE_BYTES: u64 = 32 << 20;

/// What the shards of a store share.
struct Shared {
    cache: Arc<Cache>,
    descriptors: Arc<DescriptorTable>,
}

/// All trees of a node.
pub struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
}

impl Store {
    /// Opens every shard found in `dir`, which is created if absent. `dir` must belong to this
    /// process alone.
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Self, StoreError> {
        let dir = std::path::absolute(dir.as_ref())
            .map_err(|e| StoreError::io("find", dir.as_ref(), e))?;
        files::create_dir(&dir)?;
        let shared = Arc::new(Shared {
            cache: Arc::new(Cache::with_capacity_bytes(options.cache_bytes)),
            descriptors: Arc::new(DescriptorTable::new(options.open_files_max)),
        });
        let mut shards = BTreeMap::new();
        for (path, name) in files::list(&dir)? {
            // Anything else in the directory is not ours to judge.
            let Ok(id) = name.parse::<ShardId>() else { continue };
            if let Some(shard) = Shard::open(id, path, Arc::clone(&shared))? {
                shards.insert(id, Arc::new(shard));
            }
        }
        Ok(Self { dir, shared, shards: RwLock::new(shards) })
    }

    /// The shards that hold something, in ascending order.
    pub fn shards(&self) -> Vec<ShardId> {
        let shards = self.shards.read().expect("no holder of this lock panics");
        shards.iter().filter(|(_, shard)| shard.has_tree()).map(|(id, _)| *id).collect()
    }

    /// A reader of `shard`, which may not exist yet. It always sees the last completed
    /// [`Store::write`] of the shard, whole.
    pub fn table(&self, shard: ShardId) -> Box<dyn Table> {
        Box::new(Reader::new(self.shard(shard).published()))
    }

    /// Applies `flush`: visible to readers afterwards, durable with the next [`Store::persist`].
    pub fn write(&self, flush: Flush) -> Result<(), StoreError> {
        self.shard(flush.shard).write(flush)
    }

    /// Bytes of memory that hold what was written to `shard` since its last persist.
    pub fn unpersisted_bytes(&self, shard: ShardId) -> u64 {
        self.shard(shard).unpersisted_bytes()
    }

    /// Makes everything written to `shard` durable and returns its mark. Without anything new this
    /// touches no file. [`StoreError::Full`] means that there is no room, or none for a
    /// compaction without which nothing more can be written, and that nothing was changed.
    pub fn persist(&self, shard: ShardId) -> Result<Mark, StoreError> {
        self.shard(shard).persist()
    }

    /// One piece of background work on `shard`: the removal of files that no reader uses any more,
    /// of pairs of a removed prefix, or a compaction, which now and then rewrites the whole shard.
    /// True when it changed something, so there may be more to do. It may add to
    /// [`Store::unpersisted_bytes`], up to a bound.
    ///
    /// [`StoreError::Full`] means that the disk had no room for a compaction, and that the shard is
    /// as it was: try again when there is. A caller that asks [`Store::maintain_bytes`] first is
    /// spared most of these.
    /// May run beside `write` and `persist`; one call for each shard at a time.
    pub fn maintain(&self, shard: ShardId) -> Result<bool, StoreError> {
        self.shard(shard).maintain()
    }

    /// The bytes of disk that the next [`Store::maintain`] of `shard` may need before it gives any
    /// back, [`COMPACT_RESERVE_BYTES`] included; 0 if it needs none.
    pub fn maintain_bytes(&self, shard: ShardId) -> u64 {
        self.shard(shard).maintain_bytes()
    }

    /// Forgets `shard`; durable on return. Its readers see an empty table from now on.
    pub fn drop_shard(&self, shard: ShardId) -> Result<(), StoreError> {
        self.shard(shard).drop_contents()
    }

    /// Bytes of table files, all shards together.
    pub fn disk_bytes(&self) -> u64 {
        self.stats().disk_bytes
    }

    /// Bytes of the disk that are free for this process.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        files::free_bytes(&self.dir)
    }

    /// Figures for INFO.
    pub fn stats(&self) -> StoreStats {
        let shards = self.shards.read().expect("no holder of this lock panics");
        let mut stats = StoreStats { cache_bytes: self.shared.cache.size(), ..Default::default() };
        for shard in shards.values() {
            shard.add_stats(&mut stats);
        }
        stats
    }

    fn shard(&self, id: ShardId) -> Arc<Shard> {
        if let Some(shard) = self.shards.read().expect("no holder of this lock panics").get(&id) {
            return Arc::clone(shard);
        }
        let mut shards = self.shards.write().expect("no holder of this lock panics");
        let shard = shards.entry(id).or_insert_with(|| {
            let path = self.dir.join(id.to_string());
            Arc::new(Shard::empty(id, path, Arc::clone(&self.shared)))
        });
        Arc::clone(shard)
    }
}
