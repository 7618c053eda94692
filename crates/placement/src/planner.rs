//! One planning round: what every rule looks at and takes from.
//!
//! [`Planner::new`] turns the state into dense indexes once; the rules then read it, and
//! [`Planner::issue`] keeps the sums and bounds right with each move that they make, so that the
//! next decision already sees the last one. Sums are *projected*: a replica that is being added
//! counts where it will be, one that is to go does not count, and so no round repeats what an
//! earlier one began.
//!
//! Memory beside the state: about 8 bytes for each replica, 16 for each shard, and a few hundred
//! for each node; 4.4 MiB for 1,000 nodes and 100,000 shards of three replicas.

mod bounds;
mod index;

use crate::hindrance::Hindrance;
use crate::limits::Limits;
use crate::moves::{Action, Move, Plan, Urgency};
use crate::state::{Invalid, Name, Replica, Shard, Space, State};
use quorate_base::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// What replicas are weighed by: their number, bytes, and load.
pub(crate) const HOLDS: usize = 3;
/// What leaders are weighed by: their number and load.
pub(crate) const LEADS: usize = 2;

/// A node as planning sees it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) id: NodeId,
    pub(crate) zone: usize,
    pub(crate) region: usize,
    pub(crate) weight: f64,
    pub(crate) alive: bool,
    /// Gone for so long that its replicas are replaced.
    pub(crate) given_up: bool,
    pub(crate) draining: bool,
    /// Whether it may be given something.
    pub(crate) takes: bool,
    /// Bytes that may still be copied to it.
    pub(crate) free: u64,
    /// Copies it receives or sends.
    pub(crate) copies: u32,
    /// Hand-overs of leadership it takes part in.
    pub(crate) transfers: u32,
    /// What its replicas add up to.
    pub(crate) holds: [f64; HOLDS],
    /// What the shards it leads add up to.
    pub(crate) leads: [f64; LEADS],
}

/// Nodes that fail together.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) name: Name,
    pub(crate) region: usize,
    /// Nodes that may be given something, the emptiest first. The first part of the key is
    /// [`Planner::fullness`], whose bits order like the number because it is never negative.
    pub(crate) emptiest: BTreeSet<(u64, usize)>,
}

/// A space as planning sees it.
#[derive(Debug)]
pub(crate) struct Realm {
    /// By region.
    pub(crate) allowed: Vec<bool>,
    pub(crate) wanted: usize,
    /// The region its leaders should be in, if that is the same for all.
    pub(crate) leaders: Option<usize>,
    pub(crate) follows_load: bool,
    /// The least crowding there can be.
    pub(crate) ideal: Crowding,
}

/// How badly replicas are spread; the first part that differs decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Crowding {
    /// Pairs of replicas in the same zone.
    pub(crate) zone_pairs: usize,
    /// Whether no replica is in the region that leaders should be in.
    pub(crate) no_leader: bool,
    /// Pairs of replicas in the same region.
    pub(crate) region_pairs: usize,
}

