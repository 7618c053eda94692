//! Each rule by itself, on small clusters.

use quorate_placement::testing::World;
use quorate_placement::{
    Action, Hindrance, LeaderPreference, Limits, Move, Next, Refusal, Role, Urgency, explain, plan,
};

const ALL: (u16, u16) = (0, 16_383);
const MINUTE: u64 = 60_000;
const MIB: u64 = 1 << 20;

/// Three zones of a region with `n` nodes each: 1..=n in a, then b, then c.
fn three_zones(n: usize) -> World {
    World::new(&[("eu", "a", n), ("eu", "b", n), ("eu", "c", n)])
}

/// The only move of a plan.
fn only(world: &World) -> Move {
    let plan = plan(&world.state, &world.limits).expect("a valid state");
    assert_eq!(plan.moves.len(), 1, "{:#?}", plan.moves);
    plan.moves[0].clone()
}

fn none(world: &World) {
    let plan = plan(&world.state, &world.limits).expect("a valid state");
    assert_eq!(plan.moves, [], "nothing is to be done");
}

fn hindrances(world: &World, shard: u32) -> Vec<Hindrance> {
    let explanation = explain(&world.state, &world.limits, shard).expect("a valid state");
    let explanation = explanation.expect("a shard that there is");
    explanation.problems.into_iter().map(|problem| problem.hindrance).collect()
}

/// A shard of three replicas in three zones of two nodes each.
fn one_shard() -> World {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 3, 5]);
    world
}

// --- replicas that are gone -----------------------------------------------------------------------

#[test]
fn a_healthy_shard_rests() {
    none(&one_shard());
}

#[test]
fn a_node_that_is_gone_is_replaced_after_the_set_time_and_not_earlier() {
    let mut world = one_shard();
    world.lose(3);
    world.wait(5 * MINUTE - 1);
    none(&world);
    let waits = Hindrance::MayReturn { node: 3, gone_ms: 5 * MINUTE - 1, after_ms: 5 * MINUTE };
    assert_eq!(hindrances(&world, 0), [waits]);
    world.wait(1);
    let planned = only(&world);
    assert_eq!(planned.action, Action::AddReplica { node: 4, instead_of: Some(3) });
    assert_eq!(planned.urgency, Urgency::QuorumAtRisk);
    assert!(planned.reason.contains("gone for 300 s"), "{}", planned.reason);
    assert!(planned.reason.contains("2 of 3 voters are alive"), "{}", planned.reason);
}

#[test]
fn the_new_replica_takes_the_seat_of_the_old_in_one_step_once_it_has_caught_up() {
    let mut world = one_shard();
    world.lose(3);
    world.wait(5 * MINUTE);
    world.begin(&plan(&world.state, &world.limits).unwrap());
    world.end(0, false);
    none(&world);
    assert_eq!(hindrances(&world, 0), [Hindrance::Copying { node: 4, lag: 1000 }]);
    world.catch_up();
    assert_eq!(only(&world).action, Action::Replace { old: 3, new: 4 });
}

#[test]
fn a_node_that_comes_back_in_time_keeps_its_replicas() {
    let mut world = one_shard();
    world.lose(3);
    world.wait(MINUTE);
    world.come_back(3);
    none(&world);
}

#[test]
fn two_of_five_gone_is_quorum_at_risk_and_one_is_not() {
    let mut world = World::new(&[("eu", "a", 4), ("eu", "b", 4), ("eu", "c", 4)]);
    let space = world.space(5);
    world.shard(space, ALL, &[1, 2, 5, 6, 9]);
    world.lose(2);
    world.wait(5 * MINUTE);
    assert_eq!(only(&world).urgency, Urgency::UnderReplicated);
    world.lose(6);
    assert_eq!(only(&world).urgency, Urgency::QuorumAtRisk);
}

