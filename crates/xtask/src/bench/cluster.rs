//! The family `cluster`: durable linearizable writes and reads on three nodes.
//!
//! Both clusters are up at once with the same keys loaded; one of them works at a time. The rounds
//! are those of the other families, but a run lasts a fixed time instead of a fixed number of
//! requests, as the systems differ by a factor of several.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::VALUE_BYTES;
use super::drive::{Action, Driver};
use super::families::{METRICS, OPS, P99, Plan, disturbance, metrics_of, thread_medians};
use super::load::Sample;
use super::machine::{CpuTime, cpu_of_machine, write_back};
use super::nodes::{Cluster, NODES, Product};
use super::report::{Cell, Competitor, Goal, Metric, Section, grouped};
use super::stats::{Better, order};
use crate::Outcome;

/// Keys loaded before.
const KEYS: u64 = 100_000;
/// Clients that load them.
const FILLING_CLIENTS: usize = 256;
/// How long a run lasts, and the warm-up before the first round.
const RUN: Duration = Duration::from_millis(3000);
const WARM_UP: Duration = Duration::from_millis(1000);
/// The same in a smoke test.
const QUICK_RUN: Duration = Duration::from_millis(400);
/// What the clusters promise.
pub(crate) const PROMISE: &str =
    "a write is on the disks of two of three nodes before its reply, and a read sees it";
/// How many times etcd's p99 should be ours.
const P99_WANTED: f64 = 3.0;

struct Work {
    action: Action,
    clients: usize,
    /// Least ratio of operations per second over etcd; then latency is wanted as well.
    wanted: Option<f64>,
}

impl Work {
    fn name(&self) -> String {
        let verb = if self.action == Action::Put { "SET" } else { "GET" };
        let plural = if self.clients == 1 { "" } else { "s" };
        format!("{verb} {VALUE_BYTES} B, {} client{plural}", self.clients)
    }
}

/// Durable linearizable SET and GET with 1, 64 and 256 clients.
pub(crate) fn cluster(plan: &Plan<'_>) -> Outcome<Section> {
    let mut works = Vec::new();
    for (action, wanted) in [(Action::Put, 5.0), (Action::Get, 4.0)] {
        for clients in [1, 64, 256] {
            works.push(Work { action, clients, wanted: (clients == 64).then_some(wanted) });
        }
    }
    let keys = plan.scaled(KEYS);
    let mut clusters = Vec::new();
    for product in Product::all(plan.programs) {
        plan.progress("cluster", &format!("loading {}", product.name()));
        let cluster = Cluster::start(product, plan.run_directory, None)?;
        let mut filler = Driver::connect(product.protocol(), &cluster.ports(), FILLING_CLIENTS)?;
        filler.fill(keys).map_err(|e| format!("{}: {e}", product.name()))?;
        clusters.push(cluster);
    }
    let products = clusters.iter().map(|cluster| cluster.product);
    let mut section = Section {
        id: "cluster",
        title: "Three nodes",
        method: method(keys, if plan.divide > 1 { QUICK_RUN } else { RUN }),
        metrics: metrics(),
        systems: products.map(competitor).collect(),
        cells: Vec::new(),
        notes: Vec::new(),
    };
    for (index, work) in works.iter().enumerate() {
        plan.progress(
            "cluster",
            &format!("workload {}/{}: {}", index + 1, works.len(), work.name()),
        );
        let cell = measure(plan, work, keys, &mut clusters, &mut section.notes)?;
        section.cells.push(cell);
    }
    section.notes.extend(disturbance(&section.cells));
    Ok(section)
}

fn method(keys: u64, run: Duration) -> String {
    format!(
        "SET and GET of {VALUE_BYTES}-byte values on random keys of {} loaded before; {NODES} \
         nodes on this machine, each with a directory of its own on the same disk; default \
         settings. Clients are spread over all nodes evenly, one request in flight on each (a \
         single client asks the nodes in turn), whichever node leads. etcd: `Put`, and `Range` \
         with its default, linearizable. One generator for both, a thread of this program: RESP, a \
         connection a client; gRPC, clients as streams of one connection a node. A \
         run lasts {:.1} s. CPU is that of the nodes together.",
        grouped(keys as f64, 0),
        run.as_secs_f64()
    )
}

fn metrics() -> Vec<Metric> {
    let mut metrics = METRICS.to_vec();
    metrics[P99].compared = true;
    let name = "generator CPU µs/request";
    metrics.push(Metric { name, better: Better::Lower, decimals: 2, compared: false });
    metrics
}

/// A cluster as the report's reader sees it.
pub(crate) fn competitor(product: Product<'_>) -> Competitor {
    Competitor { name: product.name(), promise: PROMISE, equal: true }
}

