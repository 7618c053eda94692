//! Whole runs.

use crate::{Kind, Options, Outcome, SECOND, Stats, run_seed};
use quorate_base::rare::RarePath;

/// A run of this seed, twice; they must be the same.
fn twice(seed: u64, options: &Options) -> Outcome {
    let (first, second) = (run_seed(seed, options), run_seed(seed, options));
    assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} gave two different runs");
    assert_eq!(first.stats, second.stats, "seed {seed}");
    first
}

fn alone() -> Options {
    Options { nodes: Some(1), faults_us: 10 * SECOND, ..Options::default() }
}

#[track_caller]
fn assert_sound(outcome: &Outcome) {
    if let Some(failure) = &outcome.failure {
        let faults: Vec<_> = failure.faults.iter().map(|f| format!("\n  {f}")).collect();
        panic!("seed {}: {}{}", outcome.seed, failure.shrunk_what, faults.concat());
    }
}

#[test]
fn a_seed_runs_the_same_way_twice_and_a_single_node_keeps_its_promises() {
    let mut stats = Stats::default();
    for seed in 0..12 {
        let outcome = twice(seed, &alone());
        assert_sound(&outcome);
        stats.add(&outcome.stats);
    }
    assert!(stats.requests > 1_000 && stats.replies > 1_000, "{stats:?}");
    for name in ["kill", "power loss", "pause", "clock jump", "slow loop", "full disk"] {
        assert!(stats.faults.get(name).is_some_and(|count| *count > 0), "no {name}: {stats:?}");
    }
}

#[test]
fn seeds_differ() {
    let options = Options { kinds: vec![Kind::Crash], ..alone() };
    assert_ne!(run_seed(1, &options).trace_hash, run_seed(2, &options).trace_hash);
}

#[test]
fn a_cluster_without_faults_serves() {
    let options =
        Options { nodes: Some(3), kinds: Vec::new(), faults_us: 5 * SECOND, ..Options::default() };
    for seed in 0..4 {
        let outcome = twice(seed, &options);
        assert_sound(&outcome);
        assert!(outcome.stats.replies > 100);
    }
}

#[test]
fn clusters_keep_their_promises() {
    let options = Options { faults_us: 8 * SECOND, ..Options::default() };
    let mut stats = Stats::default();
    for seed in 100..112 {
        let outcome = twice(seed, &options);
        assert_sound(&outcome);
        stats.add(&outcome.stats);
    }
    assert!(stats.replies > 10_000, "{stats:?}");
    for name in ["partition", "power loss", "clock drift", "disk stall"] {
        assert!(stats.faults.contains_key(name), "no {name}: {stats:?}");
    }
    assert!(stats.reached.count(RarePath::LeadershipLost) > 0, "{stats:?}");
}

/// Seeds that found bugs, with the time of faults that they found them in.
#[test]
fn seeds_that_found_bugs_stay_sound() {
    for (seconds, seeds) in [
        (20, &[7, 9, 16, 35][..]),
        (15, &[1007, 1104, 2000, 2054, 21580]),
        (12, &[4058, 4059, 4083, 4157, 4188, 6269]),
    ] {
        let options = Options { faults_us: seconds * SECOND, ..Options::default() };
        for seed in seeds {
            assert_sound(&run_seed(*seed, &options));
        }
    }
}