#[test]
fn without_a_quorum_nothing_is_planned_and_it_says_so() {
    let mut world = one_shard();
    world.lose(3);
    world.lose(5);
    world.wait(60 * MINUTE);
    none(&world);
    assert_eq!(hindrances(&world, 0), [Hindrance::QuorumLost { alive: 1, voters: 3 }]);
}

#[test]
fn a_node_that_is_not_known_any_more_counts_as_gone_for_good() {
    let mut world = one_shard();
    world.state.nodes.retain(|node| node.id != 3);
    let planned = only(&world);
    assert_eq!(planned.action, Action::AddReplica { node: 4, instead_of: Some(3) });
}

#[test]
fn a_learner_whose_node_is_gone_is_given_up_at_once() {
    let mut world = one_shard();
    world.lose(3);
    world.wait(5 * MINUTE);
    world.begin(&plan(&world.state, &world.limits).unwrap());
    world.end(0, false);
    world.lose(4);
    assert_eq!(only(&world).action, Action::Remove { node: 4 });
}

#[test]
fn nothing_is_planned_for_a_shard_with_a_move_under_way() {
    let mut world = one_shard();
    world.lose(3);
    world.wait(5 * MINUTE);
    world.begin(&plan(&world.state, &world.limits).unwrap());
    none(&world);
    let action = Action::AddReplica { node: 4, instead_of: Some(3) };
    assert_eq!(hindrances(&world, 0), [Hindrance::UnderWay(action)]);
}

// --- numbers of voters ------------------------------------------------------------------------------

#[test]
fn from_one_to_three_replicas_two_are_added_before_either_votes() {
    let mut world = three_zones(1);
    let space = world.space(3);
    world.shard(space, ALL, &[1]);
    let (rounds, moves) = world.settle(10);
    let actions: Vec<Action> = moves.iter().map(|planned| planned.action).collect();
    assert_eq!(
        actions,
        [
            Action::AddReplica { node: 2, instead_of: None },
            Action::AddReplica { node: 3, instead_of: None },
            Action::Promote { node: 2 },
            Action::Promote { node: 3 },
        ]
    );
    assert_eq!(rounds, 4);
}

#[test]
fn a_second_replica_waits_for_a_third_before_it_votes() {
    let mut world = World::new(&[("eu", "a", 1), ("eu", "b", 1)]);
    let space = world.space(3);
    world.shard(space, ALL, &[1]);
    world.round();
    none(&world);
    assert_eq!(hindrances(&world, 0), [Hindrance::WouldBeEven { voters: 1, wanted: 3 }]);
    world.join("eu", "c");
    assert_eq!(only(&world).action, Action::AddReplica { node: 3, instead_of: None });
}

#[test]
fn replicas_that_wait_do_not_keep_other_shards_from_getting_theirs() {
    let mut world = World::new(&[("eu", "a", 1), ("eu", "b", 1)]);
    let space = world.space(3);
    for at in 0..20 {
        world.shard(space, (at, at), &[1]);
    }
    for _ in 0..20 {
        world.round();
    }
    assert!(world.state.shards.iter().all(|shard| shard.replicas.len() == 2));
}

#[test]
fn two_replicas_vote_if_two_are_asked_for() {
    let mut world = World::new(&[("eu", "a", 1), ("eu", "b", 1)]);
    let space = world.space(2);
    world.shard(space, ALL, &[1]);
    world.settle(5);
    assert_eq!(world.state.shards[0].voters().count(), 2);
}

#[test]
fn from_five_to_three_the_crowded_go_one_by_one() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 2, 3, 4, 5]);
    let (_, moves) = world.settle(5);
    let actions: Vec<Action> = moves.iter().map(|planned| planned.action).collect();
    assert_eq!(actions, [Action::Remove { node: 4 }, Action::Remove { node: 2 }]);
}

#[test]
fn of_too_many_the_dead_one_goes_first() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 3, 5, 6]);
    world.lose(3);
    world.wait(5 * MINUTE);
    let planned = only(&world);
    assert_eq!(planned.action, Action::Remove { node: 3 });
    assert_eq!(planned.urgency, Urgency::QuorumAtRisk);
}

