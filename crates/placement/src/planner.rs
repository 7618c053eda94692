//! One planning round: what every rule looks at and takes from.
//!
//! [`Planner::new`] turns the state into dense indexes once; the rules then read it, and
//! [`Planner::issue`] keeps the sums and bounds right with each move that they make, so that the
//! next decision already sees the last one. Sums are *projected*: a replica that is being added
//! counts where it will be, one that is to go does not count, and so no round repeats what an
//! earlier one began.
//!
//! Memory beside the state: about 30 bytes for each replica and 40 for each shard, and a few
//! hundred for each node.

use crate::hindrance::Hindrance;
use crate::limits::{Limits, MOVING_SHARDS_MIN};
use crate::moves::{Action, Move, Plan, Urgency};
use crate::state::{Health, Invalid, LeaderPreference, Name, Replica, Role, Shard, Space, State};
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

    // --- what there is -------------------------------------------------------------------------

    fn place_nodes(&mut self) {
        let state = self.state;
        let (mut regions, mut zones) = (BTreeSet::new(), BTreeSet::new());
        for node in &state.nodes {
            regions.insert(&node.region);
            zones.insert((&node.region, &node.zone));
        }
        let regions: Vec<&Name> = regions.into_iter().collect();
        let zones: Vec<(&Name, &Name)> = zones.into_iter().collect();
        for node in &state.nodes {
            let gone_ms = match node.health {
                Health::Alive => None,
                Health::Gone { since } => Some(state.now.saturating_sub(since)),
            };
            let reserve = self.limits.disk_reserve_share
                * node.used_bytes.saturating_add(node.available_bytes) as f64;
            self.sites.push(Site {
                id: node.id,
                zone: zones.binary_search(&(&node.region, &node.zone)).expect("collected above"),
                region: regions.binary_search(&&node.region).expect("collected above"),
                weight: f64::from(node.weight),
                alive: gone_ms.is_none(),
                given_up: gone_ms.is_some_and(|ms| ms >= self.limits.repair_after_ms),
                draining: node.draining,
                takes: gone_ms.is_none() && !node.draining && node.weight > 0,
                free: node.available_bytes.saturating_sub(reserve as u64),
                copies: 0,
                transfers: 0,
                holds: [0.0; HOLDS],
                leads: [0.0; LEADS],
            });
        }
        self.sites.push(nowhere(0, zones.len(), regions.len()));
        let region_of = |name: &Name| regions.binary_search(&name).expect("collected above");
        self.zones = zones
            .iter()
            .map(|(region, name)| Zone {
                name: (*name).clone(),
                region: region_of(region),
                emptiest: BTreeSet::new(),
            })
            .collect();
        self.regions = regions.into_iter().cloned().collect();
        let region = self.regions.len();
        self.zones.push(Zone { name: "nowhere".into(), region, emptiest: BTreeSet::new() });
        self.regions.push("nowhere".into());
    }

    fn seat_replicas(&mut self) {
        let state = self.state;
        self.starts.push(0);
        for shard in &state.shards {
            for replica in &shard.replicas {
                let mut site = self.site_of(replica.node);
                if self.sites[site].id != replica.node {
                    site = self.sites.len();
                    self.unknown.insert(replica.node, site);
                    self.sites.push(nowhere(
                        replica.node,
                        self.zones.len() - 1,
                        self.regions.len() - 1,
                    ));
                }
                self.seats.push(site as u32);
            }
            self.starts.push(self.seats.len() as u32);
            let realm = state.spaces.binary_search_by_key(&shard.space, |space| space.id);
            self.realm_of.push(realm.expect("the state was checked") as u32);
        }
    }

    /// The site of a node; the one that is nowhere for a node that nothing is known of.
    pub(crate) fn site_of(&self, node: NodeId) -> usize {
        let nodes = &self.state.nodes;
        nodes
            .binary_search_by_key(&node, |node| node.id)
            .unwrap_or_else(|_| self.unknown.get(&node).copied().unwrap_or(nodes.len()))
    }

    fn know_spaces(&mut self) {
        for space in &self.state.spaces {
            let allowed: Vec<bool> = (0..self.regions.len() - 1)
                .map(|at| space.regions.is_empty() || space.regions.contains(&self.regions[at]))
                .chain([false])
                .collect();
            let leaders = match &space.leader {
                LeaderPreference::Region(name) => {
                    let region = self.regions[..self.regions.len() - 1].binary_search(name).ok();
                    region.filter(|region| allowed[*region])
                }
                LeaderPreference::Anywhere | LeaderPreference::FollowLoad => None,
            };
            let ideal = self.ideal(&allowed, usize::from(space.replicas));
            self.realms.push(Realm {
                allowed,
                wanted: usize::from(space.replicas),
                leaders,
                follows_load: space.leader == LeaderPreference::FollowLoad,
                ideal,
            });
        }
    }

    /// The least pairs there can be, zones and regions each taken by themselves.
    fn ideal(&self, allowed: &[bool], wanted: usize) -> Crowding {
        let mut by_zone = vec![0; self.zones.len()];
        let mut by_region = vec![0; self.regions.len()];
        // Those without weight are given nothing, and keep what they have.
        let stays = |site: &&Site| site.alive && !site.draining && allowed[site.region];
        for site in self.sites.iter().filter(stays) {
            by_zone[site.zone] += 1;
            by_region[site.region] += 1;
        }
        Crowding {
            zone_pairs: pairs_at_least(&by_zone, wanted),
            no_leader: false,
            region_pairs: pairs_at_least(&by_region, wanted),
        }
    }

    fn put_in_order(&mut self) -> Result<(), Invalid> {
        let shards = &self.state.shards;
        let place = |at: u32| (shards[at as usize].space, shards[at as usize].first);
        self.in_order = (0..shards.len() as u32).collect();
        self.in_order.sort_unstable_by_key(|at| place(*at));
        for pair in self.in_order.windows(2) {
            let (left, right) = (&shards[pair[0] as usize], &shards[pair[1] as usize]);
            if left.space == right.space && left.last >= right.first {
                let text = format!("shards {} and {} share slots", left.id, right.id);
                return Err(Invalid(text));
            }
        }
        Ok(())
    }

    // --- sums and what is in flight --------------------------------------------------------------

    fn add_up(&mut self) {
        for at in 0..self.state.shards.len() {
            self.add_up_shard(at);
        }
        let weights: f64 =
            self.sites.iter().filter(|site| site.takes).map(|site| site.weight).sum();
        let mean = |sum: f64, floor: f64| (sum / weights.max(1.0)).max(floor);
        let floors =
            [1e-6, self.limits.bytes_floor.max(1) as f64, self.limits.load_floor.max(1) as f64];
        for (measure, floor) in floors.into_iter().enumerate() {
            let sum = self.sites.iter().map(|site| site.holds[measure]).sum();
            self.hold_means[measure] = mean(sum, floor);
        }
        for (measure, floor) in [floors[0], floors[2]].into_iter().enumerate() {
            let sum = self.sites.iter().map(|site| site.leads[measure]).sum();
            self.lead_means[measure] = mean(sum, floor);
        }
        for site in 0..self.sites.len() {
            if self.sites[site].takes {
                let key = (self.fullness(site).to_bits(), site);
                let zone = self.sites[site].zone;
                self.zones[zone].emptiest.insert(key);
            }
        }
    }

    fn add_up_shard(&mut self, at: usize) {
        let shard = &self.state.shards[at];
        let (holds, leads) = (weights_of(shard), leader_weights_of(shard));
        let leader = shard.leader.map(|leader| self.site_of(leader));
        self.bytes = self.bytes.saturating_add(shard.bytes);
        for (replica, site) in shard.replicas.iter().zip(self.seat_range(at)) {
            let site = self.seats[site] as usize;
            if !is_leaving(shard, replica.node) {
                add(&mut self.sites[site].holds, &holds, 1.0);
            }
            if !replica.votes() && !replica.caught_up {
                self.count_copy(at, site);
            }
        }
        let mut leads_at = leader;
        match shard.under_way {
            Some(Action::AddReplica { node, .. })
                if !shard.replicas.iter().any(|r| r.node == node) =>
            {
                let site = self.site_of(node);
                add(&mut self.sites[site].holds, &holds, 1.0);
                self.count_copy(at, site);
            }
            Some(Action::Transfer { from, to }) => {
                for node in [from, to] {
                    let site = self.site_of(node);
                    self.sites[site].transfers += 1;
                }
                leads_at = Some(self.site_of(to));
            }
            Some(Action::Merge { with }) => {
                let other = self.state.shards.binary_search_by_key(&with, |shard| shard.id);
                if let Ok(other) = other {
                    self.busy[other] = true;
                }
            }
            _ => {}
        }
        if let Some(site) = leads_at {
            add(&mut self.sites[site].leads, &leads, 1.0);
        }
        self.busy[at] |= shard.under_way.is_some();
        self.moving_shards += usize::from(self.is_moving(at));
    }

    /// A copy of a shard to a node: it needs its room, and while the shard has a quorum, it
    /// counts towards the bounds.
    fn count_copy(&mut self, shard: usize, to: usize) {
        let bytes = self.shard(shard).bytes;
        self.sites[to].free = self.sites[to].free.saturating_sub(bytes);
        if let Some(from) = self.leader(shard).filter(|_| self.has_quorum(shard)) {
            self.moving_bytes = self.moving_bytes.saturating_add(bytes);
            self.sites[to].copies += 1;
            self.sites[from].copies += 1;
        }
    }

    /// How full a node is, all measures together: 1 for each that is at the mean.
    pub(crate) fn fullness(&self, site: usize) -> f64 {
        let site = &self.sites[site];
        let share = |measure: usize| site.holds[measure] / self.hold_means[measure];
        // Sums that were added to and taken from may end a hair below zero.
        ((0..HOLDS).map(share).sum::<f64>() / site.weight.max(1.0)).max(0.0)
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

    // --- bounds ------------------------------------------------------------------------------------

    /// Whether a shard is being changed, so that it counts towards the bounds. One with voters to
    /// spare, and an even number of them, is on its way to fewer. Learners that wait for others, or
    /// for a leader and a quorum, may do so for long and must not keep other shards from being changed.
    fn is_moving(&self, at: usize) -> bool {
        let shard = self.shard(at);
        if shard.under_way.is_some() || !self.has_quorum(at) {
            return shard.under_way.is_some();
        }
        let (wanted, voters) = (self.realm(at).wanted, shard.voters().count());
        let learners = shard.replicas.len() - voters;
        let is_between = voters.is_multiple_of(2) && wanted % 2 == 1;
        let waits = |replica: &Replica| {
            replica.votes()
                || (replica.caught_up && replica.role == Role::Learner { instead_of: None })
        };
        let is_parked =
            voters < wanted && !voters.is_multiple_of(2) && shard.replicas.iter().all(waits);
        (learners > 0 && !is_parked) || (voters > wanted && is_between)
    }

    /// Whether one more shard may be changed.
    pub(crate) fn admit(&self, shard: usize, urgency: Urgency) -> Result<(), Hindrance> {
        if self.is_moving(shard) {
            return Ok(());
        }
        let max = self.moving_shards_max(urgency);
        if self.moving_shards < max {
            return Ok(());
        }
        Err(Hindrance::ShardsMoving { moving: self.moving_shards, max })
    }

    /// Whether no shard that is not moving yet may be changed at this urgency.
    pub(crate) fn is_full(&self, urgency: Urgency) -> bool {
        self.moving_shards >= self.moving_shards_max(urgency)
    }

    /// Bytes of a shard on average.
    pub(crate) fn mean_bytes(&self) -> u64 {
        self.bytes / (self.state.shards.len() as u64).max(1)
    }

    fn moving_shards_max(&self, urgency: Urgency) -> usize {
        let share = (self.limits.moving_shards_share * self.state.shards.len() as f64) as usize;
        let max = share.max(MOVING_SHARDS_MIN);
        if urgency.is_patient() { max / 2 } else { max }
    }

    /// Whether a copy of a shard may begin, as far as the whole and its sender are concerned.
    pub(crate) fn admit_copy(&self, shard: usize, urgency: Urgency) -> Result<(), Hindrance> {
        self.admit(shard, urgency)?;
        let more = self.shard(shard).bytes;
        let share = (self.limits.moving_bytes_share * self.bytes as f64) as u64;
        let max = if urgency.is_patient() { share / 2 } else { share };
        if self.moving_bytes > 0 && self.moving_bytes.saturating_add(more) > max {
            return Err(Hindrance::BytesMoving { moving: self.moving_bytes, more, max });
        }
        match self.leader(shard) {
            Some(leader) => self.admit_copies_of(leader),
            None => Err(Hindrance::NoLeader),
        }
    }

    /// Whether a node may take part in one more copy.
    pub(crate) fn admit_copies_of(&self, site: usize) -> Result<(), Hindrance> {
        let (moves, max) = (self.sites[site].copies, self.limits.copies_per_node_max);
        if moves < max {
            return Ok(());
        }
        Err(Hindrance::NodeBusy { node: self.id(site), moves, max })
    }

    /// Whether a node may take part in one more hand-over.
    pub(crate) fn admit_transfers_of(&self, site: usize) -> Result<(), Hindrance> {
        let (moves, max) = (self.sites[site].transfers, self.limits.transfers_per_node_max);
        if moves < max {
            return Ok(());
        }
        Err(Hindrance::NodeBusy { node: self.id(site), moves, max })
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

/// A node that is not in the state: gone for good.
fn nowhere(id: NodeId, zone: usize, region: usize) -> Site {
    Site {
        id,
        zone,
        region,
        weight: 0.0,
        alive: false,
        given_up: true,
        draining: false,
        takes: false,
        free: 0,
        copies: 0,
        transfers: 0,
        holds: [0.0; HOLDS],
        leads: [0.0; LEADS],
    }
}

/// Whether a replica is about to be replaced.
fn is_leaving(shard: &Shard, node: NodeId) -> bool {
    let replaced = |replica: &Replica| {
        replica.role == Role::Learner { instead_of: Some(node) } && replica.node != node
    };
    let leaves = match shard.under_way {
        Some(Action::AddReplica { instead_of, .. }) => instead_of == Some(node),
        Some(Action::Replace { old, .. }) => old == node,
        Some(Action::Remove { node: old }) => old == node,
        _ => false,
    };
    leaves || shard.replicas.iter().any(replaced)
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

/// The least pairs in the same group when `wanted` are put into groups of these sizes.
fn pairs_at_least(sizes: &[usize], wanted: usize) -> usize {
    let (mut pairs, mut left, mut layer) = (0, wanted, 0);
    // In each layer every group that is larger takes one more, which meets `layer` others.
    while left > 0 {
        let larger = sizes.iter().filter(|size| **size > layer).count();
        if larger == 0 {
            break;
        }
        pairs += layer * larger.min(left);
        left -= larger.min(left);
        layer += 1;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::pairs_at_least;

    #[test]
    fn the_ideal_fills_groups_evenly() {
        assert_eq!(pairs_at_least(&[1, 1, 1], 3), 0);
        assert_eq!(pairs_at_least(&[9, 9], 3), 1);
        assert_eq!(pairs_at_least(&[9, 9], 5), 4);
        assert_eq!(pairs_at_least(&[9], 3), 3);
        assert_eq!(pairs_at_least(&[1, 9], 4), 3);
        assert_eq!(pairs_at_least(&[1], 3), 0);
    }
}
