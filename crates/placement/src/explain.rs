//! Why a shard is where it is, what is wrong with that, and what happens next.

use crate::hindrance::Hindrance;
use crate::limits::Limits;
use crate::moves::{Action, Move, Urgency};
use crate::planner::Planner;
use crate::state::{Health, Invalid, LeaderPreference, Name, Role, Shard, State};
use crate::text::{bytes, seconds};
use quorate_base::ShardId;
use quorate_base::ids::NodeId;
use std::fmt;

/// What [`crate::explain`] found. Displayed, it is a text of several lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The shard.
    pub shard: ShardId,
    /// The name of its space.
    pub space: Name,
    /// Its first and last slot.
    pub slots: (u16, u16),
    /// Bytes of one replica.
    pub bytes: u64,
    /// Requests per second.
    pub load: u64,
    /// How many voters it wants.
    pub wanted: usize,
    /// Its replicas.
    pub replicas: Vec<Placed>,
    /// Why they are there.
    pub because: Vec<String>,
    /// What is wrong or could be better and does not happen now, the most urgent first.
    pub problems: Vec<Problem>,
    /// What happens next.
    pub next: Next,
}

/// A replica and what is to be known about its node.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Where it is.
    pub node: NodeId,
    /// The node's name, region and zone; empty if it is not known any more.
    pub name: Name,
    /// See `name`.
    pub region: Name,
    /// See `name`.
    pub zone: Name,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it has nearly all entries.
    pub caught_up: bool,
    /// What is wrong with it.
    pub faults: Vec<String>,
    /// How full its node is: replicas, bytes and load, each in percent of the mean.
    pub fullness_percent: [f64; 3],
}

/// Something that should be otherwise, and what keeps it from being so.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What.
    pub urgency: Urgency,
    /// What hinders it.
    pub hindrance: Hindrance,
}

/// What happens next to a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing: it is where it should be.
    Nothing,
    /// Nothing, until [`Explanation::problems`] are solved.
    Hindered,
    /// This was begun.
    UnderWay(Action),
    /// This will be done in the next round.
    Move(Move),
    /// It will be taken in by its left neighbour.
    MergedInto(ShardId),
}

/// See [`crate::explain`]; `None` if there is no such shard.
pub(crate) fn explain(
    state: &State,
    limits: &Limits,
    shard: ShardId,
) -> Result<Option<Explanation>, Invalid> {
    let at = state.shards.binary_search_by_key(&shard, |shard| shard.id).ok();
    let mut planner = Planner::new(state, limits, at)?;
    let Some(at) = at else { return Ok(None) };
    // What nodes have before anything is planned is what the shard is where it is for.
    let (replicas, because) = (planner.placed(at), planner.because(at));
    planner.run();
    let planned = planner.moves().iter().find(|planned| concerns(planned, shard)).cloned();
    let found = &state.shards[at];
    let mut notes = std::mem::take(&mut planner.notes);
    notes.sort_by_key(|(urgency, _)| *urgency);
    let problems: Vec<Problem> =
        notes.into_iter().map(|(urgency, hindrance)| Problem { urgency, hindrance }).collect();
    let next = match (planned, found.under_way) {
        (Some(planned), _) if planned.shard == shard => Next::Move(planned),
        (Some(planned), _) => Next::MergedInto(planned.shard),
        (None, Some(action)) => Next::UnderWay(action),
        (None, None) if problems.is_empty() => Next::Nothing,
        (None, None) => Next::Hindered,
    };
    let space = planner.space(at);
    Ok(Some(Explanation {
        shard,
        space: space.name.clone(),
        slots: (found.first, found.last),
        bytes: found.bytes,
        load: found.load,
        wanted: usize::from(space.replicas),
        replicas,
        because,
        problems,
        next,
    }))
}

fn concerns(planned: &Move, shard: ShardId) -> bool {
    planned.shard == shard || planned.action == Action::Merge { with: shard }
}

