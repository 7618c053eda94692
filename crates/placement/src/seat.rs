//! Which node takes a new replica.
//!
//! Zones first: of those that the space may be in, the ones where the replicas end up spread best.
//! In them, the emptiest node that has room and no replica of the shard. Bounds come last and
//! change nothing about the choice: if the nodes that fit best are busy, the shard waits for them,
//! because a replica put elsewhere meanwhile would have to move again.

use crate::hindrance::{Hindrance, Refusal, ZoneRefusal};
use crate::planner::{Crowding, Planner};

impl Planner<'_> {
    /// A node for a replica of `shard` beside those at `kept`, where they are crowded less than
    /// `below`, if that is given.
    pub(crate) fn seat(
        &self,
        shard: usize,
        kept: &[usize],
        below: Option<Crowding>,
    ) -> Result<usize, Hindrance> {
        let allowed = &self.realm(shard).allowed;
        let mut zones: Vec<(Crowding, usize)> = (0..self.zones.len())
            .filter(|zone| allowed[self.zones[*zone].region])
            .filter(|zone| !self.zones[*zone].emptiest.is_empty())
            .map(|zone| (self.crowding_with(shard, kept, zone), zone))
            .filter(|(crowding, _)| below.is_none_or(|below| *crowding < below))
            .collect();
        zones.sort_unstable();
        for alike in zones.chunk_by(|(a, _), (b, _)| a == b) {
            // The emptiest of each zone; busy ones only if there is no other.
            let mut best: Option<(bool, u64, usize)> = None;
            for (_, zone) in alike {
                let fitting = self.zones[*zone]
                    .emptiest
                    .iter()
                    .filter(|(_, site)| self.has_room(shard, *site) && !self.holds(shard, *site));
                for (key, site) in fitting {
                    let is_busy = self.admit_copies_of(*site).is_err();
                    let found = (is_busy, *key, *site);
                    best = Some(best.map_or(found, |best| best.min(found)));
                    if !is_busy {
                        break;
                    }
                }
            }
            if let Some((_, _, site)) = best {
                return self.admit_copies_of(site).map(|()| site);
            }
        }
        Err(Hindrance::NoSeat { zones: self.refusals_if_watched(shard, below.is_some()) })
    }

    /// Whether a node has a replica of `shard`.
    pub(crate) fn holds(&self, shard: usize, site: usize) -> bool {
        self.members(shard).any(|(at, _)| at == site)
    }

    /// Whether a copy of `shard` fits on a node.
    pub(crate) fn has_room(&self, shard: usize, site: usize) -> bool {
        self.sites[site].free >= self.shard(shard).bytes
    }

    /// Why no zone has a place, if somebody wants to know. `strict` if it had to be a better one
    /// than now.
    pub(crate) fn refusals_if_watched(&self, shard: usize, strict: bool) -> Vec<ZoneRefusal> {
        if self.watched == Some(shard) { self.refusals(shard, strict) } else { Vec::new() }
    }

    fn refusals(&self, shard: usize, strict: bool) -> Vec<ZoneRefusal> {
        let known = 0..self.zones.len() - 1;
        known
            .filter_map(|at| {
                let zone = &self.zones[at];
                let mut free = zone.emptiest.iter().map(|(_, site)| *site).peekable();
                let why = if !self.realm(shard).allowed[zone.region] {
                    Refusal::RegionNotAllowed
                } else if free.peek().is_none() {
                    Refusal::NoneTakes
                } else {
                    let others: Vec<usize> =
                        free.filter(|site| !self.holds(shard, *site)).collect();
                    let most = others.iter().map(|site| self.sites[*site].free).max();
                    match most {
                        None => Refusal::AllHold,
                        Some(free) if free < self.shard(shard).bytes => {
                            Refusal::NoRoom { needs: self.shard(shard).bytes, free }
                        }
                        Some(_) if strict => Refusal::NoBetter,
                        Some(_) => return None,
                    }
                };
                let region = self.regions[zone.region].clone();
                Some(ZoneRefusal { zone: zone.name.clone(), region, why })
            })
            .collect()
    }
}
