//! Replicas: as many as asked for, where they may be, spread, and away from nodes that are gone or
//! are to be emptied.
//!
//! Each shard is looked at by itself and gets its next step. What an earlier step was for is seen
//! in the state alone (a learner names the voter whose seat it is to take), so a new leader of the
//! meta group goes on where the last one stopped.
//!
//! | rule | how |
//! |---|---|
//! | nothing without a quorum | a change of members is agreed on by a majority of the voters that are alive |
//! | add before remove | a voter goes only when a learner that has caught up takes its seat, or when there are more than asked for |
//! | odd numbers | a seat changes hands in one joint change; two replicas that are missing are promoted one right after the other |
//! | leaders first | a leader hands over before its replica goes, and at once if its node drains |

mod words;

use crate::hindrance::Hindrance;
use crate::moves::{Action, Urgency};
use crate::planner::{Crowding, Planner};
use crate::state::Role;
use quorate_base::ids::NodeId;
use std::cmp::Reverse;

/// The next step of a shard, or what keeps it from being taken.
type Step = Result<Option<(Action, String)>, Hindrance>;

/// Why a voter has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doom {
    Gone,
    Region,
    Drain,
}

/// A shard's replicas by what is wrong with them.
struct Look {
    /// Sites of all voters.
    voters: Vec<usize>,
    /// Those that have to go: the worst first, the leader last among its like.
    doomed: Vec<(Doom, usize)>,
    /// Voters whose node is there.
    alive: usize,
    /// Sites of voters that are alive and have all entries.
    sound: Vec<usize>,
    /// Sites of learners with the voter each is to replace, and whether it has caught up.
    learners: Vec<(usize, Option<NodeId>, bool)>,
    leader: Option<usize>,
    wanted: usize,
}

impl Look {
    /// Sites of voters that stay.
    fn kept(&self) -> Vec<usize> {
        let stays = |site: &usize| !self.doomed.iter().any(|(_, doomed)| doomed == site);
        self.voters.iter().copied().filter(stays).collect()
    }

    fn has_quorum(&self) -> bool {
        self.alive >= majority(self.voters.len())
    }

    fn is_at_risk(&self) -> bool {
        self.alive == majority(self.voters.len())
    }

    fn caught_up(&self) -> impl Iterator<Item = (usize, Option<NodeId>)> {
        self.learners.iter().filter(|(.., ready)| *ready).map(|(site, old, _)| (*site, *old))
    }
}

