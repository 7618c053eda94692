//! Random clusters in a small model that carries moves out one by one, in any order and not always
//! successfully, while nodes die, return, join and drain and rules and load change.
//!
//! [`World::begin`] asserts of each plan, at the moment it was made: residency, one replica a node,
//! room, quorums, healthy replicas, and all bounds on what is in flight. Here is what must hold over
//! time: planning comes to rest in a bounded number of rounds, and what rests is as good as can be.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use quorate_base::ids::NodeId;
use quorate_placement::testing::World;
use quorate_placement::{Health, LeaderPreference, Node, Shard, explain, plan};
use std::collections::BTreeMap;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

#[derive(Clone, Debug)]
struct Shape {
    /// Region, zone and nodes.
    zones: Vec<(usize, u8, usize)>,
    spaces: Vec<SpaceShape>,
    copies_per_node_max: u32,
    moving_shards_share: f64,
}

#[derive(Clone, Debug)]
struct SpaceShape {
    replicas: u8,
    regions: Vec<usize>,
    /// 3: anywhere, 4: where the load is, else a region.
    leader: usize,
    shards: u32,
    shards_min: u32,
    bytes: u64,
    load: u64,
    hot_slot: u16,
}

#[derive(Clone, Debug)]
enum Event {
    Plan,
    /// The move of a shard ends; the second says whether it is given up.
    End(usize, bool),
    CatchUp(usize),
    FallBehind(usize, usize),
    Wait(u64),
    Lose(usize),
    ComeBack(usize),
    Forget(usize),
    Join(usize),
    Drain(usize, bool),
    Weigh(usize, u32),
    Fill(usize, u64, u64, u16),
    Replicas(usize, u8),
    Regions(usize, Vec<usize>),
    Origin(usize, usize),
}

fn regions() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![0]), 1 => Just(vec![0, 1])]
}

fn space() -> impl Strategy<Value = SpaceShape> {
    let size = (1u32..14, 0u32..4, 0u64..60_000, 0u64..3, any::<u16>());
    (1u8..6, regions(), 0usize..5, size).prop_map(
        |(replicas, regions, leader, (shards, shards_min, bytes, load, hot_slot))| SpaceShape {
            replicas,
            regions,
            leader,
            shards,
            shards_min,
            bytes,
            load,
            hot_slot: hot_slot % 16_384,
        },
    )
}