#[test]
fn a_healthy_voter_is_not_removed_while_another_may_not_come_back() {
    let mut world = three_zones(2);
    let space = world.space(3);
    let shard = world.shard(space, ALL, &[1, 3, 5, 6]);
    // Those that are left would be three, but one of them has not caught up.
    world.at_mut(shard).replicas[1].caught_up = false;
    let planned = only(&world);
    assert_eq!(planned.action, Action::Remove { node: 3 }, "not one that has everything");
}

#[test]
fn a_seat_does_not_change_hands_if_those_left_would_not_be_a_majority() {
    let mut world = one_shard();
    world.node_mut(3).draining = true;
    world.round();
    assert_eq!(only(&world).action, Action::Replace { old: 3, new: 4 });
    // Node 5 goes, and node 1 alone has all: with node 4 that is still a majority of three.
    world.lose(5);
    assert_eq!(only(&world).action, Action::Replace { old: 3, new: 4 });
    world.at_mut(0).replicas[0].caught_up = false;
    none(&world);
    let needed = Hindrance::Needed { node: 3, voters: 3, sound: 0, wanted: 3 };
    assert_eq!(hindrances(&world, 0), [needed]);
}

#[test]
fn the_only_replica_is_replaced_though_it_leads() {
    let mut world = three_zones(1);
    let space = world.space(1);
    world.shard(space, ALL, &[1]);
    world.node_mut(1).draining = true;
    let (_, moves) = world.settle(5);
    let actions: Vec<Action> = moves.iter().map(|planned| planned.action).collect();
    assert_eq!(
        actions,
        [Action::AddReplica { node: 2, instead_of: Some(1) }, Action::Replace { old: 1, new: 2 }]
    );
}

// --- residency --------------------------------------------------------------------------------------

fn two_regions() -> World {
    let mut world = World::new(&[
        ("eu", "a", 1),
        ("eu", "b", 1),
        ("eu", "c", 1),
        ("us", "a", 3),
        ("us", "b", 3),
        ("us", "c", 3),
    ]);
    let space = world.space(3);
    world.state.spaces[usize::from(space)].regions = vec!["eu".into()];
    world
}

#[test]
fn a_replica_is_never_put_where_the_space_may_not_be_even_if_it_is_lost_otherwise() {
    let mut world = two_regions();
    world.shard(0, ALL, &[1, 2, 3]);
    world.lose(2);
    world.wait(60 * MINUTE);
    none(&world);
    let found = hindrances(&world, 0);
    let Hindrance::NoSeat { zones } = &found[0] else { panic!("{found:?}") };
    let refusals: Vec<(&str, &str, Refusal)> =
        zones.iter().map(|zone| (&*zone.region, &*zone.zone, zone.why)).collect();
    assert_eq!(
        refusals,
        [
            ("eu", "a", Refusal::AllHold),
            ("eu", "b", Refusal::NoneTakes),
            ("eu", "c", Refusal::AllHold),
            ("us", "a", Refusal::RegionNotAllowed),
            ("us", "b", Refusal::RegionNotAllowed),
            ("us", "c", Refusal::RegionNotAllowed),
        ]
    );
}

#[test]
fn replicas_leave_a_region_that_is_not_allowed_any_more_leader_first() {
    let mut world = two_regions();
    world.shard(0, ALL, &[4, 2, 3]);
    let first = only(&world);
    assert_eq!(first.urgency, Urgency::Residency);
    assert_eq!(first.action, Action::Transfer { from: 4, to: 2 });
    let (_, moves) = world.settle(5);
    let actions: Vec<Action> = moves.iter().map(|planned| planned.action).collect();
    assert_eq!(
        actions,
        [
            Action::Transfer { from: 4, to: 2 },
            Action::AddReplica { node: 1, instead_of: Some(4) },
            Action::Replace { old: 4, new: 1 },
        ]
    );
}

// --- drain ------------------------------------------------------------------------------------------

