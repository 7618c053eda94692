//! What the data directory holds when a node starts.

use crate::serve::ServeError;
use crate::serve::datadir::{self, DataDir};
use quorate_base::ids::NodeId;
use quorate_base::{Index, ShardId};
use quorate_data::Keyspace;
use quorate_data::table::Mark;
use quorate_log::raft::{RaftLog, Restored};
use quorate_node::{ShardStart, home};
use quorate_storage::journal::{FileDisk, Journal, Options, RecoveredShard};
use quorate_storage::store::{Store, StoreOptions};
use std::collections::HashMap;
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
struct Replica {
    node: NodeId,
    voters: Vec<NodeId>,
}

impl Found {
    pub(super) fn read(dir: &DataDir, config: &quorate_node::Config) -> Result<Self, ServeError> {
        let store = Arc::new(Store::open(dir.store(), StoreOptions::default())?);
        let disk = FileDisk::open(&dir.journal(), true).map_err(|source| ServeError::DataDir {
            doing: "open the journal in",
            path: dir.journal(),
            source,
        })?;
        let options = Options {
            id: dir.identity.journal,
            segment_bytes: SEGMENT_BYTES,
            prepared_max: SEGMENTS_PREPARED,
        };
        let (journal, mut recovered) = Journal::open(disk, options)?;
        let cut_bytes = recovered.report.cut_bytes;
        if cut_bytes > 0 {
            tracing::warn!(cut_bytes, "the journal ended in a torn write, which was cut");
        }
        let replica = match &config.cluster {
            Some(cluster) => Replica { node: cluster.node, voters: cluster.nodes.clone() },
            None => Replica { node: ALONE, voters: vec![ALONE] },
        };
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

impl Replica {
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
        };
        let seed = datadir::random().map_err(ServeError::Thread)?;
        RaftLog::new(shard, self.node, &self.voters, restored, seed)
            .map_err(|source| ServeError::Restore { shard, source })
    }
}
