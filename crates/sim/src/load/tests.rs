//! Every load passes with a correct server and finds what a wrong one does.

mod fake;

use super::{NAMES, Options, Tally, Violation, by_name};
use fake::{Fake, Faults, Flaw, NO_FAULTS, SOME_FAULTS};

fn run(name: &str, flaw: Flaw, faults: Faults, seed: u64) -> (Result<(), Violation>, Tally) {
    let options = Options { ask_outcomes: seed % 2 == 1, ..Options::default() };
    let mut load = by_name(name, options).unwrap();
    let fake = Fake::new(flaw, faults, seed, load.clients());
    let result = fake.run(load.as_mut(), 5);
    (result, load.tally())
}

#[test]
fn every_load_passes_with_a_correct_server() {
    for name in NAMES {
        for seed in 0..5 {
            let (result, tally) = run(name, Flaw::None, NO_FAULTS, seed);
            assert_eq!(result, Ok(()), "{name}, seed {seed}");
            assert!(tally.acknowledged > 1000, "{name}, seed {seed}: {tally:?}");
            assert_eq!((tally.refused, tally.undecided), (0, 0), "{name}, seed {seed}: {tally:?}");
        }
    }
}

#[test]
fn every_load_passes_with_a_correct_server_with_faults() {
    for name in NAMES {
        for seed in 0..6 {
            let (result, tally) = run(name, Flaw::None, SOME_FAULTS, seed);
            assert_eq!(result, Ok(()), "{name}, seed {seed}");
            assert!(tally.refused > 3 && tally.unknown > 3, "{name}, seed {seed}: {tally:?}");
            assert_eq!(tally.undecided, 0, "{name}, seed {seed}: {tally:?}");
            let asks = name == "outcomes" || seed % 2 == 1 && !["queues", "mixed"].contains(&name);
            assert_eq!(tally.outcomes > 3, asks, "{name}, seed {seed}: {tally:?}");
        }
    }
}

/// What each load is there to find.
const FINDS: [(&str, &[Flaw]); 9] = [
    (
        "registers",
        &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::ExecutesRefused, Flaw::IgnoresWatch],
    ),
    (
        "counters",
        &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::ExecutesRefused, Flaw::ExecutesTwice],
    ),
    ("lists", &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::ExecutesRefused, Flaw::ExecutesTwice]),
    ("sets", &[Flaw::LosesWrites, Flaw::ReadsStale]),
    (
        "transfers",
        &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::IgnoresWatch, Flaw::HalfTransaction],
    ),
    ("expiry", &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::NeverExpires]),
    ("queues", &[Flaw::LosesWrites, Flaw::ExecutesRefused, Flaw::ExecutesTwice, Flaw::PopsTwice]),
    ("mixed", &[Flaw::LosesWrites, Flaw::ReadsStale, Flaw::ExecutesRefused, Flaw::ExecutesTwice]),
    ("outcomes", &[Flaw::LosesWrites, Flaw::ExecutesTwice, Flaw::LiesAboutOutcome]),
];

#[test]
fn every_load_finds_what_a_wrong_server_does() {
    for (name, flaws) in FINDS {
        for &flaw in flaws {
            for seed in 0..3 {
                let (result, tally) = run(name, flaw, SOME_FAULTS, seed);
                let violation = result.expect_err(&format!("{name}, {flaw:?}, {seed}: {tally:?}"));
                assert!(!violation.to_string().is_empty());
            }
        }
    }
}

#[test]
fn a_run_depends_on_nothing_but_its_seed() {
    for name in NAMES {
        assert_eq!(run(name, Flaw::None, SOME_FAULTS, 7), run(name, Flaw::None, SOME_FAULTS, 7));
    }
}