/// The state of a planning round.
pub(crate) struct Planner<'a> {
    pub(crate) state: &'a State,
    pub(crate) limits: &'a Limits,
    /// As in the state; behind them one that is nowhere, and those that have replicas and are not
    /// in the state.
    pub(crate) sites: Vec<Site>,
    unknown: BTreeMap<NodeId, usize>,
    /// The last one is for nodes that are nowhere.
    pub(crate) zones: Vec<Zone>,
    pub(crate) regions: Vec<Name>,
    pub(crate) realms: Vec<Realm>,
    /// The sites of each shard's replicas, in their order, and where each shard's begin.
    seats: Vec<u32>,
    starts: Vec<u32>,
    /// By shard: its space.
    realm_of: Vec<u32>,
    /// Shards in the order of spaces and slots.
    pub(crate) in_order: Vec<u32>,
    /// What a weight of 1 has on average, at least the floor.
    pub(crate) hold_means: [f64; HOLDS],
    pub(crate) lead_means: [f64; LEADS],
    /// Shards that nothing more may be planned for in this round.
    pub(crate) busy: Vec<bool>,
    /// Shards whose replicas are kept where they are because they are about to be merged.
    pub(crate) frozen: Vec<bool>,
    /// Shards that want something more urgent already: what comes later leaves them alone.
    pub(crate) troubled: Vec<bool>,
    /// Shards counted among those that wait or are hindered.
    counted: Vec<bool>,
    moving_shards: usize,
    moving_bytes: u64,
    bytes: u64,
    plan: Plan,
    /// The shard to be explained.
    pub(crate) watched: Option<usize>,
    /// What was found about it, in the order of urgency.
    pub(crate) notes: Vec<(Urgency, Hindrance)>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(
        state: &'a State,
        limits: &'a Limits,
        watched: Option<usize>,
    ) -> Result<Self, Invalid> {
        state.check()?;
        limits.check()?;
        let mut planner = Self {
            state,
            limits,
            sites: Vec::with_capacity(state.nodes.len() + 1),
            unknown: BTreeMap::new(),
            zones: Vec::new(),
            regions: Vec::new(),
            realms: Vec::new(),
            seats: Vec::with_capacity(state.shards.len() * 3),
            starts: Vec::with_capacity(state.shards.len() + 1),
            realm_of: Vec::with_capacity(state.shards.len()),
            in_order: Vec::new(),
            hold_means: [0.0; HOLDS],
            lead_means: [0.0; LEADS],
            busy: vec![false; state.shards.len()],
            frozen: vec![false; state.shards.len()],
            troubled: vec![false; state.shards.len()],
            counted: vec![false; state.shards.len()],
            moving_shards: 0,
            moving_bytes: 0,
            bytes: 0,
            plan: Plan::default(),
            watched,
            notes: Vec::new(),
        };
        planner.place_nodes();
        planner.seat_replicas();
        planner.know_spaces();
        planner.put_in_order()?;
        planner.add_up();
        Ok(planner)
    }

    pub(crate) fn finish(mut self) -> Plan {
        self.plan.moving = self.moving_shards;
        self.plan
    }

    pub(crate) fn moves(&self) -> &[Move] {
        &self.plan.moves
    }

    // --- looking -----------------------------------------------------------------------------------

    fn seat_range(&self, shard: usize) -> std::ops::Range<usize> {
        self.starts[shard] as usize..self.starts[shard + 1] as usize
    }

    /// A shard's replicas and the sites they are at.
    pub(crate) fn members(&self, shard: usize) -> impl Iterator<Item = (usize, &'a Replica)> {
        let seats = self.seats[self.seat_range(shard)].iter();
        seats.map(|seat| *seat as usize).zip(&self.state.shards[shard].replicas)
    }

    pub(crate) fn shard(&self, shard: usize) -> &'a Shard {
        &self.state.shards[shard]
    }

    pub(crate) fn space(&self, shard: usize) -> &'a Space {
        &self.state.spaces[self.realm_of[shard] as usize]
    }

    pub(crate) fn realm(&self, shard: usize) -> &Realm {
        &self.realms[self.realm_of[shard] as usize]
    }

    pub(crate) fn is_allowed(&self, shard: usize, site: usize) -> bool {
        self.realm(shard).allowed[self.sites[site].region]
    }

    /// Where a shard's leader is, if it is alive.
    pub(crate) fn leader(&self, shard: usize) -> Option<usize> {
        let site = self.site_of(self.shard(shard).leader?);
        self.sites[site].alive.then_some(site)
    }

    /// Whether a shard has a leader and a majority of its voters, so that it can be changed.
    pub(crate) fn has_quorum(&self, shard: usize) -> bool {
        let mut voters = (0, 0);
        for (site, _) in self.members(shard).filter(|(_, replica)| replica.votes()) {
            voters.0 += usize::from(self.sites[site].alive);
            voters.1 += 1;
        }
        voters.0 > voters.1 / 2 && self.leader(shard).is_some()
    }

    /// The region that a shard's leader should be in.
    pub(crate) fn leader_region(&self, shard: usize) -> Option<usize> {
        let realm = self.realm(shard);
        if realm.follows_load {
            let origin = self.shard(shard).origin.as_ref()?;
            return self.regions.iter().position(|region| region == origin);
        }
        realm.leaders
    }

    /// A node as reasons call it.
    pub(crate) fn called(&self, site: usize) -> String {
        match self.state.nodes.get(site) {
            Some(node) => format!("node {} ({})", node.id, node.name),
            None => format!("node {} (not known any more)", self.id(site)),
        }
    }

    pub(crate) fn id(&self, site: usize) -> NodeId {
        self.sites[site].id
    }

    /// How `sites` are spread.
    pub(crate) fn crowding(&self, shard: usize, sites: &[usize]) -> Crowding {
        let mut crowding = Crowding::default();
        for (at, site) in sites.iter().enumerate() {
            crowding = self.crowd(crowding, &sites[..at], self.sites[*site].zone);
        }
        let is_there = |region| sites.iter().any(|site| self.sites[*site].region == region);
        crowding.no_leader = self.realm(shard).leaders.is_some_and(|region| !is_there(region));
        crowding
    }

    /// The same with one more replica in `zone`.
    pub(crate) fn crowding_with(&self, shard: usize, sites: &[usize], zone: usize) -> Crowding {
        let mut crowding = self.crowd(self.crowding(shard, sites), sites, zone);
        let region = self.zones[zone].region;
        crowding.no_leader &= self.realm(shard).leaders != Some(region);
        crowding
    }

    fn crowd(&self, crowding: Crowding, sites: &[usize], zone: usize) -> Crowding {
        let region = self.zones[zone].region;
        let in_zone = sites.iter().filter(|site| self.sites[**site].zone == zone).count();
        let in_region = sites.iter().filter(|site| self.sites[**site].region == region).count();
        Crowding {
            zone_pairs: crowding.zone_pairs + in_zone,
            region_pairs: crowding.region_pairs + in_region,
            ..crowding
        }
    }

    // --- deciding ----------------------------------------------------------------------------------

    /// Makes a move.
    pub(crate) fn issue(&mut self, at: usize, urgency: Urgency, action: Action, reason: String) {
        assert!(!self.busy[at], "a second move for shard {} in one round", self.shard(at).id);
        let shard = self.shard(at);
        self.busy[at] = true;
        self.troubled[at] = true;
        self.moving_shards += usize::from(!self.is_moving(at));
        match action {
            Action::AddReplica { node, instead_of } => {
                let site = self.site_of(node);
                self.hold(site, shard, 1.0);
                if let Some(old) = instead_of {
                    self.hold(self.site_of(old), shard, -1.0);
                }
                self.count_copy(at, site);
            }
            Action::Transfer { from, to } => {
                for (node, times) in [(from, -1.0), (to, 1.0)] {
                    let site = self.site_of(node);
                    add(&mut self.sites[site].leads, &leader_weights_of(shard), times);
                    self.sites[site].transfers += 1;
                }
            }
            Action::Promote { .. }
            | Action::Replace { .. }
            | Action::Remove { .. }
            | Action::Split { .. }
            | Action::Merge { .. } => {}
        }
        self.plan.moves.push(Move { shard: shard.id, epoch: shard.epoch, action, urgency, reason });
    }

    fn hold(&mut self, site: usize, shard: &Shard, times: f64) {
        let (zone, takes) = (self.sites[site].zone, self.sites[site].takes);
        if takes {
            let key = (self.fullness(site).to_bits(), site);
            self.zones[zone].emptiest.remove(&key);
        }
        add(&mut self.sites[site].holds, &weights_of(shard), times);
        if takes {
            let key = (self.fullness(site).to_bits(), site);
            self.zones[zone].emptiest.insert(key);
        }
    }

    /// Notes that a shard wants something and does not get it now.
    pub(crate) fn hinder(&mut self, shard: usize, urgency: Urgency, hindrance: Hindrance) {
        // What does not pass and is no danger must not keep a shard from being balanced.
        self.troubled[shard] |= hindrance.passes() || !urgency.is_patient();
        if !self.counted[shard] {
            self.counted[shard] = true;
            if hindrance.passes() {
                self.plan.waiting += 1;
            } else {
                self.plan.hindered += 1;
            }
        }
        if self.watched == Some(shard) {
            self.notes.push((urgency, hindrance));
        }
    }
}

/// What a replica weighs.
pub(crate) fn weights_of(shard: &Shard) -> [f64; HOLDS] {
    [1.0, shard.bytes as f64, shard.load as f64]
}

/// What leading weighs.
pub(crate) fn leader_weights_of(shard: &Shard) -> [f64; LEADS] {
    [1.0, shard.load as f64]
}

fn add<const N: usize>(sums: &mut [f64; N], weights: &[f64; N], times: f64) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum += weight * times;
    }
}
