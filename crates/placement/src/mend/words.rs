//! Reasons and hindrances of mending, in words with figures.

use super::{Doom, Look};
use crate::hindrance::Hindrance;
use crate::planner::Planner;
use crate::state::Health;
use crate::text::seconds;

impl Planner<'_> {
    pub(super) fn copying(&self, shard: usize, site: usize) -> Hindrance {
        Hindrance::Copying { node: self.id(site), lag: self.lag_of(shard, site) }
    }

    pub(super) fn lag(&self, shard: usize, site: usize) -> String {
        format!("{} entries behind", self.lag_of(shard, site))
    }

    pub(super) fn lag_of(&self, shard: usize, site: usize) -> u64 {
        let replica = self.members(shard).find(|(at, _)| *at == site);
        replica.map_or(0, |(_, replica)| replica.lag)
    }

    pub(super) fn needed(&self, look: &Look, site: usize, voters: usize) -> Hindrance {
        let sound = look.sound.iter().filter(|other| **other != site).count();
        Hindrance::Needed { node: self.id(site), voters, sound, wanted: look.wanted }
    }

    pub(super) fn may_return(&self, look: &Look) -> Hindrance {
        let gone = look.voters.iter().find(|site| !self.sites[**site].alive);
        let site = *gone.expect("fewer are alive than vote");
        Hindrance::MayReturn {
            node: self.id(site),
            gone_ms: self.gone_ms(site).unwrap_or(0),
            after_ms: self.limits.repair_after_ms,
        }
    }

    pub(super) fn gone_ms(&self, site: usize) -> Option<u64> {
        match self.state.nodes.get(site)?.health {
            Health::Alive => None,
            Health::Gone { since } => Some(self.state.now.saturating_sub(since)),
        }
    }

    /// Why the voter at `site` is the one that goes.
    pub(super) fn blame(&self, shard: usize, look: &Look, site: usize) -> String {
        let name = self.called(site);
        let doom = look.doomed.iter().find(|(_, doomed)| *doomed == site).map(|(doom, _)| *doom);
        match doom {
            Some(Doom::Gone) => {
                let gone = self.gone_ms(site).map_or("for good".into(), |ms| {
                    let after = seconds(self.limits.repair_after_ms);
                    format!("for {} (replaced after {after})", seconds(ms))
                });
                let (alive, voters) = (look.alive, look.voters.len());
                let risk =
                    if look.is_at_risk() { ", and one failure more would stop it" } else { "" };
                format!("{name} has been gone {gone}; {alive} of {voters} voters are alive{risk}")
            }
            Some(Doom::Region) => format!(
                "{name} is in region {}, which space {} does not allow",
                self.regions[self.sites[site].region],
                self.space(shard).name
            ),
            Some(Doom::Drain) => format!(
                "{name} is to be emptied; {} replicas are left there",
                self.sites[site].holds[0]
            ),
            None if !self.sites[site].alive => format!("{name} cannot be reached"),
            None => format!(
                "{name} is {}, and shares {} with {} others",
                self.fullness_text(site),
                self.place(site),
                self.in_zone(&look.voters, site).saturating_sub(1)
            ),
        }
    }

    /// Why a new replica goes to `site`.
    pub(super) fn praise(&self, kept: &[usize], site: usize) -> String {
        let others = self.in_zone(kept, site);
        let shared = match others {
            0 => "which has none of the others".to_owned(),
            n => format!("which has {n} of the others, as few as can be"),
        };
        format!(
            "{} in {} takes it, {shared}; it is {}",
            self.called(site),
            self.place(site),
            self.fullness_text(site)
        )
    }

    /// How full a node is beside the mean.
    pub(crate) fn fullness_text(&self, site: usize) -> String {
        let percent = 100.0 * self.fullness(site) / crate::planner::HOLDS as f64;
        format!("at {percent:.0} % of the mean")
    }

    pub(super) fn place(&self, site: usize) -> String {
        let at = &self.sites[site];
        format!("zone {} of region {}", self.zones[at.zone].name, self.regions[at.region])
    }

    pub(super) fn in_zone(&self, sites: &[usize], like: usize) -> usize {
        let zone = self.sites[like].zone;
        sites.iter().filter(|site| self.sites[**site].zone == zone).count()
    }
}