impl Planner<'_> {
    fn placed(&self, shard: usize) -> Vec<Placed> {
        let of = self.shard(shard);
        let placed = self.members(shard).map(|(site, replica)| {
            let node = self.state.nodes.get(site);
            let name = |part: fn(&crate::Node) -> &Name| {
                node.map_or_else(|| Name::from(""), |node| part(node).clone())
            };
            Placed {
                node: replica.node,
                name: name(|node| &node.name),
                region: name(|node| &node.region),
                zone: name(|node| &node.zone),
                votes: replica.votes(),
                leads: of.leader == Some(replica.node),
                caught_up: replica.caught_up,
                faults: self.faults(shard, site, of, replica),
                fullness_percent: [0, 1, 2].map(|measure| 100.0 * self.held(site, measure)),
            }
        });
        placed.collect()
    }

    fn faults(
        &self,
        shard: usize,
        site: usize,
        of: &Shard,
        replica: &crate::Replica,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        match self.state.nodes.get(site) {
            None => faults.push("its node is not known any more".to_owned()),
            Some(node) => {
                if let Health::Gone { since } = node.health {
                    let gone = seconds(self.state.now.saturating_sub(since));
                    faults.push(format!("its node has been gone for {gone}"));
                }
                if node.draining {
                    faults.push("its node is to be emptied".to_owned());
                }
                if !self.is_allowed(shard, site) {
                    faults.push(format!("region {} is not allowed", node.region));
                }
            }
        }
        if !replica.caught_up {
            faults.push(format!("it lacks {} entries", replica.lag));
        }
        if let Role::Learner { instead_of } = replica.role {
            faults.push(match instead_of {
                Some(old) => format!("it learns, to replace the one on node {old}"),
                None => "it learns, to vote later".to_owned(),
            });
        }
        if let Some(Action::Remove { node } | Action::Replace { old: node, .. }) = of.under_way
            && node == replica.node
        {
            faults.push("it is about to go".to_owned());
        }
        faults
    }

    /// The rules that led to where the replicas are, with their figures.
    fn because(&self, shard: usize) -> Vec<String> {
        let (of, space) = (self.shard(shard), self.space(shard));
        let mut because = Vec::new();
        let voters: Vec<usize> =
            self.members(shard).filter(|(_, r)| r.votes()).map(|(site, _)| site).collect();
        let count = |mut places: Vec<usize>| {
            places.sort_unstable();
            places.dedup();
            places.len()
        };
        let takes = |site: &usize| self.sites[*site].takes && self.is_allowed(shard, *site);
        let open: Vec<usize> = (0..self.sites.len()).filter(takes).collect();
        because.push(format!(
            "{} of {} replicas, in {} zones and {} regions; the space could use {} nodes in {} \
             zones and {} regions",
            voters.len(),
            space.replicas,
            count(voters.iter().map(|site| self.sites[*site].zone).collect()),
            count(voters.iter().map(|site| self.sites[*site].region).collect()),
            open.len(),
            count(open.iter().map(|site| self.sites[*site].zone).collect()),
            count(open.iter().map(|site| self.sites[*site].region).collect()),
        ));
        if !space.regions.is_empty() {
            because.push(format!("its data may only be in {}", space.regions.join(", ")));
        }
        let wish = match &space.leader {
            LeaderPreference::Anywhere => "its leader may be anywhere".to_owned(),
            LeaderPreference::Region(region) => format!("its leader should be in region {region}"),
            LeaderPreference::FollowLoad => match &of.origin {
                Some(origin) => format!("its leader follows the load, which is in region {origin}"),
                None => "its leader follows the load, which comes from nowhere yet".to_owned(),
            },
        };
        let leads = self.leader(shard).map_or_else(
            || "nobody is known to lead".to_owned(),
            |site| {
                let (leads, mean) = (self.sites[site].leads[0], self.lead_means[0]);
                format!(
                    "{} leads it and {leads:.0} in all, of {mean:.1} on average",
                    self.called(site)
                )
            },
        );
        because.push(format!("{wish}; {leads}"));
        because
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "shard {} of space {}: slots {} to {}, {}, {} requests/s",
            self.shard,
            self.space,
            self.slots.0,
            self.slots.1,
            bytes(self.bytes),
            self.load
        )?;
        for placed in &self.replicas {
            writeln!(f, "  {placed}")?;
        }
        writeln!(f, "why here")?;
        for text in &self.because {
            writeln!(f, "  {text}")?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "what is wrong")?;
            for problem in &self.problems {
                writeln!(f, "  {}: {}", problem.urgency, problem.hindrance)?;
            }
        }
        write!(f, "next: {}", self.next)
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match (self.leads, self.votes) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let [replicas, data, load] = self.fullness_percent;
        write!(
            f,
            "node {} ({}), region {}, zone {}: {role}; of the mean the node has {replicas:.0} % \
             of replicas, {data:.0} % of bytes, {load:.0} % of load",
            self.node, self.name, self.region, self.zone
        )?;
        self.faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing, it is where it should be"),
            Self::Hindered => f.write_str("nothing, until what is wrong allows it"),
            Self::UnderWay(action) => write!(f, "under way: {action}"),
            Self::Move(planned) => {
                write!(f, "{} ({}: {})", planned.action, planned.urgency, planned.reason)
            }
            Self::MergedInto(shard) => write!(f, "shard {shard} takes it in"),
        }
    }
}
