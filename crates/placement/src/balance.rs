//! Nodes get their share: of leaders and the load that comes with them, of replicas, bytes and load.
//!
//! With `F(n, m)` what node `n` has of measure `m`, `w(n)` its weight and `M(m)` the mean, let
//!
//! ```text
//! P = Σ over nodes and measures of  F(n, m)² / (w(n) · M(m)²)
//! ```
//!
//! which is least when everyone has its share. A move is made between two nodes that differ by
//! more than the band in some measure, and only if it makes `P` smaller. There are two such sums,
//! one for replicas and one for leaders. Nothing that balances replicas spreads them worse, and
//! moving leaders moves no replica; so each move makes (crowding, `P` of replicas, `P` of leaders)
//! smaller in lexical order, and as there are finitely many placements, balancing ends. The band
//! is the hysteresis: what came to rest stays, until two nodes differ by more than it again.

use crate::moves::{Action, Urgency};
use crate::planner::{HOLDS, LEADS, Planner, leader_weights_of, weights_of};
use crate::text::bytes;

/// Nodes of a zone that are considered for each replica that moves, the emptiest first.
const CANDIDATES_MAX: usize = 4;
/// Movable shards of a node that are looked at before the best one found is taken.
const SHARDS_MAX: usize = 64;
/// Less is no improvement: sums of large numbers are not exact.
const IMPROVEMENT_MIN: f64 = 1e-9;

