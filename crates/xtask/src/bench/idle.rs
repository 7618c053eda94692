//! The family `idle`: what ten thousand shards cost that nobody uses.

use std::thread;
use std::time::{Duration, Instant};

use super::families::Plan;
use super::machine::{CpuTime, resident_bytes};
use super::nodes::{Cluster, NODES, Product};
use super::report::{Cell, Competitor, Goal, Metric, Section, grouped};
use super::stats::Better;
use crate::Outcome;

/// Shards of the space, besides those of the default space.
const SHARDS: u64 = 10_000;
/// Rest after all shards have leaders.
const SETTLE: Duration = Duration::from_secs(20);
/// How long a measurement takes.
const WATCH: Duration = Duration::from_secs(20);
/// Both, in a smoke test.
const QUICK: Duration = Duration::from_secs(3);
/// What the project wants, in percent of a core.
const WANTED_PERCENT: f64 = 2.0;

/// CPU and memory of three idle nodes.
pub(crate) fn idle(plan: &Plan<'_>) -> Outcome<Section> {
    let shards = plan.scaled(SHARDS);
    let (settle, watch) = if plan.divide > 1 { (QUICK, QUICK) } else { (SETTLE, WATCH) };
    let product = Product::Quorate(&plan.programs.subject);
    let start = Instant::now();
    plan.progress("idle", &format!("starting {} with {shards} shards", product.name()));
    let settings = format!("[[space]]\nname = \"idle\"\nprefix = \"idle:\"\nshards = {shards}\n");
    let mut cluster = Cluster::start(product, plan.run_directory, Some(&settings))?;
    cluster.wait_until_elected()?;
    let elected = start.elapsed().as_secs_f64();
    plan.progress("idle", &format!("all shards have leaders after {elected:.1} s"));
    thread::sleep(settle);

    let cell = |node: usize| Cell {
        work: format!("node {node}"),
        values: vec![Vec::new()],
        threads_us: Vec::new(),
        goals: vec![Goal::Below { metric: 0, limit: WANTED_PERCENT }],
    };
    let mut cells: Vec<Cell> = (1..=NODES).map(cell).collect();
    for round in 1..=plan.runs {
        let watched = watch_once(&mut cluster, watch)?;
        for (at, (cell, (percent, mib))) in cells.iter_mut().zip(watched).enumerate() {
            let led = cluster.led(at)?;
            let text = format!("{percent:.2} % of a core, {mib:.0} MiB, leads {led}");
            plan.progress("idle", &format!("round {round}/{}: node {}: {text}", plan.runs, at + 1));
            let kib_per_shard = mib * 1024.0 / shards as f64;
            cell.values[0].push(Some(vec![percent, mib, kib_per_shard, led as f64]));
        }
    }
    let metric = |name, decimals| Metric { name, better: Better::Lower, decimals, compared: false };
    Ok(Section {
        id: "idle",
        title: "Idle shards",
        method: format!(
            "{NODES} nodes on this machine with a space of {} shards, each shard with a replica on \
             each node; no clients. CPU (user and system, all threads) over {} s, {} s after all \
             shards had leaders, which took {elected:.1} s from the start of the processes on \
             empty directories; resident memory at the end of that time, all of the process, also \
             divided by the shards.",
            grouped(shards as f64, 0),
            watch.as_secs(),
            settle.as_secs(),
        ),
        metrics: vec![
            metric("CPU % of a core", 2),
            metric("memory MiB", 0),
            metric("memory KiB/shard", 1),
            metric("shards led", 0),
        ],
        systems: vec![Competitor {
            name: product.name(),
            promise: super::cluster::PROMISE,
            equal: true,
        }],
        cells,
        notes: Vec::new(),
    })
}

/// For each node, percent of a core over `time`, and MiB at its end.
fn watch_once(cluster: &mut Cluster<'_>, time: Duration) -> Outcome<Vec<(f64, f64)>> {
    let read = |cluster: &Cluster<'_>| -> Outcome<Vec<CpuTime>> {
        cluster.pids().into_iter().map(CpuTime::of).collect()
    };
    let start = Instant::now();
    let before = read(cluster)?;
    thread::sleep(time);
    let after = read(cluster)?;
    let seconds = start.elapsed().as_secs_f64();
    cluster.check_alive()?;
    let percent = after
        .iter()
        .zip(&before)
        .map(|(after, before)| 100.0 * after.since(before).total / seconds);
    let memory = cluster.pids().into_iter().map(resident_bytes).collect::<Outcome<Vec<_>>>()?;
    Ok(percent.zip(memory.into_iter().map(|bytes| bytes / (1024.0 * 1024.0))).collect())
}