fn measure(
    plan: &Plan<'_>,
    work: &Work,
    keys: u64,
    clusters: &mut [Cluster<'_>],
    notes: &mut Vec<String>,
) -> Outcome<Cell> {
    let (warm_up, time) = if plan.divide > 1 { (QUICK_RUN, QUICK_RUN) } else { (WARM_UP, RUN) };
    let mut drivers = Vec::new();
    for cluster in clusters.iter() {
        let (protocol, ports) = (cluster.product.protocol(), cluster.ports());
        drivers.push(Some(Driver::connect(protocol, &ports, work.clients)?));
    }
    let mut samples: Vec<Vec<Option<(Sample, f64)>>> = vec![Vec::new(); clusters.len()];
    for round in 0..=plan.runs {
        let time = if round == 0 { warm_up } else { time };
        for place in order(round, clusters.len()) {
            let cluster = &mut clusters[place];
            let name = cluster.product.name();
            write_back(plan.run_directory);
            let mut sample = None;
            if let Some(driver) = &mut drivers[place] {
                match run_once(cluster, driver, work.action, keys, time) {
                    Ok(measured) => sample = Some(measured),
                    Err(reason) => {
                        drivers[place] = None;
                        let name = format!("{} was not measured on {name}", work.name());
                        plan.progress("cluster", &format!("{name}: {reason}"));
                        notes.push(format!("{name}: {reason}"));
                    }
                }
            }
            if round == 0 {
                continue;
            }
            if let Some((sample, generator_us)) = &sample {
                let text = format!(
                    "round {round}/{}: {name}: {:.0}/s, p99 {:.2} ms, CPU µs: nodes {:.1}, \
                     generator {generator_us:.1}",
                    plan.runs, sample.ops_per_second, sample.p99_ms, sample.cpu_us
                );
                plan.progress("cluster", &text);
            }
            samples[place].push(sample);
        }
    }
    let values = |rounds: &Vec<Option<(Sample, f64)>>| {
        let values = |(sample, generator_us): &(Sample, f64)| {
            let mut values = metrics_of(sample);
            values.push(*generator_us);
            values
        };
        rounds.iter().map(|round| round.as_ref().map(values)).collect()
    };
    let own: Vec<_> = samples[0].iter().map(|round| round.clone().map(|round| round.0)).collect();
    let goal = |metric, at_least| Goal::Ratio { metric, system: 1, at_least };
    let goals = work.wanted.filter(|_| clusters.len() > 1);
    let goals = goals.map(|wanted| vec![goal(OPS, wanted), goal(P99, P99_WANTED)]);
    Ok(Cell {
        work: work.name(),
        values: samples.iter().map(values).collect(),
        threads_us: thread_medians(&own),
        goals: goals.unwrap_or_default(),
    })
}

/// One run: what it measured, and the generator's CPU for a request in microseconds.
fn run_once(
    cluster: &mut Cluster<'_>,
    driver: &mut Driver,
    action: Action,
    keys: u64,
    time: Duration,
) -> Outcome<(Sample, f64)> {
    cluster.check_alive()?;
    let own_pid = std::process::id();
    let (own_before, before) = (CpuTime::of(own_pid)?, cpu_of(cluster)?);
    let machine_before = cpu_of_machine();
    let driven = driver.run(action, keys, time)?;
    let machine = cpu_of_machine() - machine_before;
    let own = CpuTime::of(own_pid)?.since(&own_before).total;
    let after = cpu_of(cluster)?;
    cluster.check_alive()?;

    let mut total = 0.0;
    let mut threads: BTreeMap<String, f64> = BTreeMap::new();
    for (after, before) in after.iter().zip(&before) {
        let used = after.since(before);
        total += used.total;
        for (name, seconds) in used.threads {
            *threads.entry(name).or_default() += seconds;
        }
    }
    let per_request = |seconds: f64| seconds * 1e6 / driven.requests.max(1) as f64;
    let percent = |seconds: f64| 100.0 * seconds / driven.seconds;
    let sample = Sample {
        ops_per_second: driven.requests as f64 / driven.seconds,
        p50_ms: driven.p50_ms,
        p99_ms: driven.p99_ms,
        cpu_us: per_request(total),
        threads_us: threads.into_iter().map(|(name, s)| (name, per_request(s))).collect(),
        generator_busy_percent: percent(own),
        others_busy_percent: percent(machine - own - total).max(0.0),
    };
    Ok((sample, per_request(own)))
}

fn cpu_of(cluster: &Cluster<'_>) -> Outcome<Vec<CpuTime>> {
    cluster.pids().into_iter().map(CpuTime::of).collect()
}
