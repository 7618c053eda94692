//! The throughput families: durable writes, relaxed reads and writes, other commands.
//!
//! All systems of a family are up at once with the same keys loaded. For each workload each
//! system has a warm-up run; then the rounds follow, one run of each system in a round, in a
//! rotating order, with dirty pages written back before each run.

use std::collections::BTreeMap;
use std::path::Path;

use super::client::{self, Client, Reply};
use super::load::{Generator, KEYS, Run, Sample, Traffic, with_64_byte_values};
use super::machine::write_back;
use super::report::{Cell, Competitor, Goal, Metric, Section, spread};
use super::servers::{Program, Programs, Promise, Server, System};
use super::stats::{Better, order, summary};
use crate::Outcome;

/// What every family needs to know.
pub(crate) struct Plan<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) runs: usize,
    /// Divides every amount of work; 1 except for a smoke test.
    pub(crate) divide: u64,
    pub(crate) run_directory: &'a Path,
}

impl Plan<'_> {
    /// An amount of work, reduced in a smoke test.
    pub(crate) fn scaled(&self, amount: u64) -> u64 {
        (amount / self.divide).max(1000)
    }

    /// A line for the person who waits.
    pub(crate) fn progress(&self, family: &str, text: &str) {
        eprintln!("[{family}] {text}");
    }
}

/// Above this median the report says that the machine was not idle. The kernel's own work for
/// sockets and disk is part of it.
const OTHERS_BUSY_LIMIT_PERCENT: f64 = 25.0;
/// Places in [`METRICS`].
pub(crate) const OPS: usize = 0;
pub(crate) const P99: usize = 2;
const OTHERS: usize = 5;
/// The columns of a throughput family.
pub(crate) const METRICS: [Metric; 6] = [
    Metric { name: "ops/s", better: Better::Higher, decimals: 0, compared: true },
    Metric { name: "p50 ms", better: Better::Lower, decimals: 2, compared: false },
    Metric { name: "p99 ms", better: Better::Lower, decimals: 2, compared: false },
    Metric { name: "server CPU µs/request", better: Better::Lower, decimals: 2, compared: true },
    Metric { name: "generator busy %", better: Better::Lower, decimals: 0, compared: false },
    Metric { name: "others busy %", better: Better::Lower, decimals: 0, compared: false },
];

/// One number for each of [`METRICS`].
pub(crate) fn metrics_of(sample: &Sample) -> Vec<f64> {
    vec![
        sample.ops_per_second,
        sample.p50_ms,
        sample.p99_ms,
        sample.cpu_us,
        sample.generator_busy_percent,
        sample.others_busy_percent,
    ]
}

struct Work {
    name: String,
    run: Run,
    /// Least ratio of operations per second over Redis and over Valkey.
    wanted: (Option<f64>, Option<f64>),
}

/// A list to read from, for LRANGE.
const LIST_KEY: &str = "mylist";
const LIST_LENGTH: i64 = 200;

/// Durable SETs: every write on disk before its reply.
pub(crate) fn durable(plan: &Plan<'_>, generator: &Generator) -> Outcome<Section> {
    let work = |clients, requests, wanted| Work {
        name: format!("SET 64 B, {clients} client{}", if clients == 1 { "" } else { "s" }),
        run: Run {
            traffic: with_64_byte_values("set"),
            requests: plan.scaled(requests),
            clients,
            pipeline: 1,
        },
        wanted: (wanted, None),
    };
    let works =
        [work(1, 15_000, None), work(64, 200_000, Some(1.3)), work(256, 250_000, Some(1.3))];
    let method = format!(
        "SET of 64-byte values on random keys of {KEYS} loaded before; one request in flight per \
         client (pipeline 1). Append-only files are not compacted during the runs."
    );
    throughput(plan, generator, "durable", "Durable writes", method, Promise::Synced, &works)
}

