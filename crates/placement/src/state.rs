//! What is observed: the input of a planning round.
//!
//! Plain values without references between them, so that whoever gathers them (from the meta
//! group's table and the nodes' reports) can build them piece by piece. Lists are ascending by
//! id; [`State::check`] says what else must hold.

use quorate_base::ids::NodeId;
use quorate_base::limits::SLOTS;
use quorate_base::{Millis, ShardId, SpaceId};
use std::fmt;
use std::sync::Arc;

use crate::moves::Action;

/// A name that many values share.
pub type Name = Arc<str>;

/// Everything that a planning round looks at.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Monotonic time of whoever plans, on the same clock as [`Health::Gone`].
    pub now: Millis,
    /// All nodes that hold data or may, ascending by id. Gateways are not among them.
    pub nodes: Vec<Node>,
    /// All spaces, ascending by id.
    pub spaces: Vec<Space>,
    /// All shards, ascending by id.
    pub shards: Vec<Shard>,
}

/// A node that can hold replicas.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id, not 0.
    pub id: NodeId,
    /// What people call it.
    pub name: Name,
    /// Where it is, for residency.
    pub region: Name,
    /// What fails together with it; zones of different regions are different though they may
    /// share a name.
    pub zone: Name,
    /// Whether it is there.
    pub health: Health,
    /// Whether it is to be emptied. It keeps serving what it has until that is elsewhere.
    pub draining: bool,
    /// Its share of replicas, leaders, bytes and load, relative to the other nodes'. With 0 it
    /// is given nothing.
    pub weight: u32,
    /// Bytes of data on its disk.
    pub used_bytes: u64,
    /// Bytes that are free there.
    pub available_bytes: u64,
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It reports.
    Alive,
    /// It cannot be reached. It counts against every quorum from the first moment, and is
    /// replaced after [`crate::Limits::repair_after_ms`].
    Gone {
        /// When it was last heard of. Whoever takes over planning, with another clock, starts
        /// anew with its own time: later than true is safe, earlier is not.
        since: Millis,
    },
}

/// A keyspace with its own rules.
#[derive(Clone, Debug)]
pub struct Space {
    /// Its id.
    pub id: SpaceId,
    /// What people call it.
    pub name: Name,
    /// How many voters each of its shards wants.
    pub replicas: u8,
    /// Regions that its data may be in; empty means all.
    pub regions: Vec<Name>,
    /// Where its leaders should be.
    pub leader: LeaderPreference,
    /// Its shards are not merged to fewer than this.
    pub shards_min: u32,
}

/// Where leaders should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderPreference {
    /// Wherever they balance best.
    Anywhere,
    /// In this region, where one replica is kept if the zones allow it.
    Region(Name),
    /// In the region that most requests come from ([`Shard::origin`]), if a replica is there.
    FollowLoad,
}

/// A shard and its replicas.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// Its space.
    pub space: SpaceId,
    /// First slot.
    pub first: u16,
    /// Last slot, which belongs to it.
    pub last: u16,
    /// Grows with each change of its slots or replicas; a move names the epoch it was planned for.
    pub epoch: u64,
    /// Its replicas, at most one on a node.
    pub replicas: Vec<Replica>,
    /// Who leads, as far as known.
    pub leader: Option<NodeId>,
    /// Bytes of one replica.
    pub bytes: u64,
    /// Requests per second.
    pub load: u64,
    /// The region that most requests come from.
    pub origin: Option<Name>,
    /// Where a split would make two halves of equal weight: the first slot of the second. Without
    /// it a split halves the slots.
    pub middle: Option<u16>,
    /// The move that was begun and is not over. Whoever carries moves out ends each of them, done
    /// or given up; until then nothing is planned for the shard.
    pub under_way: Option<Action>,
}

/// A copy of a shard.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Where it is.
    pub node: NodeId,
    /// Whether it votes.
    pub role: Role,
    /// Whether it has nearly all that the leader has, as the leader sees it.
    pub caught_up: bool,
    /// Entries it lacks.
    pub lag: u64,
}

/// Whether a replica votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It counts in quorums.
    Voter,
    /// It only follows, until it is promoted.
    Learner {
        /// The voter whose seat it is to take, as the move that added it said.
        instead_of: Option<NodeId>,
    },
}

impl Replica {
    /// Whether it counts in quorums.
    pub fn votes(&self) -> bool {
        self.role == Role::Voter
    }
}

impl Shard {
    /// How many slots it has.
    pub fn slots(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// The nodes of its voters.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.replicas.iter().filter(|replica| replica.votes()).map(|replica| replica.node)
    }
}

/// Why a state or limits cannot be planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub(crate) String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl State {
    /// Checks what planning relies on. What only matters between shards of a space, that their
    /// slots do not overlap, is checked when they are put in order.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |text: String| Err(Invalid(text));
        if self.nodes.first().is_some_and(|node| node.id == 0) {
            return invalid("node 0 is no node".into());
        }
        if let Some(pair) = self.nodes.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return invalid(format!("node {} does not come after {}", pair[1].id, pair[0].id));
        }
        if let Some(pair) = self.spaces.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return invalid(format!("space {} does not come after {}", pair[1].id, pair[0].id));
        }
        if let Some(space) = self.spaces.iter().find(|space| space.replicas == 0) {
            return invalid(format!("space {} wants no replica at all", space.name));
        }
        if let Some(pair) = self.shards.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return invalid(format!("shard {} does not come after {}", pair[1].id, pair[0].id));
        }
        self.shards.iter().try_for_each(|shard| {
            self.check_shard(shard).map_err(|text| Invalid(format!("shard {}: {text}", shard.id)))
        })
    }

    fn check_shard(&self, shard: &Shard) -> Result<(), String> {
        if self.space(shard.space).is_none() {
            return Err(format!("its space {} is not known", shard.space));
        }
        if shard.first > shard.last || shard.last >= SLOTS {
            return Err(format!("slots {} to {} are no range", shard.first, shard.last));
        }
        for (at, replica) in shard.replicas.iter().enumerate() {
            if shard.replicas[..at].iter().any(|other| other.node == replica.node) {
                return Err(format!("two replicas on node {}", replica.node));
            }
        }
        if shard.voters().next().is_none() {
            return Err("no replica votes".into());
        }
        match shard.leader {
            Some(leader) if !shard.voters().any(|voter| voter == leader) => {
                Err(format!("node {leader} leads and does not vote"))
            }
            _ => Ok(()),
        }
    }

    /// The node called `id`.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    /// The space called `id`.
    pub fn space(&self, id: SpaceId) -> Option<&Space> {
        self.spaces.binary_search_by_key(&id, |space| space.id).ok().map(|at| &self.spaces[at])
    }

    /// The shard called `id`.
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.binary_search_by_key(&id, |shard| shard.id).ok().map(|at| &self.shards[at])
    }
}