impl Planner<'_> {
    /// Brings leaders into the region that their space wants, where a replica is there.
    pub(crate) fn prefer_leaders(&mut self) {
        for shard in 0..self.state.shards.len() {
            if !self.is_movable(shard) {
                continue;
            }
            let Some((region, leader)) = self.leader_region(shard).zip(self.leader(shard)) else {
                continue;
            };
            if self.sites[leader].region == region {
                continue;
            }
            let fit = self.fit_to_lead(shard, leader);
            let there = fit.filter(|site| self.sites[*site].region == region);
            let Some(to) = there.min_by_key(|site| (self.led(*site, 0).to_bits(), *site)) else {
                continue;
            };
            let admitted = self
                .admit(shard, Urgency::Leader)
                .and_then(|()| self.admit_transfers_of(leader))
                .and_then(|()| self.admit_transfers_of(to));
            if let Err(hindrance) = admitted {
                self.hinder(shard, Urgency::Leader, hindrance);
                continue;
            }
            let why = if self.realm(shard).follows_load {
                format!("most of its {} requests/s come from", self.shard(shard).load)
            } else {
                format!("space {} wants its leaders in", self.space(shard).name)
            };
            let reason = format!(
                "{why} region {}, and {} leads from region {}",
                self.regions[region],
                self.called(leader),
                self.regions[self.sites[leader].region]
            );
            let action = Action::Transfer { from: self.id(leader), to: self.id(to) };
            self.issue(shard, Urgency::Leader, action, reason);
        }
    }

    /// Balances leaders, which costs little, and then replicas.
    pub(crate) fn balance(&mut self) {
        let led = self.by_site(|planner, shard, site| planner.leader(shard) == Some(site));
        for measure in 0..LEADS {
            self.balance_leaders(measure, &led);
        }
        let held = self.by_site(|_, _, _| true);
        // A node gives away as few at a time as it may receive: so all give alike, and none gives
        // so much before the others do that it has to be filled again.
        let mut open = vec![self.limits.copies_per_node_max; self.sites.len()];
        for measure in 0..HOLDS {
            self.balance_replicas(measure, &held, &mut open);
        }
    }

    // --- leaders -----------------------------------------------------------------------------------

    fn balance_leaders(&mut self, measure: usize, led: &BySite) {
        let band = [self.limits.balance_band, self.limits.load_band][measure];
        let by_share = self.by_share(|planner, site| planner.led(site, measure));
        let Some(least) = by_share.last().map(|site| self.led(*site, measure)) else { return };
        for from in by_share {
            if self.led(from, measure) - least <= band || self.is_full(Urgency::Balance) {
                break;
            }
            while let Some((shard, to)) = self.best_transfer(measure, band, from, led.of(from)) {
                let shares = [self.sites[from].leads[measure], self.sites[to].leads[measure]];
                let what = ["leaders", "requests/s to leaders"][measure];
                let reason = self.unevenness(from, to, shares.map(whole), what, band);
                let action = Action::Transfer { from: self.id(from), to: self.id(to) };
                self.issue(shard, Urgency::Balance, action, reason);
            }
        }
    }

    /// The hand-over from `from` that helps most.
    fn best_transfer(
        &self,
        measure: usize,
        band: f64,
        from: usize,
        led: &[u32],
    ) -> Option<(usize, usize)> {
        self.admit_transfers_of(from).ok()?;
        let mut best: Option<(f64, usize, usize)> = None;
        for shard in led.iter().map(|shard| *shard as usize) {
            if !self.is_movable(shard) || self.admit(shard, Urgency::Balance).is_err() {
                continue;
            }
            let region = self.leader_region(shard);
            let is_home = |site: usize| region == Some(self.sites[site].region);
            for to in self.fit_to_lead(shard, from) {
                let gap = self.led(from, measure) - self.led(to, measure);
                let is_worse = is_home(from) && !is_home(to);
                if gap <= band || is_worse || self.admit_transfers_of(to).is_err() {
                    continue;
                }
                let weights = leader_weights_of(self.shard(shard));
                let (a, b) = (&self.sites[from], &self.sites[to]);
                let change = change_of(
                    &weights,
                    (&a.leads, a.weight),
                    (&b.leads, b.weight),
                    &self.lead_means,
                );
                if change < best.map_or(-IMPROVEMENT_MIN, |(least, ..)| least) {
                    best = Some((change, shard, to));
                }
            }
        }
        best.map(|(_, shard, to)| (shard, to))
    }

    /// Voters of `shard` that could lead instead of `leader` and are not about to leave.
    fn fit_to_lead(&self, shard: usize, leader: usize) -> impl Iterator<Item = usize> {
        let fit = self.members(shard).filter(move |(site, replica)| {
            let at = &self.sites[*site];
            *site != leader && replica.votes() && replica.caught_up && at.alive && at.takes
        });
        fit.map(|(site, _)| site)
    }

    fn led(&self, site: usize, measure: usize) -> f64 {
        let at = &self.sites[site];
        at.leads[measure] / (at.weight.max(1.0) * self.lead_means[measure])
    }

    // --- replicas ----------------------------------------------------------------------------------

    fn balance_replicas(&mut self, measure: usize, held: &BySite, open: &mut [u32]) {
        let limits = self.limits;
        let band = [limits.balance_band, limits.balance_band, limits.load_band][measure];
        let by_share = self.by_share(|planner, site| planner.held(site, measure));
        let Some(least) = by_share.last().map(|site| self.held(*site, measure)) else { return };
        let mut zones: Vec<Vec<usize>> = vec![Vec::new(); self.zones.len()];
        // The emptiest last.
        by_share.iter().for_each(|site| zones[self.sites[*site].zone].push(*site));
        for from in by_share {
            if self.held(from, measure) - least <= band || self.is_full(Urgency::Balance) {
                break;
            }
            while open[from] > 0 {
                let best = self.best_copy(measure, band, from, held.of(from), &zones);
                let Some((shard, to)) = best else { break };
                open[from] -= 1;
                let shares = [self.sites[from].holds[measure], self.sites[to].holds[measure]];
                let (shares, what) = match measure {
                    0 => (shares.map(whole), "replicas"),
                    1 => (shares.map(|bytes_held| bytes(bytes_held as u64)), "of data"),
                    _ => (shares.map(whole), "requests/s to shards it holds"),
                };
                let reason = self.unevenness(from, to, shares, what, band);
                let instead_of = Some(self.id(from));
                let action = Action::AddReplica { node: self.id(to), instead_of };
                self.issue(shard, Urgency::Balance, action, reason);
            }
        }
    }

    /// The copy from `from` to another node that helps most.
    fn best_copy(
        &self,
        measure: usize,
        band: f64,
        from: usize,
        held: &[u32],
        zones: &[Vec<usize>],
    ) -> Option<(usize, usize)> {
        // A zone's nodes that are little fuller than its emptiest, which may be busy: then it is
        // better to wait than to make another one full that would have to give again.
        let mut open = Vec::new();
        for (zone, sites) in zones.iter().enumerate() {
            let roomy = sites.iter().filter(|site| self.sites[**site].free >= self.mean_bytes());
            let shares = roomy.map(|site| self.held(*site, measure));
            let most = shares.fold(f64::INFINITY, f64::min) + band / 2.0;
            let fit = sites.iter().rev().copied().filter(|site| {
                let share = self.held(*site, measure);
                share <= most
                    && self.held(from, measure) - share > band
                    && self.admit_copies_of(*site).is_ok()
            });
            let fit: Vec<usize> = fit.take(CANDIDATES_MAX).collect();
            if !fit.is_empty() {
                open.push((zone, fit));
            }
        }
        if open.is_empty() {
            return None;
        }
        let mut best: Option<(f64, usize, usize)> = None;
        let mut looked_at = 0;
        for shard in held.iter().map(|shard| *shard as usize) {
            if !self.may_leave(shard, from) {
                continue;
            }
            for (zone, sites) in &open {
                if !self.may_go(shard, from, *zone) {
                    continue;
                }
                for to in sites.iter().copied() {
                    if self.holds(shard, to) || !self.has_room(shard, to) {
                        continue;
                    }
                    let (a, b) = (&self.sites[from], &self.sites[to]);
                    let change = change_of(
                        &weights_of(self.shard(shard)),
                        (&a.holds, a.weight),
                        (&b.holds, b.weight),
                        &self.hold_means,
                    );
                    if change < best.map_or(-IMPROVEMENT_MIN, |(least, ..)| least) {
                        best = Some((change, shard, to));
                    }
                }
            }
            looked_at += 1;
            if best.is_some() && looked_at >= SHARDS_MAX {
                break;
            }
        }
        best.map(|(_, shard, to)| (shard, to))
    }

    /// Whether a replica of `shard` may go from `from` to a node of `zone` without being crowded
    /// more.
    fn may_go(&self, shard: usize, from: usize, zone: usize) -> bool {
        let (from_zone, from_region) = (self.sites[from].zone, self.sites[from].region);
        let region = self.zones[zone].region;
        if zone == from_zone {
            return true;
        }
        // With the others as they are, only what is met in the old and the new place counts.
        let (mut old, mut new) = ((0, 0), (0, 0));
        let leaders = self.realm(shard).leaders;
        let mut is_led_elsewhere = false;
        for (site, _) in self.members(shard).filter(|(site, _)| *site != from) {
            let at = &self.sites[site];
            old = (
                old.0 + usize::from(at.zone == from_zone),
                old.1 + usize::from(at.region == from_region),
            );
            new = (new.0 + usize::from(at.zone == zone), new.1 + usize::from(at.region == region));
            is_led_elsewhere |= leaders == Some(at.region);
        }
        let lacks = |region| leaders.is_some_and(|leaders| leaders != region) && !is_led_elsewhere;
        let (old, new) = ((old.0, lacks(from_region), old.1), (new.0, lacks(region), new.1));
        self.realm(shard).allowed[region] && new <= old
    }

    /// Whether a replica of `shard` may be moved away from `site` for balance. Leaders stay,
    /// because they would have to hand over first; where there is only one replica, it leads.
    fn may_leave(&self, shard: usize, site: usize) -> bool {
        self.is_movable(shard)
            && (self.leader(shard) != Some(site) || self.shard(shard).replicas.len() == 1)
            && self.admit_copy(shard, Urgency::Balance).is_ok()
    }

    pub(crate) fn held(&self, site: usize, measure: usize) -> f64 {
        let at = &self.sites[site];
        at.holds[measure] / (at.weight.max(1.0) * self.hold_means[measure])
    }

    // --- both --------------------------------------------------------------------------------------

    /// Whether nothing speaks against moving a shard or its leader only because it is better.
    pub(crate) fn is_movable(&self, shard: usize) -> bool {
        !self.busy[shard]
            && !self.troubled[shard]
            && !self.frozen[shard]
            && self.leader(shard).is_some()
    }

    /// Nodes that may be given something, those with the largest share first.
    fn by_share(&self, share: impl Fn(&Self, usize) -> f64) -> Vec<usize> {
        let mut sites: Vec<(u64, usize)> = (0..self.sites.len())
            .filter(|site| self.sites[*site].takes)
            .map(|site| (share(self, site).max(0.0).to_bits(), site))
            .collect();
        sites.sort_unstable_by(|a, b| b.cmp(a));
        sites.into_iter().map(|(_, site)| site).collect()
    }

    /// The shards with a voter on each node that `counts`.
    fn by_site(&self, counts: impl Fn(&Self, usize, usize) -> bool) -> BySite {
        let each = |visit: &mut dyn FnMut(usize, usize)| {
            for shard in 0..self.state.shards.len() {
                for (site, replica) in self.members(shard) {
                    if replica.votes() && counts(self, shard, site) {
                        visit(shard, site);
                    }
                }
            }
        };
        let mut starts = vec![0u32; self.sites.len() + 1];
        each(&mut |_, site| starts[site + 1] += 1);
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut shards = vec![0u32; starts[starts.len() - 1] as usize];
        each(&mut |shard, site| {
            shards[next[site] as usize] = shard as u32;
            next[site] += 1;
        });
        BySite { starts, shards }
    }

    fn unevenness(
        &self,
        from: usize,
        to: usize,
        shares: [String; 2],
        what: &str,
        band: f64,
    ) -> String {
        let [much, little] = shares;
        let weigh = |site: usize| match self.sites[site].weight {
            1.0 => String::new(),
            weight => format!(" for its weight of {weight}"),
        };
        format!(
            "{} has {much} {what}{} and {} has {little}{}: they may differ by {:.0} % of the mean",
            self.called(from),
            weigh(from),
            self.called(to),
            weigh(to),
            100.0 * band
        )
    }
}

/// Shards by node, in one piece.
struct BySite {
    starts: Vec<u32>,
    shards: Vec<u32>,
}

impl BySite {
    fn of(&self, site: usize) -> &[u32] {
        &self.shards[self.starts[site] as usize..self.starts[site + 1] as usize]
    }
}

/// By how much `P` changes when `weights` go from one node to another, each given with its sums
/// and its weight.
fn change_of<const N: usize>(
    weights: &[f64; N],
    (from, from_weight): (&[f64; N], f64),
    (to, to_weight): (&[f64; N], f64),
    means: &[f64; N],
) -> f64 {
    (0..N)
        .map(|measure| {
            let weight = weights[measure];
            let less = weight * (weight - 2.0 * from[measure]) / from_weight;
            let more = weight * (weight + 2.0 * to[measure]) / to_weight;
            (less + more) / (means[measure] * means[measure])
        })
        .sum()
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
