//! The state as dense indexes: nodes, zones, regions, spaces, the seats of shards, their order.

use super::{Crowding, HOLDS, LEADS, Planner, Realm, Site, Zone};
use crate::state::{Health, Invalid, LeaderPreference, Name};
use quorate_base::ids::NodeId;
use std::collections::BTreeSet;

impl Planner<'_> {
    pub(super) fn place_nodes(&mut self) {
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

    pub(super) fn seat_replicas(&mut self) {
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

    pub(super) fn know_spaces(&mut self) {
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

    pub(super) fn put_in_order(&mut self) -> Result<(), Invalid> {
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
