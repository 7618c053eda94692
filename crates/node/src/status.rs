//! What a node can tell of itself: the snapshot behind `QUORATE STATUS`, and behind whatever else
//! shows how a node is.
//!
//! ```text
//! WorkerStatus   what one worker counts and holds       ┐
//! Outside        what only the outside can see          ┴─▶ NodeStatus
//! ```
//!
//! A node tells what *it* knows. Whether its peers agree is for whoever asks all of them.

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::event::Time;
use crate::histogram::Histogram;
use crate::replica::Phase;
use crate::shard::Shard;
use crate::stats::{Rates, Stats};
use crate::worker::Worker;
use quorate_base::ids::NodeId;
use quorate_base::{Index, Millis, ShardId, SpaceId, Term};
use quorate_data::place::HASH_BITS;
pub use quorate_log::Follower;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What one worker tells.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// When the node started, and when this was told.
    pub started: Time,
    /// See [`WorkerStatus::started`].
    pub now: Time,
    /// Counters since the start or `CONFIG RESETSTAT`, and what there is now.
    pub stats: Stats,
    /// What happened of late.
    pub rates: Rates,
    /// The shards at home with this worker. One that another worker has borrowed at this moment,
    /// which happens in a node that stands alone, is told by neither.
    pub shards: Vec<ShardStatus>,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// Writes are refused because the disk is full.
    pub disk_full: bool,
    /// Writes wait because the tables are far behind the journal.
    pub throttled: bool,
    /// The node is about to stop.
    pub stopping: bool,
}

/// One shard at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Which one.
    pub shard: ShardId,
    /// Its space.
    pub space: SpaceId,
    /// Its slots.
    pub slots: RangeInclusive<u16>,
    /// What this node is to it.
    pub role: Role,
    /// What its replica here does.
    pub state: ReplicaState,
    /// The leader this node knows of; `None` in a node that stands alone.
    pub leader: Option<NodeId>,
    /// The log's term.
    pub term: Term,
    /// The last entry of the log here, agreed on or not.
    pub last: Index,
    /// The last entry that is agreed on, as far as known here.
    pub committed: Index,
    /// The last entry whose effects are in memory.
    pub applied: Index,
    /// The last entry whose effects the table has for good.
    pub flushed: Index,
    /// While this replica leads: how far the others are.
    pub followers: Vec<Follower>,
    /// Keys, expired ones included until they are removed.
    pub keys: u64,
    /// Bytes of memory it takes; a shard that is not resident has more on disk.
    pub memory_bytes: u64,
    /// All of it is in memory.
    pub resident: bool,
    /// Commands executed here since the node started.
    pub commands: u64,
}

/// What a node is to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its only holder.
    Alone,
    /// Its leader.
    Leader,
    /// The holder of a copy.
    Follower,
}

impl Role {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

/// What a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It leads or follows.
    Serving,
    /// It reads its state again from its disk.
    Rebuilding,
    /// It gets its state from the leader.
    Installing,
    /// It lost what it once acknowledged, and does not vote until it has caught up.
    Lost,
    /// Its table cannot be read: it waits for a leader's state.
    Damaged,
}

impl ReplicaState {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Serving, Self::Rebuilding, Self::Installing, Self::Lost, Self::Damaged];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Rebuilding => "rebuilding",
            Self::Installing => "installing",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
        }
    }
}

/// The way to another node, as the workers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// There is a link.
    pub up: bool,
    /// Since when, by the wall clock; the node's start if there never was one.
    pub since: Millis,
    /// What it told of itself when it was last linked.
    pub about: Option<PeerAbout>,
}

/// What nodes tell each other of themselves when they are linked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAbout {
    /// `ADDR:PORT` where its clients connect, as it was told to listen.
    pub client_address: String,
    /// The version of Quorate.
    pub version: String,
}

/// What only the outside can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// The links to the other nodes.
    pub links: Vec<LinkFacts>,
    /// The journal.
    pub journal: JournalFacts,
    /// Bytes free on the disk of the data directory, as last looked at.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of memory that the process takes.
    pub process_bytes: Option<u64>,
}

/// A link as the outside sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// The node at the other end.
    pub node: NodeId,
    /// Where that waits for other nodes.
    pub address: String,
    /// Why there is no link, or why the last one broke.
    pub reason: Option<String>,
    /// From worker to worker and back, in microseconds, as last measured.
    pub round_trip_us: Option<u64>,
    /// How many links there were.
    pub links: u64,
}

/// The journal's counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFacts {
    /// Bytes that it takes now.
    pub bytes: u64,
    /// Bytes of entries that were appended.
    pub appended_bytes: u64,
    /// How long appends with a sync took.
    pub sync_latency: Histogram,
    /// The same of late.
    pub recent_sync_latency: Histogram,
}

