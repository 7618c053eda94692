//! What happens in the world.

use super::world::{Faults, Replica, STEP_MS, Seen, World};
use super::*;
use quorate_base::mutation::set;

fn far_behind(seed: u64) -> World {
    World::new(seed).with(|faults| {
        faults.retained_bytes = 1_000;
        faults.crash += 2;
        faults.propose += 200;
    })
}

fn damaged(seed: u64) -> World {
    World::new(seed).with(|faults| {
        faults.crash += 3;
        faults.damage = 300;
        let little = faults.propose.is_multiple_of(2);
        faults.retained_bytes = if little { 2_000 } else { RETAINED_BYTES_MAX };
    })
}

fn changing(seed: u64) -> World {
    World::of(5, seed).with(|faults| {
        faults.reconfigure = 5 + faults.propose % 20;
        faults.damage = if faults.lose.is_multiple_of(2) { 200 } else { 0 };
        let little = faults.cut.is_multiple_of(2);
        faults.retained_bytes = if little { 2_000 } else { RETAINED_BYTES_MAX };
    })
}

fn sleepy(seed: u64) -> World {
    World::new(seed).with(|faults| {
        faults.quiet = 20;
        faults.crash /= 2;
        faults.cut /= 4;
        faults.transfer /= 4;
    })
}

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
    let total = run(0..150, far_behind);
    assert!(total.snapshots > 100 && total.half_installs > 10, "{total:?}");
}

#[test]
fn replicas_that_lost_something_come_back() {
    let total = run(0..300, damaged);
    assert!(total.damages > 300 && total.snapshots > 100, "{total:?}");
}

#[test]
fn replicas_that_lost_something_and_do_not_say_so_do_harm() {
    let world = |seed| damaged(seed).with(|faults| faults.deny_damage = true);
    assert!(failures(60, world) > 0);
}

#[test]
fn members_change_whatever_happens() {
    let total = run(0..200, changing);
    assert!(total.changes > 1_000 && total.damages > 20, "{total:?}");
}

#[test]
fn groups_sleep_and_wake() {
    let total = run(0..150, sleepy);
    assert!(total.asleep_steps > 10_000, "{total:?}");
}

/// A state record said that an entry was agreed on which was only on its way to the disk, where
/// another one was in its place.
#[test]
fn what_is_agreed_on_but_not_durable_is_not_remembered() {
    changing(34_615).run();
}

/// `QUORATE_SEEDS=1000..5000 cargo test --release -p quorate-log more_seeds -- --ignored`
#[test]
#[ignore = "as long as one likes"]
fn more_seeds() {
    let seeds = std::env::var("QUORATE_SEEDS").expect("QUORATE_SEEDS=from..to");
    let (from, to) = seeds.split_once("..").expect("from..to");
    type Make = fn(u64) -> World;
    let worlds: [(&str, Make); 5] = [
        ("plain", World::new),
        ("far behind", far_behind),
        ("damaged", damaged),
        ("changing", changing),
        ("sleepy", sleepy),
    ];
    let mut failed = Vec::new();
    for seed in from.parse().unwrap()..to.parse().unwrap() {
        for (name, world) in worlds {
            if std::panic::catch_unwind(|| world(seed).run()).is_err() {
                failed.push((name, seed));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
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
fn reads_under_a_lease_need_no_messages_until_it_ends_or_leadership_is_offered() {
    let mut world = calm(1);
    (0..200).for_each(|_| world.step());
    world.faults.propose = 0;
    (0..20).for_each(|_| world.step());
    let leader = leader(&world);
    let now = world.now * 2;
    let log = &mut world.replicas[leader].as_mut().unwrap().log;
    let read = |log: &mut RaftLog, at: Millis, id: u64| {
        log.read(at, id);
        take(log).readable == [id]
    };
    let mut lease = Lease::default();
    lease.confirm(now);
    log.lease = lease;
    assert!(read(log, now, 1) && read(log, now + LEASE_MS - 1, 2));
    assert!(!read(log, now + LEASE_MS, 3));
    log.forget_reads();
    log.lease.confirm(now);
    let to = log.successor().unwrap();
    log.transfer(to);
    log.lease.confirm(now);
    assert!(!read(log, now, 4), "a transfer ends all leases of the term");
}

#[test]
fn who_restarts_votes_for_nobody_for_a_while() {
    let state = encode_state(
        &State { term: 1, knows_members: true, ..State::default() },
        &Conf::of_voters(&[1, 2, 3]),
    );
    // A vote of term 2 for node 2, whose log ends at 1 with an entry of term 1.
    let vote = [3, 0, 2, 1, 1, 0, 0, 0, 0, 0, 0];
    let restored = Restored { state: Some(state), ..Restored::default() };
    let mut log = RaftLog::new(SHARD, 1, &[1, 2, 3], restored, 9).unwrap();
    log.tick(1_000);
    log.campaign();
    log.step(1_000 + ELECTION_MS - 1, 2, &vote);
    let out = take(&mut log);
    assert_eq!((log.term(), out.send_now.len() + out.send_durable.len()), (1, 0));
    log.step(1_000 + ELECTION_MS, 2, &vote);
    assert_eq!((log.term(), take(&mut log).send_durable.len()), (2, 1));
}

/// Hands messages and syncs around until nothing is left to do at `now`.
fn settle(now: Millis, logs: &mut [RaftLog]) {
    loop {
        let mut messages = Vec::new();
        for (log, id) in logs.iter_mut().zip(1..) {
            if log.next_deadline().is_some_and(|deadline| deadline <= now) {
                log.tick(now);
            }
            let out = take(log);
            log.persisted(out.seq);
            log.applied(out.commit);
            let sent = out.send_now.into_iter().chain(out.send_durable);
            messages.extend(sent.map(|(to, bytes)| (id, to, bytes)));
        }
        if messages.is_empty() {
            return;
        }
        for (from, to, bytes) in messages {
            logs[to as usize - 1].step(now, from, &bytes);
        }
    }
}

#[test]
fn ten_thousand_sleeping_groups_want_no_time() {
    let mut groups: Vec<Vec<RaftLog>> = Vec::new();
    for seed in 0..10_000u64 {
        let log =
            |id| RaftLog::new(SHARD, id, &[1, 2, 3], Restored::default(), 3 * seed + id).unwrap();
        let mut logs: Vec<RaftLog> = (1..4).map(log).collect();
        (0..100).for_each(|tick| settle(tick * TICK_MS, &mut logs));
        groups.push(logs);
    }
    assert!(groups.iter().flatten().all(|log| log.next_deadline().is_none()));
    // A proposal wakes the group, a lost peer lets it sleep again, by two.
    let logs = &mut groups[0];
    let leader = logs.iter().position(RaftLog::is_leader).unwrap();
    logs[leader].propose(vec![1]).unwrap();
    (200..240).for_each(|tick| settle(tick * TICK_MS, logs));
    assert!(logs.iter().all(|log| log.next_deadline().is_none() && log.commit() == 2));
    let follower = (leader + 1) % 3;
    logs[leader].peer_gone(2_400, follower as u64 + 1);
    assert!(logs[leader].next_deadline().is_some());
    logs[follower].peer_gone(2_400, leader as u64 + 1);
    assert!(logs[follower].next_deadline().unwrap() >= 2_400 + ELECTION_MS);
}