#[test]
fn a_drain_moves_leaders_first_and_then_replicas_until_nothing_is_left() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shards(space, 12);
    world.settle(50);
    world.node_mut(1).draining = true;
    let (_, moves) = world.settle(100);
    let is_of_drain = |planned: &&Move| planned.urgency == Urgency::Drain;
    let drained: Vec<Action> = moves.iter().filter(is_of_drain).map(|m| m.action).collect();
    let last_transfer =
        drained.iter().rposition(|a| matches!(a, Action::Transfer { from: 1, .. })).unwrap();
    let first_replace =
        drained.iter().position(|action| matches!(action, Action::Replace { old: 1, .. })).unwrap();
    assert!(last_transfer < first_replace, "{drained:?}");
    let left = world.state.shards.iter().filter(|s| s.replicas.iter().any(|r| r.node == 1));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_drain_without_another_place_is_explained() {
    let mut world = three_zones(1);
    let space = world.space(3);
    world.shard(space, ALL, &[2, 1, 3]);
    world.node_mut(1).draining = true;
    none(&world);
    let text = explain(&world.state, &world.limits, 0).unwrap().unwrap().to_string();
    assert!(text.contains("zone a has no node that is alive and not draining"), "{text}");
    assert!(text.contains("next: nothing, until what is wrong allows it"), "{text}");
}

// --- spread -----------------------------------------------------------------------------------------

#[test]
fn replicas_in_one_zone_move_apart() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 2, 3]);
    let planned = only(&world);
    assert_eq!(planned.urgency, Urgency::Spread);
    assert_eq!(planned.action, Action::AddReplica { node: 5, instead_of: Some(2) });
    assert!(planned.reason.contains("2 replicas in zone a"), "{}", planned.reason);
}

#[test]
fn zones_of_the_same_name_in_two_regions_are_two_zones() {
    let mut world = World::new(&[("eu", "a", 1), ("us", "a", 1), ("ap", "a", 1)]);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 2, 3]);
    none(&world);
}

#[test]
fn a_full_zone_leaves_replicas_crowded_and_is_named() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 2, 3]);
    world.fill(space, |_| (1 << 14, 0));
    for node in [5, 6] {
        world.node_mut(node).available_bytes = 100 * MIB;
    }
    none(&world);
    let text = explain(&world.state, &world.limits, 0).unwrap().unwrap().to_string();
    assert!(text.contains("zone c has no node with room (256.0 MiB needed"), "{text}");
}

#[test]
fn two_zones_for_three_replicas_are_as_good_as_can_be() {
    let mut world = World::new(&[("eu", "a", 2), ("eu", "b", 2)]);
    let space = world.space(3);
    world.shard(space, ALL, &[1, 2, 3]);
    none(&world);
}

#[test]
fn a_new_replica_goes_to_the_zone_without_one_and_there_to_the_emptiest_node() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shard(space, (0, 9), &[1, 3, 5]);
    world.shard(space, (10, 19), &[2, 4, 5]);
    world.shard(space, (20, 29), &[1, 3]);
    let planned = plan(&world.state, &world.limits).unwrap().moves[0].clone();
    assert_eq!(planned.action, Action::AddReplica { node: 6, instead_of: None });
}

// --- leaders ----------------------------------------------------------------------------------------

#[test]
fn leaders_go_to_the_region_the_space_wants() {
    let mut world = World::new(&[("eu", "a", 1), ("us", "a", 1), ("ap", "a", 1)]);
    let space = world.space(3);
    world.state.spaces[0].leader = LeaderPreference::Region("us".into());
    world.shard(space, ALL, &[1, 2, 3]);
    let planned = only(&world);
    assert_eq!(planned.urgency, Urgency::Leader);
    assert_eq!(planned.action, Action::Transfer { from: 1, to: 2 });
    world.settle(3);
}