/// All that a node tells of itself.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its configuration.
    pub config: Arc<Config>,
    /// All workers together: shards ascending.
    pub workers: WorkerStatus,
    /// What the outside sees, if it was asked.
    pub outside: Option<Outside>,
}

impl NodeStatus {
    /// The node whose workers, at least one, told this.
    pub fn new(
        config: Arc<Config>,
        workers: impl IntoIterator<Item = WorkerStatus>,
        outside: Option<Outside>,
    ) -> Option<Self> {
        let mut workers = workers.into_iter();
        let mut all = workers.next()?;
        workers.for_each(|one| all.add(one));
        all.shards.sort_unstable_by_key(|shard| shard.shard);
        Some(Self { config, workers: all, outside })
    }

    /// This node; 0 if it stands alone.
    pub fn node(&self) -> NodeId {
        self.config.cluster.as_ref().map_or(0, |cluster| cluster.node)
    }

    /// How long it has been running.
    pub fn uptime_ms(&self) -> Millis {
        self.workers.now.mono.saturating_sub(self.workers.started.mono)
    }

    /// Shards that nobody leads, as far as this node knows.
    pub fn leaderless(&self) -> usize {
        self.workers
            .shards
            .iter()
            .filter(|s| s.role == Role::Follower && s.leader.is_none())
            .count()
    }

    /// Whether this node reaches more than half of the nodes, itself included.
    pub fn has_quorum(&self) -> bool {
        let up = self.workers.peers.iter().filter(|peer| peer.up).count() + 1;
        up > self.workers.peers.len().div_ceil(2)
    }
}

impl WorkerStatus {
    fn add(&mut self, other: Self) {
        self.started.mono = self.started.mono.min(other.started.mono);
        self.now.mono = self.now.mono.max(other.now.mono);
        self.now.wall = self.now.wall.max(other.now.wall);
        self.stats.add(&other.stats);
        self.rates.add(&other.rates);
        self.shards.extend(other.shards);
        for (peer, seen) in self.peers.iter_mut().zip(other.peers) {
            // Only one worker of a node is told what another node says of itself.
            peer.about = peer.about.take().or(seen.about);
            peer.up &= seen.up;
        }
        self.disk_full |= other.disk_full;
        self.throttled |= other.throttled;
        self.stopping |= other.stopping;
    }
}

impl Worker {
    /// What this worker tells of itself now; it changes nothing.
    pub fn status(&self, now: Time) -> WorkerStatus {
        WorkerStatus {
            started: self.started,
            now,
            stats: self.stats_now(None),
            rates: self.recent.rates(now.mono, &self.stats),
            shards: self.shards.iter().flatten().filter_map(|s| self.shard_status(s)).collect(),
            peers: self.peers.status(self.started.wall),
            disk_full: self.disk_full,
            throttled: self.throttled,
            stopping: self.stopping,
        }
    }

    fn shard_status(&self, shard: &Shard) -> Option<ShardStatus> {
        let keyspace = self.db.get(shard.id)?;
        let log = &shard.log;
        let spaces = self.db.map().spaces().iter();
        let space = spaces.filter(|s| s.first <= shard.id).max_by_key(|s| s.first)?;
        let places = space.places(shard.id);
        let slot = |place: u64| (place >> HASH_BITS) as u16;
        let role = match &shard.replica {
            None => Role::Alone,
            Some(_) if log.is_leader() => Role::Leader,
            Some(_) => Role::Follower,
        };
        let state = match shard.replica.as_ref().map(|replica| &replica.phase) {
            Some(Phase::Damaged { .. }) => ReplicaState::Damaged,
            Some(Phase::Installing(_)) => ReplicaState::Installing,
            Some(Phase::Rebuilding) => ReplicaState::Rebuilding,
            Some(Phase::Serving) | None if log.is_lost() => ReplicaState::Lost,
            Some(Phase::Serving) | None => ReplicaState::Serving,
        };
        Some(ShardStatus {
            shard: shard.id,
            space: space.id,
            slots: slot(places.start)..=slot(places.end - 1),
            role,
            state,
            leader: log.leader().filter(|_| role != Role::Alone),
            term: log.term(),
            last: log.last_index(),
            committed: log.commit(),
            applied: shard.replica.as_ref().map_or(log.last_index(), |replica| replica.memory),
            flushed: keyspace.durable().applied,
            followers: log.followers(),
            keys: keyspace.keys(),
            memory_bytes: keyspace.memory_bytes() as u64,
            resident: keyspace.resident(),
            commands: shard.commands,
        })
    }
}
