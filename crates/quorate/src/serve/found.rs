//! What the data directory holds when a node starts.

use crate::serve::datadir::{self, DataDir};
use crate::serve::{ServeError, damage};
use quorate_base::ids::NodeId;
use quorate_base::{Index, ShardId};
use quorate_data::Keyspace;
use quorate_data::table::Mark;
use quorate_log::raft::{RaftLog, Restored};
use quorate_node::{ShardStart, home};
use quorate_storage::journal::{
    FileDisk, Journal, JournalError, Options, Recovered, RecoveredShard,
};
use quorate_storage::store::{Store, StoreError, StoreOptions};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The journal's segments: small enough that zeroing one holds up writes for milliseconds only.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Segments kept to be used again; as many as the journal has when it is long.
const SEGMENTS_PREPARED: usize = 16;

/// The only replica of every shard of a node that stands alone.
const ALONE: NodeId = 1;

/// What the data directory holds, ready for the threads.
pub(super) struct Found {
    pub(super) store: Arc<Store>,
    pub(super) journal: Journal<FileDisk>,
    /// The shards at home with each worker.
    pub(super) starts: Vec<Vec<ShardStart>>,
    /// How much of each shard's log its table contains.
    pub(super) durable: HashMap<ShardId, Index>,
    pub(super) replayed: usize,
    pub(super) cut_bytes: u64,
}

/// Which replica of every shard this node has.
pub(super) struct Replica {
    node: NodeId,
    voters: Vec<NodeId>,
}

impl Found {
    pub(super) fn read(dir: &DataDir, config: &quorate_node::Config) -> Result<Self, ServeError> {
        let replica = Replica::of(config);
        let (mut journal, mut recovered) = read_journal(dir, config, &replica)?;
        let cut_bytes = recovered.report.cut_bytes;
        if cut_bytes > 0 {
            tracing::warn!(cut_bytes, "the journal ended in a torn write, which was cut");
        }
        let store = Arc::new(read_store(dir, &replica, &mut journal, &mut recovered)?);
        let starts = (0..config.workers).map(|_| Vec::new()).collect();
        let mut found =
            Self { store, journal, starts, durable: HashMap::new(), replayed: 0, cut_bytes };
        for space in config.map.spaces() {
            let durability = config.spaces[usize::from(space.id)].durability;
            for shard in space.first..space.first + space.shards {
                let table = found.store.table(shard);
                let mark = table.mark();
                found.durable.insert(shard, mark.applied);
                let from_journal = recovered.shards.remove(&shard).unwrap_or_default();
                found.replayed +=
                    from_journal.entries.iter().filter(|e| e.index > mark.applied).count();
                let log = Box::new(replica.log(shard, mark, from_journal)?);
                let keyspace = Box::new(Keyspace::new(shard, dir.identity.seed, table));
                let start = ShardStart { keyspace, log, durability };
                found.starts[usize::from(home(shard, config.workers))].push(start);
            }
        }
        Ok(found)
    }
}

/// Opens a journal, which is created if missing.
pub(super) fn open_journal(
    path: &Path,
    id: u64,
) -> Result<(Journal<FileDisk>, Recovered), ServeError> {
    let doing = "open the journal in";
    let disk = FileDisk::open(path, true).map_err(|source| ServeError::DataDir {
        doing,
        path: path.to_owned(),
        source,
    })?;
    let options = Options { id, segment_bytes: SEGMENT_BYTES, prepared_max: SEGMENTS_PREPARED };
    Ok(Journal::open(disk, options)?)
}

fn read_journal(
    dir: &DataDir,
    config: &quorate_node::Config,
    replica: &Replica,
) -> Result<(Journal<FileDisk>, Recovered), ServeError> {
    damage::finish(dir)?;
    let shards = config.map.spaces().iter().flat_map(|s| s.first..s.first + s.shards);
    // A node that never ran has nothing to remember.
    let is_first_start = dir.is_new && dir.identity.replaced_at == 0;
    if replica.has_peers() && !is_first_start && damage::lacks_journal(dir)? {
        damage::begin_lost(dir, replica, shards.clone())?;
    }
    match open_journal(&dir.journal(), dir.identity.journal) {
        Err(ServeError::Journal(JournalError::Rot(rot))) if replica.has_peers() => {
            damage::replace_journal(dir, replica, shards, &rot)?;
            open_journal(&dir.journal(), dir.identity.journal)
        }
        result => result,
    }
}

fn read_store(
    dir: &DataDir,
    replica: &Replica,
    journal: &mut Journal<FileDisk>,
    recovered: &mut Recovered,
) -> Result<Store, ServeError> {
    loop {
        let (path, what) = match Store::open(dir.store(), StoreOptions::default()) {
            Err(StoreError::Damaged { path, what }) if replica.has_peers() => (path, what),
            result => return Ok(result?),
        };
        let Some(shard) = damage::shard_of(dir, &path) else {
            return Err(StoreError::Damaged { path, what }.into());
        };
        let from_journal = recovered.shards.entry(shard).or_default();
        damage::lose_table(dir, replica, journal, (shard, from_journal), &what)?;
    }
}

impl Replica {
    fn of(config: &quorate_node::Config) -> Self {
        match &config.cluster {
            Some(cluster) => Self { node: cluster.node, voters: cluster.nodes.clone() },
            None => Self { node: ALONE, voters: vec![ALONE] },
        }
    }

    /// Whether others have what this one has.
    fn has_peers(&self) -> bool {
        self.voters.len() > 1
    }

    /// A shard's log as its table and the journal have it.
    fn log(
        &self,
        shard: ShardId,
        mark: Mark,
        from_journal: RecoveredShard,
    ) -> Result<RaftLog, ServeError> {
        let restored = Restored {
            state: (!from_journal.state.is_empty()).then_some(from_journal.state),
            entries: from_journal.entries,
            applied: mark.applied,
            applied_term: mark.term,
            lost: false,
        };
        self.new_log(shard, restored)
    }

    /// A shard's log.
    pub(super) fn new_log(
        &self,
        shard: ShardId,
        restored: Restored,
    ) -> Result<RaftLog, ServeError> {
        let seed = datadir::random().map_err(ServeError::Thread)?;
        RaftLog::new(shard, self.node, &self.voters, restored, seed)
            .map_err(|source| ServeError::Restore { shard, source })
    }
}