#[test]
fn a_replica_goes_to_the_region_that_leaders_should_be_in() {
    let mut world = World::new(&[("eu", "a", 1), ("us", "a", 1), ("ap", "a", 1), ("sa", "a", 1)]);
    let space = world.space(3);
    world.state.spaces[0].leader = LeaderPreference::Region("sa".into());
    world.shard(space, ALL, &[1, 2, 3]);
    world.settle(10);
    assert_eq!(world.state.shards[0].leader, Some(4));
}

#[test]
fn leaders_follow_the_load() {
    let mut world = World::new(&[("eu", "a", 1), ("us", "a", 1), ("ap", "a", 1)]);
    let space = world.space(3);
    world.state.spaces[0].leader = LeaderPreference::FollowLoad;
    let shard = world.shard(space, ALL, &[1, 2, 3]);
    none(&world);
    world.at_mut(shard).origin = Some("ap".into());
    assert_eq!(only(&world).action, Action::Transfer { from: 1, to: 3 });
}

#[test]
fn leaders_are_balanced_without_moving_replicas() {
    let mut world = three_zones(1);
    let space = world.space(3);
    world.shards(space, 30);
    for shard in &mut world.state.shards {
        shard.leader = Some(1);
    }
    let (_, moves) = world.settle(20);
    assert!(moves.iter().all(|planned| matches!(planned.action, Action::Transfer { .. })));
    let led = |node| world.state.shards.iter().filter(|s| s.leader == Some(node)).count();
    assert_eq!([led(1), led(2), led(3)], [10, 10, 10]);
}

// --- balance ----------------------------------------------------------------------------------------

fn held(world: &World, node: u64) -> usize {
    let holds = |shard: &&quorate_placement::Shard| shard.replicas.iter().any(|r| r.node == node);
    world.state.shards.iter().filter(holds).count()
}

#[test]
fn a_new_node_gets_its_share() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.shards(space, 60);
    world.settle(100);
    let new = world.join("eu", "a");
    world.settle(200);
    // Of the 60 replicas of zone a.
    assert!((19..=21).contains(&held(&world, new)), "{}", held(&world, new));
}

#[test]
fn shares_follow_weights() {
    let mut world = World::new(&[("eu", "a", 2), ("eu", "b", 2)]);
    let space = world.space(1);
    world.node_mut(1).weight = 5;
    world.shards(space, 80);
    world.settle(200);
    let shares = [1, 2, 3, 4].map(|node| held(&world, node));
    assert!((49..=51).contains(&shares[0]), "{shares:?}");
    assert!(shares[1..].iter().all(|share| (9..=11).contains(share)), "{shares:?}");
}

#[test]
fn bytes_are_balanced_and_not_only_numbers() {
    let mut world = World::new(&[("eu", "a", 1), ("eu", "b", 1)]);
    let space = world.space(1);
    world.shards(space, 20);
    // The shards of node 1 are large.
    for shard in &mut world.state.shards {
        shard.bytes = if shard.leader == Some(1) { 100 * MIB } else { 10 * MIB };
    }
    world.account();
    world.limits.moving_bytes_share = 1.0;
    world.settle(100);
    let bytes = [1, 2].map(|node| world.state.node(node).unwrap().used_bytes / MIB);
    assert!(bytes[0].abs_diff(bytes[1]) <= 120, "{bytes:?}");
}

#[test]
fn load_is_balanced_within_its_band_and_noise_moves_nothing() {
    let mut world = World::new(&[("eu", "a", 2), ("eu", "b", 2)]);
    let space = world.space(1);
    world.shards(space, 40);
    for (at, shard) in world.state.shards.iter_mut().enumerate() {
        shard.load = if shard.leader == Some(1) { 2000 } else { 200 + at as u64 };
    }
    world.settle(100);
    let load = |node| -> u64 {
        let led = world.state.shards.iter().filter(|shard| shard.leader == Some(node));
        led.map(|shard| shard.load).sum()
    };
    let loads = [1, 2, 3, 4].map(load);
    let mean = loads.iter().sum::<u64>() / 4;
    let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
    // Each shard counts as one as well, so the loads are not as near as they could be.
    assert!(spread <= mean / 3, "{loads:?}");
    let mut prng = quorate_base::Prng::new(1);
    let calm = world.state.clone();
    let mut moves = 0;
    for _ in 0..100 {
        world.jitter(&mut prng, 1);
        moves += world.round().len();
        for (shard, calm) in world.state.shards.iter_mut().zip(&calm.shards) {
            shard.load = calm.load;
        }
    }
    assert_eq!(moves, 0);
}

