//! One seed from beginning to end.

use crate::chance::{between, magnitude, one, part};
use crate::fault::{Kind, Planned, schedule};
use crate::load::{self, Load, Tally};
use crate::queue::{Micros, SECOND};
use crate::shape::Shape;
use crate::trace::{Story, Trace};
use crate::world::World;
use quorate_base::rare::Reached;
use quorate_node::WorkerId;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What to run. What is `None`, each seed decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, up to [`crate::NODES_MAX`].
    pub nodes: Option<usize>,
    /// Workers of each node.
    pub workers: Option<WorkerId>,
    /// Shards.
    pub shards: Option<u32>,
    /// Clients.
    pub clients: Option<usize>,
    /// Simulated time with faults. Some more follows, in which everything must settle.
    pub faults_us: Micros,
    /// Which faults may happen; each seed takes some of them.
    pub kinds: Vec<Kind>,
    /// Each seed takes all of them.
    pub all_kinds: bool,
    /// The workload, one of [`crate::load::NAMES`].
    pub load: Option<&'static str>,
    /// How often a failing run is repeated with fewer faults.
    pub shrink_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: None,
            workers: None,
            shards: None,
            clients: None,
            faults_us: 20 * SECOND,
            kinds: Kind::ALL.to_vec(),
            all_kinds: false,
            load: None,
            shrink_max: 60,
        }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Simulated time.
    pub simulated_us: Micros,
    /// Events that reached workers.
    pub events: u64,
    /// Requests sent by clients.
    pub requests: u64,
    /// Replies that reached them.
    pub replies: u64,
    /// Errors among the replies.
    pub errors: u64,
    /// Packets sent between nodes.
    pub packets: u64,
    /// Packets that were lost.
    pub packets_lost: u64,
    /// Packets that were damaged.
    pub packets_damaged: u64,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// The rare paths that the nodes came by.
    pub reached: Reached,
    /// How the workload's operations ended.
    pub tally: Tally,
}

impl Stats {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.simulated_us += other.simulated_us;
        self.events += other.events;
        self.requests += other.requests;
        self.replies += other.replies;
        self.errors += other.errors;
        self.packets += other.packets;
        self.packets_lost += other.packets_lost;
        self.packets_damaged += other.packets_damaged;
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        self.reached.add(&other.reached);
        self.tally.acknowledged += other.tally.acknowledged;
        self.tally.refused += other.tally.refused;
        self.tally.unknown += other.tally.unknown;
        self.tally.outcomes += other.tally.outcomes;
        self.tally.keys += other.tally.keys;
        self.tally.undecided += other.tally.undecided;
    }
}

/// What a seed gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The cluster's shape.
    pub shape: Shape,
    /// A hash over everything that happened.
    pub trace_hash: u64,
    /// What it did.
    pub stats: Stats,
    /// The promise that was broken.
    pub failure: Option<Failure>,
}

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which promise, and how.
    pub what: String,
    /// The faults that are enough to break one, as far as tried.
    pub faults: Vec<Planned>,
    /// How many faults the seed had planned.
    pub faults_planned: usize,
    /// Which promise these faults break.
    pub shrunk_what: String,
    /// The last part of the run with these faults.
    pub story: Story,
    /// When that run ended.
    pub ended_us: Micros,
}

/// Runs a seed. If it breaks a promise, looks for a smaller schedule that does and tells its story.
pub fn run_seed(seed: u64, options: &Options) -> Outcome {
    let shape = Shape::draw(seed, options);
    let faults = schedule(seed, &shape, options.faults_us);
    let run = run_once(seed, &shape, faults.clone(), options, false);
    let failure = run.violation.clone().map(|what| explain(seed, &shape, faults, options, what));
    Outcome { seed, shape, trace_hash: run.trace_hash, stats: run.stats, failure }
}

/// One run.
struct Run {
    trace_hash: u64,
    stats: Stats,
    violation: Option<String>,
    story: Option<Story>,
}