/// SET and GET with disk writes about a second behind.
pub(crate) fn relaxed(plan: &Plan<'_>, generator: &Generator) -> Outcome<Section> {
    let mut works = Vec::new();
    for test in ["set", "get"] {
        for (pipeline, requests, over_redis) in
            [(1, 300_000, 1.0), (16, 2_000_000, 1.3), (64, 3_000_000, 1.5)]
        {
            works.push(Work {
                name: format!("{} 64 B, pipeline {pipeline}", test.to_uppercase()),
                run: Run {
                    traffic: with_64_byte_values(test),
                    requests: plan.scaled(requests),
                    clients: 50,
                    pipeline,
                },
                wanted: (Some(over_redis), Some(1.0)),
            });
        }
    }
    let method = format!(
        "SET and GET of 64-byte values on random keys of {KEYS} loaded before; 50 clients. \
         Append-only files are not compacted during the runs. At pipeline 1 the generator's one \
         core is full, so read the server's CPU per request there."
    );
    let promise = Promise::WithinSecond;
    throughput(plan, generator, "relaxed", "Relaxed reads and writes", method, promise, &works)
}

/// redis-benchmark's own tests of other types.
pub(crate) fn commands(plan: &Plan<'_>, generator: &Generator) -> Outcome<Section> {
    /// redis-benchmark's own default value size.
    const BYTES: usize = 3;
    // LRANGE is spelled out, as `-t lrange_100` would push as often as it reads.
    let tests = [
        ("INCR", Traffic::Test("incr", BYTES), 300_000, 2_000_000),
        ("HSET", Traffic::Test("hset", BYTES), 300_000, 1_500_000),
        ("LPUSH", Traffic::Test("lpush", BYTES), 300_000, 2_000_000),
        ("ZADD", Traffic::Test("zadd", BYTES), 300_000, 1_000_000),
        ("LRANGE_100", Traffic::Command(&["LRANGE", LIST_KEY, "0", "99"]), 120_000, 200_000),
        ("MSET (10 keys)", Traffic::Test("mset", BYTES), 120_000, 300_000),
    ];
    let mut works = Vec::new();
    for (name, traffic, single, piped) in tests {
        for (pipeline, requests) in [(1, single), (16, piped)] {
            works.push(Work {
                name: format!("{name}, pipeline {pipeline}"),
                run: Run { traffic, requests: plan.scaled(requests), clients: 50, pipeline },
                wanted: (Some(1.0), None),
            });
        }
    }
    let method = format!(
        "redis-benchmark's own tests with its default {BYTES}-byte values and `-r {KEYS}` (random \
         counters, fields and members; the lists, hashes and sorted sets are one key each); 50 \
         clients. LRANGE reads the first 100 elements of a list. Append-only files are not \
         compacted during the runs."
    );
    let promise = Promise::WithinSecond;
    throughput(plan, generator, "commands", "Other commands", method, promise, &works)
}

struct Contender<'a> {
    system: System<'a>,
    server: Server,
}

fn throughput(
    plan: &Plan<'_>,
    generator: &Generator,
    id: &'static str,
    title: &'static str,
    method: String,
    promise: Promise,
    works: &[Work],
) -> Outcome<Section> {
    let mut contenders = Vec::new();
    for program in plan.programs.all() {
        let system = System::steady(program, promise);
        plan.progress(id, &format!("loading {}", system.name()));
        let server = Server::start(&system, plan.run_directory)?;
        prepare(&server, plan.scaled(KEYS)).map_err(|e| format!("{}: {e}", system.name()))?;
        contenders.push(Contender { system, server });
    }
    let mut section = Section {
        id,
        title,
        method,
        metrics: METRICS.to_vec(),
        systems: contenders.iter().map(|c| competitor(&c.system, promise)).collect(),
        cells: Vec::new(),
        notes: Vec::new(),
    };
    for (index, work) in works.iter().enumerate() {
        plan.progress(id, &format!("workload {}/{}: {}", index + 1, works.len(), work.name));
        let goals = goals(plan.programs, work);
        let cell = measure(plan, generator, id, work, &mut contenders, goals, &mut section.notes);
        section.cells.push(cell);
    }
    section.notes.extend(disturbance(&section.cells));
    Ok(section)
}

/// A warning if other programs took part in what was measured.
pub(crate) fn disturbance(cells: &[Cell]) -> Option<String> {
    let rounds = cells.iter().flat_map(|cell| &cell.values).flatten().flatten();
    let others: Vec<f64> = rounds.map(|values| values[OTHERS]).collect();
    let others = summary(&others).filter(|others| others.median > OTHERS_BUSY_LIMIT_PERCENT)?;
    Some(format!(
        "**the machine was not idle**: other programs used {} % of a core during the runs",
        spread(others, 0)
    ))
}

