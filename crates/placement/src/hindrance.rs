//! Why something that should be done is not done now.

use crate::moves::Action;
use crate::state::Name;
use crate::text::{bytes, seconds};
use quorate_base::Millis;
use quorate_base::ids::NodeId;
use std::fmt;

/// What keeps a shard's next step from being taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Hindrance {
    /// The last move has not ended.
    UnderWay(Action),
    /// A learner is still being filled.
    Copying {
        /// Where.
        node: NodeId,
        /// Entries it lacks.
        lag: u64,
    },
    /// A node may come back.
    MayReturn {
        /// Which.
        node: NodeId,
        /// How long it has been gone.
        gone_ms: Millis,
        /// When its replicas are replaced.
        after_ms: Millis,
    },
    /// A node takes part in as much as it may.
    NodeBusy {
        /// Which.
        node: NodeId,
        /// Its copies or hand-overs of leadership.
        moves: u32,
        /// Their bound.
        max: u32,
    },
    /// As many shards are being changed as may be.
    ShardsMoving {
        /// How many.
        moving: usize,
        /// Their bound, at this urgency.
        max: usize,
    },
    /// As many bytes are being copied as may be.
    BytesMoving {
        /// How many.
        moving: u64,
        /// What would come to them.
        more: u64,
        /// Their bound, at this urgency.
        max: u64,
    },
    /// The number of voters would stay even until a second replica has caught up.
    WouldBeEven {
        /// Voters now.
        voters: usize,
        /// Voters asked for.
        wanted: usize,
    },
    /// Too few voters are alive to agree to anything.
    QuorumLost {
        /// How many are alive.
        alive: usize,
        /// Of how many.
        voters: usize,
    },
    /// Nobody is known to lead; the voters that are alive will elect somebody.
    NoLeader,
    /// No other voter is alive and has all that the leader has.
    NoSuccessor {
        /// Who leads.
        leader: NodeId,
    },
    /// Without this voter the others could not agree, or healthy replicas would be too few.
    Needed {
        /// Which.
        node: NodeId,
        /// Voters that would be left.
        voters: usize,
        /// How many of them are alive and have all.
        sound: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// No node can take a replica.
    NoSeat {
        /// Why not, zone by zone; only [`crate::explain`] fills it in.
        zones: Vec<ZoneRefusal>,
    },
    /// A shard of one slot cannot be split.
    OneSlot,
    /// There are as many shards as may be.
    ShardsMax {
        /// How many.
        max: usize,
    },
}

/// Why a zone has no place for a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneRefusal {
    /// The zone.
    pub zone: Name,
    /// Its region.
    pub region: Name,
    /// Why.
    pub why: Refusal,
}

/// Why no node of a zone takes a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The space may not be in its region.
    RegionNotAllowed,
    /// Its nodes are gone, are draining, or have no weight.
    NoneTakes,
    /// All nodes that would take one have one.
    AllHold,
    /// None that would take one has enough room.
    NoRoom {
        /// Bytes that the copy needs.
        needs: u64,
        /// Bytes that the emptiest could still take.
        free: u64,
    },
    /// There is room, but the replicas would be spread no better.
    NoBetter,
}

impl Hindrance {
    /// Whether it passes by itself.
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::UnderWay(_)
                | Self::Copying { .. }
                | Self::MayReturn { .. }
                | Self::NodeBusy { .. }
                | Self::ShardsMoving { .. }
                | Self::BytesMoving { .. }
        )
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay(action) => write!(f, "waits for a move under way: {action}"),
            Self::Copying { node, lag } => {
                write!(f, "waits: the replica on node {node} lacks {lag} entries")
            }
            Self::MayReturn { node, gone_ms, after_ms } => write!(
                f,
                "waits: node {node} has been gone for {}, its replicas are replaced after {}",
                seconds(*gone_ms),
                seconds(*after_ms)
            ),
            Self::NodeBusy { node, moves, max } => {
                write!(f, "waits: {moves} of {max} moves of node {node} in flight")
            }
            Self::ShardsMoving { moving, max } => {
                write!(f, "waits: {moving} shards are being changed, of {max} that may be")
            }
            Self::BytesMoving { moving, more, max } => write!(
                f,
                "waits: {} are being copied, and {} more would pass {}",
                bytes(*moving),
                bytes(*more),
                bytes(*max)
            ),
            Self::WouldBeEven { voters, wanted } => write!(
                f,
                "waits for another replica: {} voters survive no more failures than {voters}, and \
                 {wanted} are wanted",
                voters + 1
            ),
            Self::QuorumLost { alive, voters } => write!(
                f,
                "quorum lost: {alive} of {voters} voters alive, so nothing can be agreed on until \
                 more of them come back"
            ),
            Self::NoLeader => f.write_str("no leader is known, so nothing can be agreed on yet"),
            Self::NoSuccessor { leader } => write!(
                f,
                "node {leader} leads, and no other voter is fit to: alive, not draining, and with \
                 all entries"
            ),
            Self::Needed { node, voters, sound, wanted } => write!(
                f,
                "without node {node} only {sound} of {voters} voters would be alive and have all \
                 entries, of {wanted} wanted"
            ),
            Self::NoSeat { zones } => {
                f.write_str("no node can take a replica")?;
                for (at, zone) in zones.iter().enumerate() {
                    write!(f, "{}{zone}", if at == 0 { ": " } else { "; " })?;
                }
                Ok(())
            }
            Self::OneSlot => {
                f.write_str("it has one slot and cannot be split: all of it is in one hash slot")
            }
            Self::ShardsMax { max } => write!(f, "there are {max} shards, as many as may be"),
        }
    }
}

impl fmt::Display for ZoneRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone, region, why } = self;
        match why {
            Refusal::RegionNotAllowed => {
                write!(f, "zone {zone} is in region {region}, which the space does not allow")
            }
            Refusal::NoneTakes => {
                write!(f, "zone {zone} has no node that is alive and not draining")
            }
            Refusal::AllHold => write!(f, "every node of zone {zone} that could has a replica"),
            Refusal::NoRoom { needs, free } => write!(
                f,
                "zone {zone} has no node with room ({} needed, {} free at most)",
                bytes(*needs),
                bytes(*free)
            ),
            Refusal::NoBetter => write!(f, "in zone {zone} it would be no better"),
        }
    }
}
