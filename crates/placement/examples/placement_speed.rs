//! Measures planning: time and memory of a round in a large cluster, and how many rounds it takes
//! to come to rest after nodes were lost, added or drained.
//!
//! `cargo run --release -p quorate-placement --example placement_speed [NODES [SHARDS [CASE]]]`
//!
//! Each case is a line of `name=value` pairs. A *round* is a plan of which all moves end and all
//! copies catch up before the next: how long that takes depends on the data, so rounds and moves are
//! counted, and only the planning is timed. `cargo xtask bench placement` runs this and reports it.

use quorate_base::ids::NodeId;
use quorate_placement::testing::World;
use quorate_placement::{Action, Limits, plan};
use std::error::Error;

/// Zones of the cluster, all in one region.
const ZONES: usize = 10;
/// Bytes of each slot, and requests per second.
const SLOT: (u64, u64) = (64 << 20, 100);
/// More rounds than any case needs.
const ROUNDS_MAX: usize = 5000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let nodes = args.next().map_or(Ok(1000), |text| text.parse())?;
    let shards = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let case = args.next();
    let empty = resident_bytes()?;
    let mut cluster = build(nodes, shards);
    // Before anything else, while memory that was used before cannot be used again.
    let full = resident_bytes()?;
    drop(plan(&cluster.state, &cluster.limits)?);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "case=memory state_mib={:.1} plan_mib={:.1}",
        mib(full - empty),
        mib(peak_bytes()? - full)
    );
    settle(&mut cluster)?;
    for (name, change) in CASES {
        if case.as_ref().is_none_or(|case| case == name) {
            let mut world = cluster.clone();
            change(&mut world, nodes);
            println!("case={name} {}", run(world)?);
        }
    }
    Ok(())
}

/// What happens to the cluster at rest; with its number of nodes.
type Change = fn(&mut World, usize);

const CASES: [(&str, Change); 5] = [
    ("rest", |_, _| ()),
    ("nodes_lost", |world, nodes| lose(world, &spread(nodes, (nodes / 100).max(1)))),
    ("zone_lost", |world, nodes| lose(world, &(1..=(nodes / ZONES) as NodeId).collect::<Vec<_>>())),
    ("nodes_added", |world, nodes| {
        for at in 0..nodes / 10 {
            world.join("eu", &format!("z{}", at % ZONES));
        }
    }),
    ("drain", |world, nodes| {
        for node in spread(nodes, (nodes / 100).max(1)) {
            world.node_mut(node).draining = true;
        }
    }),
];

/// `count` nodes of different zones.
fn spread(nodes: usize, count: usize) -> Vec<NodeId> {
    (0..count).map(|at| (at * nodes / count) as NodeId + 1).collect()
}

fn lose(world: &mut World, nodes: &[NodeId]) {
    for node in nodes {
        world.lose(*node);
    }
    world.wait(world.limits.repair_after_ms);
}

/// Shards of three replicas, nearly at rest.
fn build(nodes: usize, shards: u32) -> World {
    let names: Vec<String> = (0..ZONES).map(|zone| format!("z{zone}")).collect();
    let zones: Vec<(&str, &str, usize)> =
        names.iter().map(|name| ("eu", &**name, nodes / ZONES)).collect();
    let mut world = World::new(&zones);
    world.limits = Limits { shards_max: usize::MAX, ..Limits::default() };
    // A space has a shard a slot at most.
    let spaces = shards.div_ceil(10_000);
    for at in 0..spaces {
        let space = world.space(3);
        let count = shards / spaces + u32::from(at < shards % spaces);
        for shard in 0..count {
            let slot = |at: u32| (u64::from(at) * 16_384 / u64::from(count)) as u16;
            let seats = seats((at * 10_000 + shard) as usize, nodes / ZONES);
            world.shard(space, (slot(shard), slot(shard + 1) - 1), &seats);
        }
        world.fill(space, |_| SLOT);
    }
    world.account();
    world
}

/// Three nodes in three zones of `size` nodes each, evenly, and so that shards that share a node
/// share few others.
fn seats(shard: usize, size: usize) -> [NodeId; 3] {
    let block = shard / (ZONES * size);
    [0, 1, 2].map(|nth| {
        let zone = (shard + nth) % ZONES;
        let node = (shard / ZONES + nth * (37 + 11 * block)) % size;
        (zone * size + node + 1) as NodeId
    })
}

/// What one case came to.
#[derive(Default)]
struct Found {
    rounds: usize,
    copies: usize,
    transfers: usize,
    moves: usize,
    /// Shards that nothing can be done for: too many of their replicas were lost.
    hindered: usize,
    ms: Vec<f64>,
}

fn run(mut world: World) -> Result<String, Box<dyn Error>> {
    let mut found = settle(&mut world)?;
    let first = found.ms[0];
    found.ms.sort_by(f64::total_cmp);
    let median = found.ms[found.ms.len() / 2];
    let worst = found.ms.last().copied().unwrap_or(0.0);
    Ok(format!(
        "rounds={} copies={} transfers={} moves={} hindered={} first_ms={first:.1} median_ms={median:.1} \
         max_ms={worst:.1}",
        found.rounds, found.copies, found.transfers, found.moves, found.hindered,
    ))
}

/// Rounds until nothing is left to do.
fn settle(world: &mut World) -> Result<Found, Box<dyn Error>> {
    let mut found = Found::default();
    while found.rounds < ROUNDS_MAX {
        let start = cpu_ms()?;
        let plan = plan(&world.state, &world.limits)?;
        found.ms.push(cpu_ms()? - start);
        found.hindered = plan.hindered;
        if plan.moves.is_empty() {
            return Ok(found);
        }
        found.rounds += 1;
        found.moves += plan.moves.len();
        for planned in &plan.moves {
            found.copies += usize::from(matches!(planned.action, Action::AddReplica { .. }));
            found.transfers += usize::from(matches!(planned.action, Action::Transfer { .. }));
        }
        world.carry_out(&plan);
    }
    Err(format!("not at rest after {ROUNDS_MAX} rounds").into())
}

/// Milliseconds that this thread has run: other programs do not count.
fn cpu_ms() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns: f64 = stat.split(' ').next().ok_or("schedstat is empty")?.parse()?;
    Ok(ns / 1e6)
}

/// A figure of this process, in bytes.
fn status(name: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such figure")?;
    let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0)
}

/// Resident memory now; the greatest so far is forgotten.
fn resident_bytes() -> Result<f64, Box<dyn Error>> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    status("VmRSS")
}

/// The greatest resident memory since.
fn peak_bytes() -> Result<f64, Box<dyn Error>> {
    status("VmHWM")
}