/// All rounds of one workload. A system that refuses it is left out of the workload, with a note.
fn measure(
    plan: &Plan<'_>,
    generator: &Generator,
    id: &str,
    work: &Work,
    contenders: &mut [Contender<'_>],
    goals: Vec<Goal>,
    notes: &mut Vec<String>,
) -> Cell {
    let warm_up = Run { requests: (work.run.requests / 10).max(1000), ..work.run };
    let mut samples: Vec<Vec<Option<Sample>>> = vec![Vec::new(); contenders.len()];
    let mut able = vec![true; contenders.len()];
    for round in 0..=plan.runs {
        let run = if round == 0 { &warm_up } else { &work.run };
        for place in order(round, contenders.len()) {
            let contender = &mut contenders[place];
            let mut sample = None;
            if able[place] {
                write_back(plan.run_directory);
                match generator.run(&mut contender.server, run) {
                    Ok(measured) => sample = Some(measured),
                    Err(reason) => {
                        able[place] = false;
                        notes.push(format!(
                            "{} was not measured on {}: {reason}",
                            work.name,
                            contender.system.name()
                        ));
                    }
                }
            }
            if round == 0 {
                continue;
            }
            if let Some(sample) = &sample {
                let text = format!(
                    "round {round}/{}: {}: {:.0} ops/s, {:.2} µs CPU",
                    plan.runs,
                    contender.system.name(),
                    sample.ops_per_second,
                    sample.cpu_us
                );
                plan.progress(id, &text);
            }
            samples[place].push(sample);
        }
    }
    let to_metrics = |rounds: &Vec<Option<Sample>>| {
        rounds.iter().map(|sample| sample.as_ref().map(metrics_of)).collect()
    };
    Cell {
        work: work.name.clone(),
        values: samples.iter().map(to_metrics).collect(),
        threads_us: thread_medians(&samples[0]),
        goals,
    }
}

/// Median CPU per request of each thread, over the rounds in which it lived.
pub(crate) fn thread_medians(samples: &[Option<Sample>]) -> Vec<(String, f64)> {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, us) in samples.iter().flatten().flat_map(|sample| &sample.threads_us) {
        by_name.entry(name).or_default().push(*us);
    }
    let median = |values: &[f64]| summary(values).map_or(0.0, |s| s.median);
    by_name.into_iter().map(|(name, values)| (name.to_owned(), median(&values))).collect()
}

fn prepare(server: &Server, keys: u64) -> Outcome<()> {
    client::load(server.port, keys)?;
    let mut client = Client::connect(server.port).map_err(|e| format!("cannot connect: {e}"))?;
    for expected in 1..=LIST_LENGTH {
        match client.ask(&["LPUSH", LIST_KEY, "VXK"]) {
            Ok(Reply::Integer(length)) if length == expected => {}
            other => return Err(format!("LPUSH answered {other:?}")),
        }
    }
    Ok(())
}

fn goals(programs: &Programs, work: &Work) -> Vec<Goal> {
    let peers = [(&programs.redis, work.wanted.0), (&programs.valkey, work.wanted.1)];
    let present = peers.into_iter().filter(|(program, _)| program.is_some());
    present
        .enumerate()
        .filter_map(|(position, (_, wanted))| {
            Some(Goal::Ratio { metric: OPS, system: position + 1, at_least: wanted? })
        })
        .collect()
}

/// A system as the report's reader sees it, beside a subject with the given promise.
pub(crate) fn competitor(system: &System<'_>, subject_promise: Promise) -> Competitor {
    Competitor {
        name: system.name(),
        promise: system.promise.words(),
        equal: system.promise == subject_promise,
    }
}

/// The systems of a family in which each program makes the same promise.
pub(crate) fn same_promise<'a>(
    programs: impl Iterator<Item = &'a Program>,
    promise: Promise,
) -> Vec<System<'a>> {
    programs.map(|program| System::steady(program, promise)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_medians_skip_lost_rounds() {
        let sample = |us| Sample {
            ops_per_second: 1.0,
            p50_ms: 1.0,
            p99_ms: 1.0,
            cpu_us: us,
            threads_us: vec![("worker".into(), us)],
            generator_busy_percent: 1.0,
            others_busy_percent: 1.0,
        };
        let samples = [Some(sample(1.0)), None, Some(sample(5.0)), Some(sample(2.0))];
        assert_eq!(thread_medians(&samples), [("worker".to_owned(), 2.0)]);
    }
}
