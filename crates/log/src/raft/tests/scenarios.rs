//! What happens in the world.

use super::world::{Faults, Replica, STEP_MS, Seen, World};
use super::*;
use quorate_base::mutation::set;

/// Sums up what some seeds reach.
fn run(seeds: std::ops::Range<u64>, world: impl Fn(u64) -> World) -> Seen {
    let mut total = Seen::default();
    for seed in seeds {
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world(seed).run()))
            .unwrap_or_else(|_| panic!("seed {seed} failed"));
        total.leaderships += seen.leaderships;
        total.losses += seen.losses;
        total.acknowledged += seen.acknowledged;
        total.reads += seen.reads;
        total.crashes += seen.crashes;
        total.replayed += seen.replayed;
        total.trimmed += u64::from(seen.trimmed > 1);
        total.damages += seen.damages;
        total.snapshots += seen.snapshots;
        total.half_installs += seen.half_installs;
        total.changes += seen.changes;
        total.asleep_steps += seen.asleep_steps;
    }
    total
}

/// How many of the first seeds fail.
fn failures(seeds: u64, world: impl Fn(u64) -> World) -> usize {
    let fails = |seed: &u64| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world(*seed).run())).is_err()
    };
    (0..seeds).filter(fails).count()
}

#[test]
fn three_voters_agree_whatever_happens() {
    let total = run(0..300, World::new);
    assert!(total.losses > 100 && total.crashes > 100 && total.trimmed > 100, "{total:?}");
    assert!(total.acknowledged > 10_000 && total.reads > 10_000, "{total:?}");
}

#[test]
fn a_seed_decides_everything() {
    let world =
        |seed| World::of(5, seed).with(|faults| (faults.damage, faults.reconfigure) = (300, 10));
    for seed in 0..5 {
        assert_eq!(World::new(seed).run(), World::new(seed).run());
        assert_eq!(world(seed).run(), world(seed).run());
    }
}

#[test]
fn a_commit_without_a_quorum_and_an_endless_lease_are_found() {
    set(Some(Mutation::SkipQuorum));
    assert!(failures(20, World::new) > 0);
    set(Some(Mutation::LeaseWithoutBound));
    assert!(failures(300, World::new) > 0);
    set(None);
}

#[test]
fn followers_that_are_too_far_behind_go_on_from_snapshots() {
    let total = run(0..150, |seed| {
        World::new(seed).with(|faults| {
            faults.retained_bytes = 1_000;
            faults.crash += 2;
            faults.propose += 200;
        })
    });
    assert!(total.snapshots > 100 && total.half_installs > 10, "{total:?}");
}

#[test]
fn replicas_that_lost_something_come_back() {
    let total = run(0..300, |seed| World::new(seed).with(damage));
    assert!(total.damages > 300 && total.snapshots > 100, "{total:?}");
}

#[test]
fn replicas_that_lost_something_and_do_not_say_so_do_harm() {
    let world = |seed| World::new(seed).with(damage).with(|faults| faults.deny_damage = true);
    assert!(failures(60, world) > 0);
}

fn damage(faults: &mut Faults) {
    faults.crash += 3;
    faults.damage = 300;
    faults.retained_bytes = if faults.propose % 2 == 0 { 2_000 } else { RETAINED_BYTES_MAX };
}

#[test]
fn members_change_whatever_happens() {
    let total = run(0..200, |seed| {
        World::of(5, seed).with(|faults| {
            faults.reconfigure = 5 + faults.propose % 20;
            faults.damage = if faults.lose % 2 == 0 { 200 } else { 0 };
            faults.retained_bytes = if faults.cut % 2 == 0 { 2_000 } else { RETAINED_BYTES_MAX };
        })
    });
    assert!(total.changes > 1_000 && total.damages > 20, "{total:?}");
}

#[test]
fn groups_sleep_and_wake() {
    let total = run(0..150, |seed| {
        World::new(seed).with(|faults| {
            faults.quiet = 20;
            faults.crash /= 2;
            faults.cut /= 4;
            faults.transfer /= 4;
        })
    });
    assert!(total.asleep_steps > 10_000, "{total:?}");
}

/// A world in which nothing is wrong.
fn calm(seed: u64) -> World {
    World::new(seed).with(|faults| {
        *faults = Faults { delay_steps: 1, sync_steps: 1, propose: 300, ..Faults::default() };
        faults.retained_bytes = RETAINED_BYTES_MAX;
    })
}

fn leads(replica: &Option<Replica>) -> bool {
    replica.as_ref().is_some_and(|replica| replica.log.accepts())
}

fn leader(world: &World) -> usize {
    world.replicas.iter().position(leads).expect("a healthy group has a leader")
}

#[test]
fn sixteen_groups_survive_their_leader() {
    let mut took = Vec::new();
    for seed in 0..16 {
        let mut world = calm(seed);
        let until = 2_000 + world.prng.below(100) * STEP_MS;
        while world.now < until {
            world.step();
        }
        let leader = leader(&world);
        world.crash(leader);
        while !world.replicas.iter().any(leads) {
            world.step();
        }
        took.push(world.now - until);
    }
    took.sort_unstable();
    assert!(took[8] < 600, "{took:?}");
}

#[test]
fn leadership_is_handed_over_on_demand() {
    let mut world = calm(1);
    (0..400).for_each(|_| world.step());
    let before = leader(&world);
    let log = &mut world.replicas[before].as_mut().unwrap().log;
    let to = log.successor().unwrap() as usize - 1;
    assert_ne!(to, before);
    log.transfer(to as u64 + 1);
    (0..80).for_each(|_| world.step());
    assert_eq!(leader(&world), to);
    assert_eq!((world.seen.leaderships, world.seen.losses), (2, 1));
}

#[test]
#[ignore = "long"]
fn hunt() {
    let from: u64 = std::env::var("FROM").map_or(0, |v| v.parse().unwrap());
    let to: u64 = std::env::var("TO").map_or(1000, |v| v.parse().unwrap());
    for seed in from..to {
        let worlds: [(&str, fn(u64) -> World); 5] = [
            ("plain", World::new),
            ("snap", |seed| {
                World::new(seed).with(|f| {
                    f.retained_bytes = 1_000;
                    f.crash += 2;
                    f.propose += 200;
                    f.quiet = 5;
                })
            }),
            ("damage", |seed| World::new(seed).with(damage)),
            ("members", |seed| {
                World::of(5, seed).with(|faults| {
                    faults.reconfigure = 5 + faults.propose % 20;
                    faults.damage = if faults.lose % 2 == 0 { 200 } else { 0 };
                    faults.retained_bytes =
                        if faults.cut % 2 == 0 { 2_000 } else { RETAINED_BYTES_MAX };
                })
            }),
            ("sleep", |seed| {
                World::new(seed).with(|faults| {
                    faults.quiet = 20;
                    faults.crash /= 2;
                    faults.cut /= 4;
                    faults.transfer /= 4;
                })
            }),
        ];
        let wanted = std::env::var("W").unwrap_or_default();
        for (name, world) in worlds.into_iter().filter(|(name, _)| name.contains(&wanted)) {
            if std::panic::catch_unwind(|| world(seed).run()).is_err() {
                eprintln!("HUNT {name} {seed}");
            }
        }
    }
}