fn run_once(seed: u64, shape: &Shape, faults: Vec<Planned>, options: &Options, story: bool) -> Run {
    let trace = if story { Trace::with_story() } else { Trace::default() };
    let load = make_load(seed, shape, options);
    let mut world = World::new(seed, shape.clone(), faults, load, trace);
    // An assertion of the node is a broken promise like any other. The world is not used
    // afterwards but for what it has counted.
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(options.faults_us)));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        world.violate(format!("an assertion failed: {text}"));
    }
    Run {
        trace_hash: world.trace.hash(),
        stats: Stats {
            simulated_us: world.now,
            events: world.trace.events,
            requests: world.clients.requests,
            replies: world.clients.replies,
            errors: world.clients.errors,
            packets: world.net.sent,
            packets_lost: world.net.lost,
            packets_damaged: world.net.damaged,
            faults: std::mem::take(&mut world.happened),
            reached: std::mem::take(&mut world.reached),
            tally: world.tally,
        },
        violation: world.violation.take(),
        story: world.trace.take_story(),
    }
}

/// The workload of a seed.
fn make_load(seed: u64, shape: &Shape, options: &Options) -> Box<dyn Load> {
    let mut prng = part(seed, 5);
    // How wrong a clock may be is unbounded when it jumps: expiry can then be at any time.
    let fits = |name: &&str| *name != "expiry" || !shape.kinds.contains(&Kind::Clock);
    let names: Vec<&str> = load::NAMES.into_iter().filter(fits).collect();
    let drawn = one(&mut prng, &names);
    let name = options.load.unwrap_or(drawn);
    let load_options = load::Options {
        clients: shape.clients,
        keys: between(&mut prng, 1, 6) as usize,
        operations_per_key: magnitude(&mut prng, 50, 1_000),
        pipeline_max: one(&mut prng, &[1, 2, 4, 8]),
        tolerance_us: 3 * SECOND,
        ..load::Options::default()
    };
    load::by_name(name, load_options).expect("the names are those of the loads")
}

fn explain(
    seed: u64,
    shape: &Shape,
    planned: Vec<Planned>,
    options: &Options,
    what: String,
) -> Failure {
    let faults_planned = planned.len();
    let fails = |faults: &[Planned]| {
        run_once(seed, shape, faults.to_vec(), options, false).violation.is_some()
    };
    let faults = shrink(planned, options.shrink_max, fails);
    let run = run_once(seed, shape, faults.clone(), options, true);
    let ended_us = run.stats.simulated_us;
    Failure {
        shrunk_what: run.violation.unwrap_or_else(|| what.clone()),
        what,
        faults,
        faults_planned,
        story: run.story.unwrap_or_default(),
        ended_us,
    }
}

/// Removes halves, quarters and so on of `faults` as long as the rest fails, within so many tries.
fn shrink(
    mut faults: Vec<Planned>,
    tries_max: usize,
    mut fails: impl FnMut(&[Planned]) -> bool,
) -> Vec<Planned> {
    let mut tries = 0;
    let mut piece = faults.len();
    while piece > 0 {
        let mut at = 0;
        while at < faults.len() {
            if tries >= tries_max {
                return faults;
            }
            tries += 1;
            let end = (at + piece).min(faults.len());
            let without: Vec<Planned> = [&faults[..at], &faults[end..]].concat();
            if fails(&without) {
                faults = without;
            } else {
                at = end;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn shrinking_leaves_what_is_needed() {
        let fault = |at| Planned { at, fault: Fault::Kill { node: 0, down_us: 1 } };
        let all: Vec<_> = (0..40).map(fault).collect();
        let needed =
            |faults: &[Planned]| [7, 31].iter().all(|at| faults.iter().any(|f| f.at == *at));
        let left = shrink(all, 200, needed);
        assert_eq!(left, [fault(7), fault(31)]);
    }
}