fn shape() -> impl Strategy<Value = Shape> {
    let zones = proptest::collection::vec((0usize..3, 0u8..3, 1usize..4), 1..6);
    let spaces = proptest::collection::vec(space(), 1..4);
    (zones, spaces, 1u32..4, 0.0..1.0).prop_map(
        |(zones, spaces, copies_per_node_max, moving_shards_share)| Shape {
            zones,
            spaces,
            copies_per_node_max,
            moving_shards_share,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let at = any::<usize>;
    prop_oneof![
        8 => Just(Event::Plan),
        8 => (at(), proptest::bool::weighted(0.2)).prop_map(|(at, fails)| Event::End(at, fails)),
        6 => at().prop_map(Event::CatchUp),
        2 => (at(), at()).prop_map(|(at, which)| Event::FallBehind(at, which)),
        3 => (0u64..400_000).prop_map(Event::Wait),
        2 => at().prop_map(Event::Lose),
        2 => at().prop_map(Event::ComeBack),
        1 => at().prop_map(Event::Forget),
        1 => at().prop_map(Event::Join),
        1 => (at(), any::<bool>()).prop_map(|(at, drains)| Event::Drain(at, drains)),
        1 => (at(), 0u32..4).prop_map(|(at, weight)| Event::Weigh(at, weight)),
        1 => (at(), 0u64..60_000, 0u64..3, 0u16..16_384)
            .prop_map(|(at, bytes, load, hot)| Event::Fill(at, bytes, load, hot)),
        1 => (at(), 1u8..6).prop_map(|(at, replicas)| Event::Replicas(at, replicas)),
        1 => (at(), regions()).prop_map(|(at, regions)| Event::Regions(at, regions)),
        1 => (at(), 0usize..3).prop_map(|(at, region)| Event::Origin(at, region)),
    ]
}

fn names(regions: &[usize]) -> Vec<quorate_placement::Name> {
    regions.iter().map(|region| REGIONS[*region].into()).collect()
}

/// A cluster whose shards are where the rules allow them, though not well spread.
fn build(shape: &Shape) -> World {
    let zones: Vec<(String, String, usize)> = shape
        .zones
        .iter()
        .map(|(region, zone, nodes)| (REGIONS[*region].to_owned(), format!("z{zone}"), *nodes))
        .collect();
    let zones: Vec<(&str, &str, usize)> =
        zones.iter().map(|(region, zone, nodes)| (&**region, &**zone, *nodes)).collect();
    let mut world = World::new(&zones);
    world.limits.copies_per_node_max = shape.copies_per_node_max;
    world.limits.moving_shards_share = shape.moving_shards_share;
    for (at, of) in shape.spaces.iter().enumerate() {
        let id = world.space(of.replicas);
        let space = &mut world.state.spaces[at];
        space.regions = names(&of.regions);
        space.shards_min = of.shards_min;
        space.leader = match of.leader {
            3 => LeaderPreference::Anywhere,
            4 => LeaderPreference::FollowLoad,
            region => LeaderPreference::Region(REGIONS[region].into()),
        };
        let nodes: Vec<NodeId> = world
            .state
            .nodes
            .iter()
            .filter(|node| of.regions.is_empty() || names(&of.regions).contains(&node.region))
            .map(|node| node.id)
            .collect();
        if nodes.is_empty() {
            continue;
        }
        let replicas = usize::from(of.replicas).min(nodes.len());
        for shard in 0..of.shards {
            let slot = |at: u32| (at * 16_384 / of.shards) as u16;
            let on = |n: usize| nodes[(shard as usize / 3 + n) % nodes.len()];
            let seats: Vec<NodeId> = (0..replicas).map(on).collect();
            world.shard(id, (slot(shard), slot(shard + 1) - 1), &seats);
        }
        fill(&mut world, at, of.bytes, of.load, of.hot_slot);
    }
    world.account();
    world
}

/// Slots of uneven weight, and one that is hot.
fn fill(world: &mut World, space: usize, bytes: u64, load: u64, hot: u16) {
    let space = world.state.spaces[space].id;
    world.fill(space, |slot| {
        let heat = if slot == hot { 15_000 } else { 0 };
        (bytes * (1 + u64::from(slot) % 7 / 3), load + heat)
    });
    world.account();
}

fn apply(world: &mut World, event: &Event) {
    fn pick<T>(list: &[T], at: usize) -> Option<&T> {
        list.get(at.checked_rem(list.len())?)
    }
    let nodes: Vec<Node> = world.state.nodes.clone();
    let node = |at: usize| pick(&nodes, at).map(|node| node.id);
    let shards = world.state.shards.len();
    let spaces = world.state.spaces.len();
    match event {
        Event::Plan => {
            let plan = plan(&world.state, &world.limits).expect("a valid state");
            world.begin(&plan);
        }
        Event::End(at, fails) if shards > 0 => {
            // Of those with a move under way.
            let busy: Vec<usize> =
                (0..shards).filter(|at| world.state.shards[*at].under_way.is_some()).collect();
            if let Some(at) = pick(&busy, *at) {
                world.end(*at, *fails);
            }
        }
        Event::CatchUp(at) if shards > 0 => world.catch_up_shard(at % shards),
        Event::FallBehind(at, which) if shards > 0 => {
            let shard = &mut world.state.shards[at % shards];
            let replica = which % shard.replicas.len();
            if shard.leader != Some(shard.replicas[replica].node) {
                shard.replicas[replica].caught_up = false;
                shard.replicas[replica].lag = 77;
            }
        }
        Event::Wait(ms) => world.wait(*ms),
        Event::Lose(at) => world.lose(node(*at).expect("there are nodes")),
        Event::ComeBack(at) => {
            let gone: Vec<NodeId> =
                nodes.iter().filter(|n| n.health != Health::Alive).map(|n| n.id).collect();
            if let Some(node) = pick(&gone, *at) {
                world.come_back(*node);
            }
        }
        Event::Forget(at) => {
            let gone: Vec<NodeId> =
                nodes.iter().filter(|n| n.health != Health::Alive).map(|n| n.id).collect();
            if let Some(node) = pick(&gone, *at).filter(|_| nodes.len() > 1) {
                world.forget(*node);
            }
        }
        Event::Join(at) => {
            let like = pick(&nodes, *at).expect("there are nodes");
            world.join(&like.region, &like.zone);
        }
        Event::Drain(at, drains) => {
            world.node_mut(node(*at).expect("there are nodes")).draining = *drains;
        }
        Event::Weigh(at, weight) => {
            world.node_mut(node(*at).expect("there are nodes")).weight = *weight;
        }
        Event::Fill(at, bytes, load, hot) => fill(world, at % spaces, *bytes, *load, *hot),
        Event::Replicas(at, replicas) => world.state.spaces[at % spaces].replicas = *replicas,
        Event::Regions(at, regions) => world.state.spaces[at % spaces].regions = names(regions),
        Event::Origin(at, region) if shards > 0 => {
            world.state.shards[at % shards].origin = Some(REGIONS[*region].into());
        }
        Event::End(..) | Event::CatchUp(_) | Event::FallBehind(..) | Event::Origin(..) => {}
    }
    world.elect();
}

/// Lets all that is under way end, and plans until nothing is left to do.
fn calm_down(world: &mut World) -> usize {
    let mut at = 0;
    while at < world.state.shards.len() {
        let shards = world.state.shards.len();
        world.end(at, false);
        at = if world.state.shards.len() < shards { 0 } else { at + 1 };
    }
    world.catch_up();
    world.elect();
    world.wait(world.limits.repair_after_ms);
    let most = 60 + 12 * world.state.shards.len();
    let mut even: BTreeMap<u32, usize> = BTreeMap::new();
    for round in 0..most {
        let moves = world.round();
        for shard in &world.state.shards {
            check_even(world, shard, &mut even, round);
        }
        if moves.is_empty() && !world.state.shards.iter().any(|s| s.under_way.is_some()) {
            return round;
        }
        if round + 1 == most {
            let moves: Vec<String> = moves.iter().map(ToString::to_string).collect();
            panic!("not at rest after {most} rounds: {}", moves.join("\n"));
        }
    }
    unreachable!("the loop ends by returning or failing")
}

/// Asserts that the number of voters is even for one step at most, from the first round on in which
/// it was not.
fn check_even(world: &World, shard: &Shard, even: &mut BTreeMap<u32, usize>, round: usize) {
    let wanted = world.state.space(shard.space).expect("known").replicas;
    let voters = shard.voters().count();
    if wanted.is_multiple_of(2) || voters % 2 == 1 {
        even.insert(shard.id, 0);
    } else if let Some(steps) = even.get_mut(&shard.id) {
        *steps += 1;
        assert!(*steps <= 1, "round {round}: {voters} voters for two steps: {shard:?}");
    }
}

/// What must be true of a state at rest.
fn check_rest(world: &World) {
    let planned = plan(&world.state, &world.limits).expect("a valid state");
    assert_eq!(planned.moves, [], "a plan of a state at rest is empty");
    if planned.waiting > 0 {
        let all = world.state.shards.iter().map(|shard| {
            explain(&world.state, &world.limits, shard.id)
                .expect("valid")
                .expect("known")
                .to_string()
        });
        panic!("something waits though nothing moves:\n{}", all.collect::<Vec<_>>().join("\n"));
    }
    for shard in &world.state.shards {
        let explanation = explain(&world.state, &world.limits, shard.id)
            .expect("a valid state")
            .expect("a shard that there is");
        let faults = faults(world, shard);
        let explained = explanation.problems.iter().any(|problem| !problem.hindrance.passes());
        assert!(
            faults.is_empty() || explained,
            "shard {} rests although {faults:?}, and does not say why:\n{explanation}",
            shard.id
        );
    }
}

/// What is not as it should be with a shard, and could be better by one change.
fn faults(world: &World, shard: &Shard) -> Vec<String> {
    let mut faults = Vec::new();
    let space = world.state.space(shard.space).expect("known");
    let voters: Vec<NodeId> = shard.voters().collect();
    if voters.len() != usize::from(space.replicas) {
        faults.push(format!("{} voters of {}", voters.len(), space.replicas));
    }
    for voter in &voters {
        let Some(node) = world.state.node(*voter) else {
            faults.push(format!("node {voter} is not known"));
            continue;
        };
        if node.health != Health::Alive || node.draining || !world.is_allowed(shard, *voter) {
            faults.push(format!("{node:?}"));
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    let node = |id: NodeId| world.state.node(id).expect("known");
    let place = |id: NodeId| (&node(id).region, &node(id).zone);
    let pairs = |voters: &[NodeId]| {
        let of =
            |at: usize| voters[..at].iter().filter(|v| place(**v) == place(voters[at])).count();
        (0..voters.len()).map(of).sum::<usize>()
    };
    for other in &world.state.nodes {
        let takes = other.health == Health::Alive
            && !other.draining
            && other.weight > 0
            && world.is_allowed(shard, other.id)
            && !voters.contains(&other.id);
        for at in 0..voters.len() {
            let mut better = voters.clone();
            better[at] = other.id;
            if takes && pairs(&better) < pairs(&voters) {
                faults.push(format!("node {} would crowd less than {}", other.id, voters[at]));
            }
        }
    }
    let is_home = |id: NodeId| match &space.leader {
        LeaderPreference::Region(region) => node(id).region == *region,
        LeaderPreference::FollowLoad => shard.origin.as_ref() == Some(&node(id).region),
        LeaderPreference::Anywhere => true,
    };
    let home = voters.iter().any(|id| is_home(*id) && node(*id).weight > 0);
    if home && shard.leader.is_some_and(|leader| !is_home(leader)) {
        faults.push("its leader is not where it should be".to_owned());
    }
    faults
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/model.txt",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_every_step_is_safe_and_it_comes_to_rest(
        shape in shape(),
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let mut world = build(&shape);
        for event in &events {
            apply(&mut world, event);
        }
        calm_down(&mut world);
        check_rest(&world);
    }

    #[test]
    fn a_healthy_cluster_ends_balanced(
        zones in proptest::collection::vec(1usize..4, 3..6),
        shards in 1u32..60,
        seats in any::<u64>(),
    ) {
        let names: Vec<String> = (0..zones.len()).map(|zone| format!("z{zone}")).collect();
        let zones: Vec<(&str, &str, usize)> =
            names.iter().zip(&zones).map(|(name, nodes)| ("eu", &**name, *nodes)).collect();
        let mut world = World::new(&zones);
        let space = world.space(3);
        let nodes = world.state.nodes.len() as u64;
        let mut prng = quorate_base::Prng::new(seats);
        for at in 0..shards {
            let mut on: Vec<NodeId> = Vec::new();
            while on.len() < 3 {
                let node = 1 + prng.below(nodes);
                if !on.contains(&node) {
                    on.push(node);
                }
            }
            let slot = |at: u32| (at * 16_384 / shards) as u16;
            world.shard(space, (slot(at), slot(at + 1) - 1), &on);
        }
        calm_down(&mut world);
        check_rest(&world);
        // Between zones the sizes of the zones decide.
        let held = |id: NodeId| {
            world.state.shards.iter().filter(|s| s.voters().any(|voter| voter == id)).count()
        };
        let led = |id: NodeId| world.state.shards.iter().filter(|s| s.leader == Some(id)).count();
        for a in &world.state.nodes {
            for b in world.state.nodes.iter().filter(|b| b.zone == a.zone) {
                let mean = 3.0 * f64::from(shards) / nodes as f64;
                let gap = held(a.id).saturating_sub(held(b.id)) as f64;
                prop_assert!(gap <= (0.1 * mean).max(1.0), "{} {} of {mean}", held(a.id), held(b.id));
                // Leaders only go to where replicas are.
                let gap = led(a.id).saturating_sub(led(b.id)) as f64;
                prop_assert!(gap <= (mean / 3.0).max(2.0), "{} {} lead", led(a.id), led(b.id));
            }
        }
    }
}