#[test]
fn balancing_never_crowds() {
    // Zone c is small: its nodes stay fuller than the others rather than two replicas sharing one.
    let mut world = World::new(&[("eu", "a", 3), ("eu", "b", 3), ("eu", "c", 1)]);
    let space = world.space(3);
    world.shards(space, 30);
    world.settle(100);
    assert_eq!(held(&world, 7), 30);
}

// --- split and merge --------------------------------------------------------------------------------

#[test]
fn a_big_shard_is_split_in_the_middle_and_a_hot_one_where_its_halves_weigh_the_same() {
    let mut world = one_shard();
    world.at_mut(0).bytes = 513 * MIB;
    let planned = only(&world);
    assert_eq!((planned.action, planned.urgency), (Action::Split { at: 8192 }, Urgency::Split));
    assert!(planned.reason.contains("513.0 MiB of data, and 512.0 MiB may be"));
    let shard = world.at_mut(0);
    (shard.bytes, shard.load, shard.middle) = (0, 20_001, Some(3));
    assert_eq!(only(&world).action, Action::Split { at: 3 });
    world.at_mut(0).middle = Some(0);
    assert_eq!(only(&world).action, Action::Split { at: 8192 }, "a half without slots is none");
}

#[test]
fn a_shard_of_one_slot_cannot_be_split_and_says_so() {
    let mut world = three_zones(1);
    let space = world.space(3);
    world.shard(space, (7, 7), &[1, 2, 3]);
    world.at_mut(0).load = 1_000_000;
    none(&world);
    assert_eq!(hindrances(&world, 0), [Hindrance::OneSlot]);
}

#[test]
fn a_hot_slot_is_cut_out_and_its_neighbours_are_merged_again() {
    let mut world = three_zones(1);
    let space = world.space(3);
    world.state.spaces[0].shards_min = 1;
    world.shard(space, ALL, &[1, 2, 3]);
    world.fill(space, |slot| (0, if slot == 5000 { 50_000 } else { 0 }));
    world.settle(100);
    let ranges: Vec<(u16, u16)> = world.state.shards.iter().map(|s| (s.first, s.last)).collect();
    let mut sorted = ranges.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [(0, 4999), (5000, 5000), (5001, 16_383)]);
}

#[test]
fn small_neighbours_come_together_and_are_merged() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.state.spaces[0].shards_min = 1;
    world.shard(space, (0, 8191), &[1, 3, 5]);
    world.shard(space, (8192, 16_383), &[2, 4, 6]);
    let (_, moves) = world.settle(20);
    assert_eq!(world.state.shards.len(), 1);
    assert_eq!(world.state.shards[0].slots(), 16_384);
    // Seats change hands within their zones, so the replicas stay spread.
    let came: Vec<Action> = moves
        .iter()
        .map(|planned| planned.action)
        .filter(|action| matches!(action, Action::AddReplica { .. }))
        .collect();
    assert_eq!(
        came[..2],
        [
            Action::AddReplica { node: 3, instead_of: Some(4) },
            Action::AddReplica { node: 5, instead_of: Some(6) },
        ],
        "the leader last: {came:?}"
    );
}

#[test]
fn a_space_keeps_as_many_shards_as_it_wants() {
    let mut world = three_zones(2);
    let space = world.space(3);
    world.state.spaces[0].shards_min = 5;
    world.shards(space, 16);
    world.settle(200);
    assert_eq!(world.state.shards.len(), 5);
}