impl Planner<'_> {
    /// Takes the next step of every shard whose replicas are not as they should be.
    pub(crate) fn mend(&mut self) {
        let mut wanting: Vec<(Urgency, bool, usize)> = Vec::new();
        for shard in 0..self.state.shards.len() {
            if let Some((urgency, is_led_well)) = self.want(shard) {
                wanting.push((urgency, is_led_well, shard));
            }
        }
        wanting.sort_unstable();
        for (urgency, _, shard) in wanting {
            if let Some(action) = self.shard(shard).under_way {
                self.hinder(shard, urgency, Hindrance::UnderWay(action));
                continue;
            }
            if self.busy[shard] {
                // Its left neighbour takes it in.
                continue;
            }
            match self.step(shard, urgency) {
                Ok(Some((action, reason))) => self.issue(shard, urgency, action, reason),
                Ok(None) => {}
                Err(hindrance) => self.hinder(shard, urgency, hindrance),
            }
        }
    }

    /// What a shard wants, without allocating: nearly all of them want nothing. The second part is
    /// whether its leader may stay where it is.
    fn want(&self, shard: usize) -> Option<(Urgency, bool)> {
        let wanted = self.realm(shard).wanted;
        let (mut voters, mut alive, mut learners) = (0, 0, 0);
        let (mut given_up, mut misplaced, mut draining) = (0, 0, 0);
        for (site, replica) in self.members(shard) {
            if !replica.votes() {
                learners += 1;
                continue;
            }
            let doom = self.doom(shard, site);
            voters += 1;
            alive += usize::from(self.sites[site].alive);
            given_up += usize::from(doom == Some(Doom::Gone));
            misplaced += usize::from(doom == Some(Doom::Region));
            draining += usize::from(doom == Some(Doom::Drain));
        }
        let lacks = voters - given_up < wanted;
        let urgency = if alive < majority(voters)
            || ((lacks || given_up > 0) && alive == majority(voters) && wanted > 1)
        {
            Urgency::QuorumAtRisk
        } else if lacks {
            Urgency::UnderReplicated
        } else if misplaced > 0 {
            Urgency::Residency
        } else if draining > 0 {
            Urgency::Drain
        } else if voters > wanted {
            Urgency::Surplus
        } else if learners > 0 {
            Urgency::Finish
        } else if alive < voters {
            // Its node may come back: nothing is done, but explained.
            Urgency::UnderReplicated
        } else if !self.frozen[shard] && self.is_crowded(shard) {
            Urgency::Spread
        } else {
            return None;
        };
        let leader = self.leader(shard);
        Some((urgency, leader.is_none_or(|site| self.doom(shard, site).is_none())))
    }

    fn is_crowded(&self, shard: usize) -> bool {
        let ideal = self.realm(shard).ideal;
        let mut sites = [0; 8];
        let mut count = 0;
        for (site, _) in self.members(shard) {
            if count == sites.len() {
                let all: Vec<usize> = self.members(shard).map(|(site, _)| site).collect();
                return worse_than(self.crowding(shard, &all), ideal);
            }
            sites[count] = site;
            count += 1;
        }
        worse_than(self.crowding(shard, &sites[..count]), ideal)
    }

    /// Why the voter at `site` has to go.
    fn doom(&self, shard: usize, site: usize) -> Option<Doom> {
        let at = &self.sites[site];
        if at.given_up {
            Some(Doom::Gone)
        } else if !at.alive {
            None
        } else if !self.is_allowed(shard, site) {
            Some(Doom::Region)
        } else if at.draining {
            Some(Doom::Drain)
        } else {
            None
        }
    }

    fn look(&self, shard: usize) -> Look {
        let leader = self.leader(shard);
        let mut look = Look {
            voters: Vec::new(),
            doomed: Vec::new(),
            alive: 0,
            sound: Vec::new(),
            learners: Vec::new(),
            leader,
            wanted: self.realm(shard).wanted,
        };
        for (site, replica) in self.members(shard) {
            if let Role::Learner { instead_of } = replica.role {
                look.learners.push((site, instead_of, replica.caught_up));
                continue;
            }
            look.voters.push(site);
            look.doomed.extend(self.doom(shard, site).map(|doom| (doom, site)));
            if self.sites[site].alive {
                look.alive += 1;
                if replica.caught_up {
                    look.sound.push(site);
                }
            }
        }
        look.doomed.sort_unstable_by_key(|(doom, site)| (*doom, Some(*site) == leader, *site));
        look
    }

    fn step(&self, shard: usize, urgency: Urgency) -> Step {
        let look = self.look(shard);
        let count = look.voters.len();
        if !look.has_quorum() {
            return Err(Hindrance::QuorumLost { alive: look.alive, voters: count });
        }
        if look.leader.is_none() {
            return Err(Hindrance::NoLeader);
        }
        if let Some(step) = self.give_up_learner(shard, &look) {
            self.admit(shard, urgency)?;
            return Ok(Some(step));
        }
        if count < look.wanted {
            self.fill(shard, urgency, &look)
        } else if count > look.wanted {
            self.thin_out(shard, urgency, &look)
        } else if let Some((learner, instead_of)) = look.caught_up().next() {
            self.seat_learner(shard, urgency, &look, learner, instead_of)
        } else if let Some((learner, ..)) = look.learners.first() {
            // The copy goes on meanwhile.
            match self.lead_elsewhere(shard, &look) {
                Some(step) => step,
                None => Err(self.copying(shard, *learner)),
            }
        } else if !look.doomed.is_empty() {
            self.replace(shard, urgency, &look)
        } else if look.alive < count {
            Err(self.may_return(&look))
        } else {
            self.spread(shard, urgency, &look)
        }
    }

    /// A learner that cannot become what it was added for. It holds nothing that counts, so it
    /// goes at once.
    fn give_up_learner(&self, shard: usize, look: &Look) -> Option<(Action, String)> {
        let (site, why) = look.learners.iter().find_map(|(site, instead_of, _)| {
            let at = &self.sites[*site];
            let replaces = instead_of.map(|node| self.site_of(node));
            let is_wanted = look.voters.len() < look.wanted
                || !look.doomed.is_empty()
                || replaces.is_some_and(|old| look.voters.contains(&old));
            let why = if !at.alive {
                "cannot be reached, and has nothing that counts yet"
            } else if !self.is_allowed(shard, *site) {
                "is in a region that the space does not allow any more"
            } else if at.draining {
                "is to be emptied"
            } else if !is_wanted || look.voters.len() > look.wanted {
                "is not needed any more"
            } else {
                return None;
            };
            Some((*site, why))
        })?;
        let text = format!("the learner on {} {why}", self.called(site));
        Some((Action::Remove { node: self.id(site) }, text))
    }

    /// Fewer voters than asked for.
    fn fill(&self, shard: usize, urgency: Urgency, look: &Look) -> Step {
        let (count, wanted) = (look.voters.len(), look.wanted);
        let ready = look.caught_up().count();
        if let Some((site, _)) = look.caught_up().next() {
            let odd = count.is_multiple_of(2) || count + 1 == wanted || ready > 1;
            let sound = look.sound.len() + 1;
            if odd && sound >= majority(count + 1) {
                self.admit(shard, urgency)?;
                let text = format!(
                    "{} of {wanted} replicas vote, and the one on {} has caught up ({})",
                    count,
                    self.called(site),
                    self.lag(shard, site)
                );
                return Ok(Some((Action::Promote { node: self.id(site) }, text)));
            }
        }
        if count + look.learners.len() >= wanted {
            let filling = look.learners.iter().find(|(.., ready)| !ready);
            return Err(match filling {
                Some((site, ..)) => self.copying(shard, *site),
                None => self.needed(look, look.leader.expect("checked before"), count + 1),
            });
        }
        let mut kept = look.kept();
        kept.extend(look.learners.iter().map(|(site, ..)| *site));
        let found = self.admit_copy(shard, urgency).and_then(|()| self.seat(shard, &kept, None));
        let site = match found {
            Err(Hindrance::NoSeat { .. }) if ready > 0 => {
                return Err(Hindrance::WouldBeEven { voters: count, wanted });
            }
            found => found?,
        };
        let text = format!(
            "{count} of {wanted} replicas vote, {} of them are alive; {}",
            look.alive,
            self.praise(&kept, site)
        );
        Ok(Some((Action::AddReplica { node: self.id(site), instead_of: None }, text)))
    }

    /// More voters than asked for: the worst goes.
    fn thin_out(&self, shard: usize, urgency: Urgency, look: &Look) -> Step {
        self.admit(shard, urgency)?;
        let count = look.voters.len();
        let mut order = look.voters.clone();
        order.sort_by_cached_key(|site| {
            let doom = look.doomed.iter().find(|(_, doomed)| doomed == site);
            let others: Vec<usize> = look.voters.iter().copied().filter(|o| o != site).collect();
            let badness = (
                doom.map(|(doom, _)| Reverse(*doom)),
                !self.sites[*site].alive,
                !look.sound.contains(site),
                // A hand-over would only prolong an even number.
                count.is_multiple_of(2) && Some(*site) != look.leader,
                Reverse(self.crowding(shard, &others)),
                Some(*site) != look.leader,
                self.fullness(*site).to_bits(),
                *site,
            );
            Reverse(badness)
        });
        // The leader goes first of all, and not between two removals when the number is even.
        let (going, staying) = order.split_at(count - look.wanted);
        if let Some(leader) = look.leader.filter(|leader| going.contains(leader)) {
            let why = "its replica there is one too many";
            if let Some(to) = self.successor(shard, look, leader, |site| staying.contains(&site)) {
                return self.hand_over(shard, leader, to, why);
            }
            if going[0] == leader {
                let to = self.successor(shard, look, leader, |_| true);
                let to = to.ok_or(Hindrance::NoSuccessor { leader: self.id(leader) })?;
                return self.hand_over(shard, leader, to, why);
            }
        }
        let worst = going[0];
        let sound = look.sound.iter().filter(|site| **site != worst).count();
        let is_sound = look.sound.contains(&worst);
        if sound < majority(count - 1) || (is_sound && sound < look.wanted) {
            return Err(self.needed(look, worst, count - 1));
        }
        let text = format!(
            "{count} replicas vote and {} are wanted; {} is the one to go: {}",
            look.wanted,
            self.called(worst),
            self.blame(shard, look, worst)
        );
        Ok(Some((Action::Remove { node: self.id(worst) }, text)))
    }

    /// As many voters as asked for, and a learner that has caught up.
    fn seat_learner(
        &self,
        shard: usize,
        urgency: Urgency,
        look: &Look,
        learner: usize,
        instead_of: Option<NodeId>,
    ) -> Step {
        let meant = instead_of.map(|node| self.site_of(node));
        let doomed = |site: &usize| look.doomed.iter().any(|(_, doomed)| doomed == site);
        let old = match (meant, look.doomed.first()) {
            (Some(site), _) if doomed(&site) => site,
            (_, Some((_, site))) => *site,
            (Some(site), None) => site,
            (None, None) => unreachable!("learners without a purpose were given up"),
        };
        self.admit(shard, urgency)?;
        if Some(old) == look.leader && look.voters.len() > 1 {
            let to = self.successor(shard, look, old, |_| true);
            let to = to.ok_or(Hindrance::NoSuccessor { leader: self.id(old) })?;
            return self.hand_over(shard, old, to, "its replica there is about to be replaced");
        }
        let sound = look.sound.iter().filter(|site| **site != old).count() + 1;
        if sound < majority(look.voters.len()) {
            return Err(self.needed(look, old, look.voters.len()));
        }
        let text = format!(
            "the replica on {} has caught up ({}) and takes the seat of {}: {}",
            self.called(learner),
            self.lag(shard, learner),
            self.called(old),
            self.blame(shard, look, old)
        );
        Ok(Some((Action::Replace { old: self.id(old), new: self.id(learner) }, text)))
    }

    /// A voter has to go, and nobody is there to take its seat yet.
    fn replace(&self, shard: usize, urgency: Urgency, look: &Look) -> Step {
        let (doom, old) = look.doomed[0];
        // A replica that is gone is more urgent than where the leader is.
        if doom != Doom::Gone
            && let Some(step) = self.lead_elsewhere(shard, look)
        {
            return step;
        }
        let kept = look.kept();
        self.admit_copy(shard, urgency)?;
        let site = self.seat(shard, &kept, None)?;
        let text = format!("{}; {}", self.blame(shard, look, old), self.praise(&kept, site));
        let action = Action::AddReplica { node: self.id(site), instead_of: Some(self.id(old)) };
        Ok(Some((action, text)))
    }

    /// All is well but for where the replicas are.
    fn spread(&self, shard: usize, urgency: Urgency, look: &Look) -> Step {
        let now = self.crowding(shard, &look.voters);
        let (mut best, mut could_be) = (None, false);
        for old in &look.voters {
            let kept: Vec<usize> = look.voters.iter().copied().filter(|o| o != old).collect();
            for zone in 0..self.zones.len() - 1 {
                let crowding = self.crowding_with(shard, &kept, zone);
                if crowding >= now || !self.realm(shard).allowed[self.zones[zone].region] {
                    continue;
                }
                let found = (crowding, Some(*old) == look.leader, *old);
                if best.is_none_or(|best| found < best) {
                    could_be |= self.has_free_node(shard, zone);
                    if self.has_place(shard, zone) {
                        best = Some(found);
                    }
                }
            }
        }
        let Some((crowding, _, old)) = best else {
            if !could_be {
                return Ok(None);
            }
            let zones = self.refusals_if_watched(shard, true);
            return Err(Hindrance::NoSeat { zones });
        };
        self.admit_copy(shard, urgency)?;
        let kept: Vec<usize> = look.voters.iter().copied().filter(|o| *o != old).collect();
        let site = self.seat(shard, &kept, Some(now))?;
        let text = format!(
            "{} replicas in {}, and {} of them would be in {}: {}",
            self.in_zone(&look.voters, old),
            self.place(old),
            self.in_zone(&kept, site) + 1,
            self.place(site),
            if crowding.zone_pairs < now.zone_pairs {
                "fewer fail together"
            } else if crowding.no_leader != now.no_leader {
                "a leader can be where the space wants it"
            } else {
                "they are in more regions"
            }
        );
        let action = Action::AddReplica { node: self.id(site), instead_of: Some(self.id(old)) };
        Ok(Some((action, text)))
    }

    /// Whether a zone could take a replica of `shard`, now or when it is less busy.
    fn has_place(&self, shard: usize, zone: usize) -> bool {
        let mut sites = self.zones[zone].emptiest.iter();
        sites.any(|(_, site)| self.has_room(shard, *site) && !self.holds(shard, *site))
    }

    /// Whether it could if it had room.
    fn has_free_node(&self, shard: usize, zone: usize) -> bool {
        self.zones[zone].emptiest.iter().any(|(_, site)| !self.holds(shard, *site))
    }

    // --- leaders -----------------------------------------------------------------------------------

    /// The leader leaves a node that it has to leave, if there is a better one.
    fn lead_elsewhere(&self, shard: usize, look: &Look) -> Option<Step> {
        let leader = look.leader?;
        let (doom, _) = look.doomed.iter().find(|(_, site)| *site == leader)?;
        let stays = |site| self.doom(shard, site).is_none();
        let to = self.successor(shard, look, leader, stays)?;
        let why = match doom {
            Doom::Region => "the space does not allow its region any more",
            Doom::Drain | Doom::Gone => "it is to be emptied, leaders first",
        };
        Some(self.hand_over(shard, leader, to, why))
    }

    fn hand_over(&self, shard: usize, from: usize, to: usize, why: &str) -> Step {
        self.admit(shard, Urgency::Drain)?;
        self.admit_transfers_of(from)?;
        self.admit_transfers_of(to)?;
        let text = format!("{} leads: {why}", self.called(from));
        Ok(Some((Action::Transfer { from: self.id(from), to: self.id(to) }, text)))
    }

    /// The voter that should lead instead of `from`, of those that `may`: best one that stays, in
    /// the region that the space wants, with the fewest leaders.
    fn successor(
        &self,
        shard: usize,
        look: &Look,
        from: usize,
        may: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let region = self.leader_region(shard);
        let others = look.sound.iter().copied().filter(|site| *site != from && may(*site));
        others.min_by_key(|site| {
            let at = &self.sites[*site];
            let leads = at.leads[0] / at.weight.max(1.0);
            let is_elsewhere = region.is_some_and(|region| region != at.region);
            (self.doom(shard, *site), !at.takes, is_elsewhere, leads.max(0.0).to_bits(), *site)
        })
    }
}

/// Whether any part of it could be better; each part of `ideal` is a bound by itself.
fn worse_than(crowding: Crowding, ideal: Crowding) -> bool {
    crowding.zone_pairs > ideal.zone_pairs
        || crowding.no_leader
        || crowding.region_pairs > ideal.region_pairs
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}
