//! Deliberate bugs that the simulator must find.
use quorate_base::mutation::{Mutation, set};
use quorate_sim::{Kind, Options, SECOND, run_seed};

/// Seeds tried for one bug before it counts as missed.
const SEEDS_MAX: u64 = 60;

/// Where a bug shows: which faults bring it out, what clients do, and the first seed to try.
fn circumstances(mutation: Mutation) -> (Vec<Kind>, Option<&'static str>, u64) {
    match mutation {
        Mutation::AckBeforeSync => (vec![Kind::Crash], Some("counters"), 0),
        Mutation::SkipQuorum => (vec![Kind::Partition, Kind::Crash], Some("counters"), 0),
        Mutation::LeaseWithoutBound => (vec![Kind::Partition, Kind::Pause], Some("registers"), 26),
        Mutation::ForgetRequests => {
            (vec![Kind::Crash, Kind::Partition, Kind::Rot], Some("lists"), 0)
        }
        Mutation::ApplyTwice => (vec![Kind::Crash], Some("lists"), 0),
        Mutation::IgnoreChecksum => (vec![Kind::Network, Kind::Rot], None, 0),
    }
}

fn options(mutation: Mutation) -> Options {
    let (kinds, load, _) = circumstances(mutation);
    let (nodes, shards) = (Some(3), Some(2));
    Options {
        nodes,
        shards,
        kinds,
        all_kinds: true,
        load,
        faults_us: 15 * SECOND,
        shrink_max: 0,
        ..Options::default()
    }
}

#[test]
fn deliberate_bugs_are_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let options = options(mutation);
        let (_, _, from) = circumstances(mutation);
        set(Some(mutation));
        let found = (from..from + SEEDS_MAX)
            .find_map(|seed| run_seed(seed, &options).failure.map(|failure| (seed, failure.what)));
        set(None);
        let Some((seed, what)) = found else {
            missed.push(mutation);
            continue;
        };
        println!("{mutation:?}: seed {seed}: {}", what.lines().next().unwrap_or_default());
        let sound = run_seed(seed, &options).failure;
        assert!(sound.is_none(), "seed {seed} fails without {mutation:?}: {}", sound.unwrap().what);
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
