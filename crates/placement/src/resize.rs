//! Shards of the right size: big and hot ones are split, small neighbours are merged.
//!
//! Merging needs both shards' replicas and leaders in the same places, so a pair is brought
//! together first: replicas of the one move, seat by seat, to where the other's are. Meanwhile
//! both are *frozen*: neither is moved for a better balance or spread, which would undo it. Pairs
//! are chosen anew each round, those that lie together already first, so a pair that is brought
//! together stays one. What a merge makes is at most half of what would be split again
//! ([`crate::Limits::check`]).

use crate::hindrance::Hindrance;
use crate::moves::{Action, Urgency};
use crate::planner::Planner;
use crate::state::Role;
use crate::text::bytes;
use quorate_base::ids::NodeId;

/// Two neighbours to be merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    left: usize,
    right: usize,
    /// The one whose replicas stay, and the one whose replicas move.
    stays: usize,
    comes: usize,
}

impl Planner<'_> {
    // --- split -------------------------------------------------------------------------------------

    /// Splits what is too big or too hot.
    pub(crate) fn split(&mut self) {
        let mut shards = self.state.shards.len();
        for at in 0..self.state.shards.len() {
            let (shard, limits) = (self.shard(at), self.limits);
            let is_big = shard.bytes > limits.split_bytes;
            let is_hot = shard.load > limits.split_load;
            if !(is_big || is_hot) || self.busy[at] || self.troubled[at] {
                continue;
            }
            if let Err(hindrance) = self.admit_split(at, shards) {
                self.hinder(at, Urgency::Split, hindrance);
                continue;
            }
            let reason = if is_big {
                format!("{} of data, and {} may be", bytes(shard.bytes), bytes(limits.split_bytes))
            } else {
                format!("{} requests/s, and {} may be", shard.load, limits.split_load)
            };
            let (half, how) = match shard.middle {
                Some(slot) if slot > shard.first && slot <= shard.last => {
                    (slot, "where both halves weigh the same")
                }
                _ => (shard.first + (shard.slots() / 2) as u16, "in the middle of its slots"),
            };
            let reason = format!("{reason}; slots {} to {}, {how}", shard.first, shard.last);
            self.issue(at, Urgency::Split, Action::Split { at: half }, reason);
            shards += 1;
        }
    }

    fn admit_split(&self, shard: usize, shards: usize) -> Result<(), Hindrance> {
        if self.shard(shard).slots() == 1 {
            return Err(Hindrance::OneSlot);
        }
        if shards >= self.limits.shards_max {
            return Err(Hindrance::ShardsMax { max: self.limits.shards_max });
        }
        if self.leader(shard).is_none() {
            return Err(Hindrance::NoLeader);
        }
        self.admit(shard, Urgency::Split)
    }

    // --- merge -------------------------------------------------------------------------------------

    /// Chooses the neighbours to be merged, and freezes them.
    pub(crate) fn pair_up(&mut self) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let in_order = std::mem::take(&mut self.in_order);
        let space_of = |shard: &u32| self.state.shards[*shard as usize].space;
        for shards in in_order.chunk_by(|a, b| space_of(a) == space_of(b)) {
            let floor = self.space(shards[0] as usize).shards_min.max(1) as usize;
            let mut spare = shards.len().saturating_sub(floor);
            let mut taken = vec![false; shards.len()];
            let merging = |at: &&u32| {
                matches!(self.shard(**at as usize).under_way, Some(Action::Merge { .. }))
            };
            spare = spare.saturating_sub(shards.iter().filter(merging).count());
            for together in [true, false] {
                for at in 1..shards.len() {
                    if spare == 0 {
                        break;
                    }
                    if taken[at - 1] || taken[at] {
                        continue;
                    }
                    let (left, right) = (shards[at - 1] as usize, shards[at] as usize);
                    if self.are_small(left, right)
                        && self.are_together(left, right) == together
                        && let Some(pair) = self.pair(left, right)
                    {
                        pairs.push(pair);
                        (taken[at - 1], taken[at]) = (true, true);
                        spare -= 1;
                    }
                }
            }
        }
        self.in_order = in_order;
        for pair in &pairs {
            self.frozen[pair.left] = true;
            self.frozen[pair.right] = true;
        }
        pairs
    }

    fn are_small(&self, left: usize, right: usize) -> bool {
        let (a, b) = (self.shard(left), self.shard(right));
        a.last.checked_add(1) == Some(b.first)
            && a.bytes.saturating_add(b.bytes) <= self.limits.merge_bytes
            && a.load.saturating_add(b.load) <= self.limits.merge_load
    }

    /// Whether the replicas are in the same places, or will be.
    fn are_together(&self, left: usize, right: usize) -> bool {
        self.future(left) == self.future(right)
    }

    /// Where a shard's voters will be after what has begun.
    fn future(&self, shard: usize) -> Vec<usize> {
        let mut leaving: Vec<NodeId> = Vec::new();
        let mut sites: Vec<usize> = self.members(shard).map(|(site, _)| site).collect();
        for (_, replica) in self.members(shard) {
            if let Role::Learner { instead_of: Some(old) } = replica.role {
                leaving.push(old);
            }
        }
        if let Some(Action::AddReplica { node, instead_of }) = self.shard(shard).under_way {
            leaving.extend(instead_of);
            sites.push(self.site_of(node));
        }
        sites.retain(|site| !leaving.contains(&self.id(*site)));
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Two small neighbours as a pair, if one can come to where the other is.
    fn pair(&self, left: usize, right: usize) -> Option<Pair> {
        if !self.is_whole(left) || !self.is_whole(right) {
            return None;
        }
        let can_come = |comes: usize, stays: usize| {
            let there = self.future(comes);
            let missing = self.future(stays).into_iter().filter(|site| !there.contains(site));
            missing.into_iter().all(|site| self.sites[site].takes && self.has_room(comes, site))
        };
        if can_come(right, left) {
            Some(Pair { left, right, stays: left, comes: right })
        } else if can_come(left, right) {
            Some(Pair { left, right, stays: right, comes: left })
        } else {
            None
        }
    }

    /// Whether a shard has all its voters, on nodes where they may stay, and is only being moved
    /// if at all.
    fn is_whole(&self, shard: usize) -> bool {
        let under_way = self.shard(shard).under_way;
        if matches!(under_way, Some(Action::Split { .. } | Action::Merge { .. })) {
            return false;
        }
        let voters = || self.members(shard).filter(|(_, replica)| replica.votes());
        voters().count() == self.realm(shard).wanted
            && self.leader(shard).is_some()
            && voters().all(|(site, _)| {
                self.sites[site].alive && !self.sites[site].draining && self.is_allowed(shard, site)
            })
    }

    /// Brings pairs together, and merges those that are.
    pub(crate) fn merge(&mut self, pairs: &[Pair]) {
        for pair in pairs {
            let shards = [pair.left, pair.right];
            if shards.iter().any(|shard| self.busy[*shard] || self.troubled[*shard]) {
                continue;
            }
            if let Err((shard, hindrance)) = self.merge_step(pair) {
                self.hinder(shard, Urgency::Merge, hindrance);
            }
        }
    }

    fn merge_step(&mut self, pair: &Pair) -> Result<(), (usize, Hindrance)> {
        let Pair { left, right, stays, comes } = *pair;
        self.admit(comes, Urgency::Merge).map_err(|hindrance| (comes, hindrance))?;
        let reason = self.smallness(pair);
        let (here, there) = (self.future(comes), self.future(stays));
        let leader = self.leader(comes);
        let missing = || there.iter().copied().filter(|site| !here.contains(site));
        let extra = || here.iter().copied().filter(|site| !there.contains(site));
        // Within a zone, so that replicas stay spread; the leader, which has to hand over, last.
        let next = missing().flat_map(|new| extra().map(move |old| (new, old)));
        let next = next.min_by_key(|(new, old)| {
            let (new, old_site) = (&self.sites[*new], &self.sites[*old]);
            (Some(*old) == leader, new.zone != old_site.zone, new.region != old_site.region)
        });
        if let Some((new, old)) = next {
            let admitted =
                self.admit_copy(comes, Urgency::Merge).and_then(|()| self.admit_copies_of(new));
            admitted.map_err(|hindrance| (comes, hindrance))?;
            // Room was there when the pair was chosen, and other copies may have taken it since.
            if !self.has_room(comes, new) {
                return Err((comes, Hindrance::NoSeat { zones: Vec::new() }));
            }
            let instead_of = Some(self.id(old));
            let action = Action::AddReplica { node: self.id(new), instead_of };
            self.issue(comes, Urgency::Merge, action, format!("{reason}; replicas come together"));
            return Ok(());
        }
        let caught_up = |shard: usize| self.members(shard).all(|(_, replica)| replica.caught_up);
        for shard in [comes, stays] {
            if !caught_up(shard) {
                let behind = self.members(shard).find(|(_, replica)| !replica.caught_up);
                let (site, replica) = behind.expect("not all have caught up");
                let hindrance = Hindrance::Copying { node: self.id(site), lag: replica.lag };
                return Err((shard, hindrance));
            }
        }
        let leaders = self.leader(comes).zip(self.leader(stays));
        let (from, to) = leaders.expect("both were whole when they were paired");
        if from != to {
            let admitted = self.admit_transfers_of(from).and_then(|()| self.admit_transfers_of(to));
            admitted.map_err(|hindrance| (comes, hindrance))?;
            let action = Action::Transfer { from: self.id(from), to: self.id(to) };
            self.issue(comes, Urgency::Merge, action, format!("{reason}; leaders come together"));
            return Ok(());
        }
        let action = Action::Merge { with: self.shard(right).id };
        self.issue(left, Urgency::Merge, action, reason);
        self.busy[right] = true;
        Ok(())
    }

    fn smallness(&self, pair: &Pair) -> String {
        let (left, right) = (self.shard(pair.left), self.shard(pair.right));
        format!(
            "shards {} and {} have {} and {} requests/s together; up to {} and {} they are merged",
            left.id,
            right.id,
            bytes(left.bytes + right.bytes),
            left.load + right.load,
            bytes(self.limits.merge_bytes),
            self.limits.merge_load
        )
    }
}