#[test]
fn shards_of_two_spaces_are_not_merged() {
    let mut world = three_zones(1);
    for _ in 0..2 {
        let space = world.space(3);
        world.state.spaces[usize::from(space)].shards_min = 0;
    }
    world.shard(0, (0, 8191), &[1, 2, 3]);
    world.shard(1, (8192, 16_383), &[2, 1, 3]);
    none(&world);
}

// --- bounds and order -------------------------------------------------------------------------------

/// Nine nodes, 300 shards, node 1 gone for long.
fn much_to_repair() -> World {
    let mut world = three_zones(3);
    let space = world.space(3);
    world.shards(space, 300);
    world.settle(10);
    world.lose(1);
    world.wait(5 * MINUTE);
    world
}

#[test]
fn no_more_shards_move_than_their_share() {
    let mut world = much_to_repair();
    world.limits.copies_per_node_max = 100;
    world.limits.moving_shards_share = 0.05;
    let plan = plan(&world.state, &world.limits).unwrap();
    assert_eq!(plan.moves.len(), 15);
    assert_eq!(plan.moving, 15);
    assert_eq!(plan.waiting, 85);
}

#[test]
fn no_node_takes_part_in_more_copies_than_it_may_and_those_that_wait_say_so() {
    let mut world = much_to_repair();
    world.limits.moving_shards_share = 1.0;
    let planned = plan(&world.state, &world.limits).unwrap();
    // Zone a has two nodes left, each of which takes two.
    assert_eq!(planned.moves.len(), 4);
    let moved: Vec<u32> = planned.moves.iter().map(|planned| planned.shard).collect();
    let lost = world.state.shards.iter().filter(|s| s.replicas.iter().any(|r| r.node == 1));
    let waits = lost.map(|shard| shard.id).find(|shard| !moved.contains(shard)).unwrap();
    let text = explain(&world.state, &world.limits, waits).unwrap().unwrap().to_string();
    assert!(text.contains("waits: 2 of 2 moves of node"), "{text}");
}

#[test]
fn no_more_bytes_are_copied_than_their_share_but_always_one_copy() {
    let mut world = much_to_repair();
    world.limits.copies_per_node_max = 100;
    world.limits.moving_shards_share = 1.0;
    for shard in &mut world.state.shards {
        shard.bytes = MIB;
    }
    assert_eq!(plan(&world.state, &world.limits).unwrap().moves.len(), 6);
    world.limits.moving_bytes_share = 0.0;
    assert_eq!(plan(&world.state, &world.limits).unwrap().moves.len(), 1);
}

#[test]
fn the_most_urgent_comes_first() {
    let mut world = World::new(&[("eu", "a", 4), ("eu", "b", 4), ("eu", "c", 4), ("us", "a", 1)]);
    let space = world.space(3);
    world.state.spaces[0].regions = vec!["eu".into()];
    let five = world.space(5);
    world.limits.moving_shards_share = 1.0;
    world.limits.copies_per_node_max = 100;
    world.node_mut(2).draining = true;
    world.lose(3);
    world.wait(5 * MINUTE);
    let crowded = world.shard(space, (0, 9), &[1, 4, 5]);
    let drained = world.shard(space, (10, 19), &[5, 2, 9]);
    let misplaced = world.shard(space, (20, 29), &[5, 9, 13]);
    let lacking = world.shard(five, (0, 9), &[1, 3, 5, 6, 9]);
    let at_risk = world.shard(space, (30, 39), &[3, 5, 9]);
    // Others, so that spreading, which may use half of the bound, may begin.
    for at in 100..105 {
        world.shard(space, (at, at), &[1, 5, 9]);
    }
    world.elect();
    let plan = plan(&world.state, &world.limits).unwrap();
    let order: Vec<(u32, Urgency)> = plan.moves.iter().map(|m| (m.shard, m.urgency)).collect();
    assert_eq!(
        order[..5],
        [
            (at_risk, Urgency::QuorumAtRisk),
            (lacking, Urgency::UnderReplicated),
            (misplaced, Urgency::Residency),
            (drained, Urgency::Drain),
            (crowded, Urgency::Spread),
        ]
    );
}

