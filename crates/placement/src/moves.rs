//! What comes out of a planning round: moves, in the order of their urgency, each with its reason.

use quorate_base::ShardId;
use quorate_base::ids::NodeId;
use std::fmt;

/// What to do now, the most urgent first, and what has to wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one for each shard; all of them may be carried out at the same time.
    pub moves: Vec<Move>,
    /// Shards that are being changed, with these moves.
    pub moving: usize,
    /// Shards that want something and wait for a bound, a copy or a time to pass.
    pub waiting: usize,
    /// Shards that want something that is not possible as things are.
    pub hindered: usize,
}

impl Plan {
    /// Whether nothing is being changed, nothing waits, and nothing is to be done.
    pub fn is_at_rest(&self) -> bool {
        self.moving == 0 && self.waiting == 0
    }
}

/// One step for one shard. It counts only for the epoch it was planned for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub shard: ShardId,
    /// The shard's epoch that it was planned for: with any other it must not be carried out.
    pub epoch: u64,
    /// What.
    pub action: Action,
    /// How urgent.
    pub urgency: Urgency,
    /// Why, for a person, with figures.
    pub reason: String,
}

/// What can be done to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new replica that learns and does not vote yet.
    AddReplica {
        /// Where.
        node: NodeId,
        /// The voter whose seat it will take; to be kept as [`crate::Role::Learner`]'s.
        instead_of: Option<NodeId>,
    },
    /// A learner that has caught up becomes a voter.
    Promote {
        /// Which.
        node: NodeId,
    },
    /// A learner that has caught up takes the seat of a voter, whose replica goes: one joint
    /// change, so that the number of voters is never even in between. If `old` leads, which only
    /// happens when it is the only voter, leadership passes to `new` when the change is done.
    Replace {
        /// The voter.
        old: NodeId,
        /// The learner.
        new: NodeId,
    },
    /// Leadership goes from one voter to another.
    Transfer {
        /// Who leads.
        from: NodeId,
        /// Who shall.
        to: NodeId,
    },
    /// A replica goes that is not needed any more.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// One shard becomes two, on the same nodes.
    Split {
        /// The first slot of the new one.
        at: u16,
    },
    /// The shard takes in its right neighbour, whose replicas and leader are where its own are.
    Merge {
        /// The neighbour, which ends.
        with: ShardId,
    },
}

/// Why a move is made, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// One more failure and the shard stops.
    QuorumAtRisk,
    /// There are fewer replicas than asked for.
    UnderReplicated,
    /// Data is in a region that it may not be in (because the rules changed).
    Residency,
    /// A node is to be emptied.
    Drain,
    /// There are more replicas than asked for.
    Surplus,
    /// A learner that was added for a lesser reason has caught up, or is not needed any more.
    Finish,
    /// Replicas share a zone, or a region, without need.
    Spread,
    /// The shard is too big or too hot.
    Split,
    /// The leader is not in the region it should be in.
    Leader,
    /// Nodes have more or less than their share.
    Balance,
    /// Neighbours are so small that one shard would do.
    Merge,
}

impl Urgency {
    /// Whether it can wait, so that only half of the bounds are open to it.
    pub(crate) fn is_patient(self) -> bool {
        self >= Self::Spread
    }
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuorumAtRisk => "quorum at risk",
            Self::UnderReplicated => "under-replicated",
            Self::Residency => "residency violated",
            Self::Drain => "drain",
            Self::Surplus => "surplus",
            Self::Finish => "finish",
            Self::Spread => "spread",
            Self::Split => "split",
            Self::Leader => "leader preference",
            Self::Balance => "balance",
            Self::Merge => "merge",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AddReplica { node, instead_of: None } => {
                write!(f, "add a replica on node {node}")
            }
            Self::AddReplica { node, instead_of: Some(old) } => {
                write!(f, "add a replica on node {node}, to replace the one on node {old}")
            }
            Self::Promote { node } => write!(f, "let the replica on node {node} vote"),
            Self::Replace { old, new } => {
                write!(f, "replace the voter on node {old} by the one on node {new}")
            }
            Self::Transfer { from, to } => {
                write!(f, "hand leadership from node {from} to node {to}")
            }
            Self::Remove { node } => write!(f, "remove the replica on node {node}"),
            Self::Split { at } => write!(f, "split at slot {at}"),
            Self::Merge { with } => write!(f, "merge with shard {with}"),
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}: {} ({}: {})", self.shard, self.action, self.urgency, self.reason)
    }
}
