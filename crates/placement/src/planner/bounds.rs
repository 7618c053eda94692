//! What nodes have, as it will be after what has begun; what is in flight; and whether more may be.

use super::{HOLDS, Planner, add, leader_weights_of, weights_of};
use crate::hindrance::Hindrance;
use crate::limits::MOVING_SHARDS_MIN;
use crate::moves::{Action, Urgency};
use crate::state::{Replica, Role, Shard};
use quorate_base::ids::NodeId;

impl Planner<'_> {
    pub(super) fn add_up(&mut self) {
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
    pub(super) fn count_copy(&mut self, shard: usize, to: usize) {
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

    // --- bounds ------------------------------------------------------------------------------------

    /// Whether a shard is being changed, so that it counts towards the bounds. One with voters to
    /// spare, and an even number of them, is on its way to fewer. Learners that wait for others, or
    /// for a leader and a quorum, may do so for long and must not keep other shards from being changed.
    pub(super) fn is_moving(&self, at: usize) -> bool {
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