#[test]
fn what_is_not_urgent_leaves_half_of_the_bounds_to_what_is() {
    let mut world = World::new(&[("eu", "a", 1), ("eu", "b", 1)]);
    let space = world.space(1);
    world.limits.copies_per_node_max = 100;
    for at in 0..20 {
        world.shard(space, (at, at), &[1]);
    }
    assert_eq!(plan(&world.state, &world.limits).unwrap().moves.len(), 2, "half of four");
}

#[test]
fn the_same_state_gives_the_same_plan() {
    let world = much_to_repair();
    let first = plan(&world.state, &world.limits).unwrap();
    assert_eq!(first, plan(&world.state.clone(), &world.limits.clone()).unwrap());
}

// --- explaining -------------------------------------------------------------------------------------

#[test]
fn a_shard_at_rest_says_why_it_is_where_it_is() {
    let mut world = one_shard();
    world.state.spaces[0].regions = vec!["eu".into()];
    let explanation = explain(&world.state, &world.limits, 0).unwrap().unwrap();
    assert_eq!(explanation.next, Next::Nothing);
    let text = explanation.to_string();
    for expected in [
        "shard 0 of space s0: slots 0 to 16383, 0 bytes, 0 requests/s",
        "node 1 (n1), region eu, zone a: leader",
        "3 of 3 replicas, in 3 zones and 1 regions; the space could use 6 nodes in 3 zones",
        "its data may only be in eu",
        "next: nothing, it is where it should be",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

#[test]
fn a_shard_that_is_to_move_says_what_comes_next() {
    let mut world = one_shard();
    world.node_mut(1).draining = true;
    let explanation = explain(&world.state, &world.limits, 0).unwrap().unwrap();
    let Next::Move(next) = &explanation.next else { panic!("{explanation}") };
    assert_eq!(next, &only(&world));
    assert_eq!(explanation.replicas[0].faults, ["its node is to be emptied"]);
}

#[test]
fn a_shard_that_is_not_there_has_no_explanation() {
    let world = one_shard();
    assert_eq!(explain(&world.state, &world.limits, 9).unwrap(), None);
}

// --- input that is wrong ----------------------------------------------------------------------------

#[test]
fn wrong_input_is_refused_with_what_is_wrong() {
    let refused = |change: &dyn Fn(&mut World)| {
        let mut world = one_shard();
        change(&mut world);
        plan(&world.state, &world.limits).unwrap_err().to_string()
    };
    type Case = (&'static dyn Fn(&mut World), &'static str);
    let cases: [Case; 9] = [
        (&|w| w.state.nodes.reverse(), "node 5 does not come after 6"),
        (&|w| w.state.nodes[0].id = 0, "node 0 is no node"),
        (&|w| w.state.spaces[0].replicas = 0, "space s0 wants no replica at all"),
        (&|w| w.at_mut(0).space = 9, "shard 0: its space 9 is not known"),
        (&|w| w.at_mut(0).last = 16_384, "shard 0: slots 0 to 16384 are no range"),
        (&|w| w.at_mut(0).replicas[1].node = 1, "shard 0: two replicas on node 1"),
        (&|w| w.at_mut(0).leader = Some(2), "shard 0: node 2 leads and does not vote"),
        (
            &|w| {
                w.shard(0, (16_383, 16_383), &[1, 3, 5]);
            },
            "shards 0 and 1 share slots",
        ),
        (
            &|w| w.limits = Limits { merge_load: 20_000, ..Limits::default() },
            "merge_load is more than half of split_load",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(refused(change), expected);
    }
    let no_voter = refused(&|w| {
        w.at_mut(0).leader = None;
        for replica in &mut w.at_mut(0).replicas {
            replica.role = Role::Learner { instead_of: None };
        }
    });
    assert_eq!(no_voter, "shard 0: no replica votes");
}
