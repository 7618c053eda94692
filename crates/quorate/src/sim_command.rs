//! `quorate sim`: simulated clusters of the real node, with faults, until one breaks a promise.

use crate::cli::SimArgs;
use quorate_base::rare::{RarePath, Reached};
use quorate_sim::{Kind, Options, Outcome, SECOND, Stats, load, page, run_seed};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the line of progress is written anew.
const PROGRESS: Duration = Duration::from_millis(200);

/// What all threads share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    stats: Mutex<Stats>,
    failure: Mutex<Option<Outcome>>,
}

/// Runs seeds; the exit code says whether all kept their promises.
pub(crate) fn sim(args: &SimArgs) -> ExitCode {
    let options = match options(args) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("quorate: {problem}");
            return ExitCode::from(2);
        }
    };
    // A failed assertion of a simulated node is a verdict, not a crash of this program.
    std::panic::set_hook(Box::new(|_| {}));
    let (first, count) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let cores = || std::thread::available_parallelism().map_or(1, Into::into);
    let jobs = (args.jobs.unwrap_or_else(cores) as u64).clamp(1, count.max(1));
    let started = Instant::now();
    let deadline = args.minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0));
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let run = || run_seeds(&shared, &options, first, count, deadline);
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(run)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            progress(&shared, count, started);
            std::thread::sleep(PROGRESS);
        }
    });
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let done = shared.done.into_inner();
    let stats = shared.stats.into_inner().expect("no thread panics while it counts");
    report(&stats, done, started);
    match shared.failure.into_inner().expect("no thread panics while it tells") {
        Some(outcome) => failed(args, &outcome),
        None => {
            say("1;32", &format!("Sound: {done} of {done} seeds kept every promise."));
            ExitCode::SUCCESS
        }
    }
}

fn options(args: &SimArgs) -> Result<Options, String> {
    let load = match args.load.as_deref() {
        None => None,
        Some(name) => {
            let known = load::NAMES.into_iter().find(|known| *known == name);
            let names = load::NAMES.join(", ");
            Some(known.ok_or_else(|| format!("there is no load {name:?}; there are {names}"))?)
        }
    };
    let kinds = match &args.faults {
        Some(names) if names.iter().any(|name| name == "none") => Vec::new(),
        Some(names) => names.iter().map(|name| name.parse()).collect::<Result<Vec<Kind>, _>>()?,
        None => Kind::ALL.to_vec(),
    };
    let most = quorate_sim::NODES_MAX;
    if args.nodes.is_some_and(|nodes| !(1..=most).contains(&nodes)) {
        return Err(format!("a cluster here has 1 to {most} nodes"));
    }
    Ok(Options {
        nodes: args.nodes,
        workers: args.workers,
        shards: args.shards,
        faults_us: args.seconds.max(1) * SECOND,
        kinds,
        load,
        ..Options::default()
    })
}

fn run_seeds(
    shared: &Shared,
    options: &Options,
    first: u64,
    count: u64,
    deadline: Option<Instant>,
) {
    loop {
        let nth = shared.next.fetch_add(1, Ordering::Relaxed);
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if nth >= count || late || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run_seed(first + nth, options);
        shared.stats.lock().expect("no thread panics while it counts").add(&outcome.stats);
        shared.done.fetch_add(1, Ordering::Relaxed);
        if outcome.failure.is_some() {
            shared.stop.store(true, Ordering::Relaxed);
            let mut failure = shared.failure.lock().expect("no thread panics while it tells");
            failure.get_or_insert(outcome);
            return;
        }
    }
}

fn progress(shared: &Shared, count: u64, started: Instant) {
    const WIDTH: u64 = 30;
    if !std::io::stderr().is_terminal() {
        return;
    }
    let done = shared.done.load(Ordering::Relaxed);
    let filled = (done * WIDTH / count.max(1)) as usize;
    let simulated = shared.stats.lock().expect("no thread panics while it counts").simulated_us;
    eprint!(
        "\r\x1b[K  {}{} {done} of {count} seeds, {:.1} simulated hours, {} s",
        "█".repeat(filled),
        "░".repeat(WIDTH as usize - filled),
        simulated as f64 / 3.6e9,
        started.elapsed().as_secs()
    );
    // Progress that cannot be shown is no reason to stop.
    let _ = std::io::stderr().flush();
}

fn report(stats: &Stats, seeds: u64, started: Instant) {
    let (simulated, took) = (stats.simulated_us as f64 / 1e6, started.elapsed().as_secs_f64());
    let Stats { requests, errors, packets, packets_lost, packets_damaged, tally, .. } = stats;
    println!(
        "\n  seeds        {seeds}\n  simulated    {:.2} hours in {took:.1} s: {:.0} cluster-seconds \
         a second\n  requests     {requests} ({errors} answered by an error)\n  packets      \
         {packets} ({packets_lost} lost, {packets_damaged} damaged)\n  operations   {} \
         acknowledged, {} refused, {} unknown\n  keys         {} checked, {} undecided",
        simulated / 3600.0,
        simulated / took,
        tally.acknowledged,
        tally.refused,
        tally.unknown,
        tally.keys,
        tally.undecided
    );
    println!("\n  faults");
    stats.faults.iter().for_each(|(name, count)| println!("    {count:>8}  {name}"));
    report_rare_paths(&stats.reached);
    println!();
}

/// The rare paths of the nodes' code: how often each was reached, and which never.
fn report_rare_paths(reached: &Reached) {
    let missing: Vec<_> = reached.missing().collect();
    let (all, never) = (RarePath::ALL.len(), missing.len());
    println!("\n  rare paths: {} of {all} reached", all - never);
    for path in RarePath::ALL.iter().filter(|path| reached.count(**path) > 0) {
        println!(
            "    {}  {}",
            coloured("32", &format!("{:>8}", reached.count(*path))),
            path.name()
        );
    }
    for path in missing {
        println!("    {}  {}", coloured("33", "   never"), path.name());
    }
}

fn failed(args: &SimArgs, outcome: &Outcome) -> ExitCode {
    let failure = outcome.failure.as_ref().expect("the caller has seen one");
    let seed = outcome.seed;
    say("1;31", &format!("Seed {seed} breaks a promise: {}", failure.what));
    println!(
        "\nEnough for it are {} of {} faults: {}",
        failure.faults.len(),
        failure.faults_planned,
        failure.shrunk_what
    );
    failure.faults.iter().for_each(|fault| println!("  {fault}"));
    let path = args.html.clone().unwrap_or_else(|| format!("quorate-sim-{seed}.html").into());
    let shown = path.display();
    match std::fs::write(&path, page(outcome)) {
        Ok(()) => println!("\nThe space-time diagram is in {shown}; open it in a browser."),
        Err(error) => {
            eprintln!("quorate: cannot write {shown}: {error}; name another file with --html");
        }
    }
    println!("Run it again: quorate sim --seed {seed} with the same options. Please report it.");
    ExitCode::FAILURE
}

/// Prints a line in colour where there are colours.
fn say(colour: &str, text: &str) {
    println!("{}", coloured(colour, text));
}

/// `text` in colour where there are colours.
fn coloured(colour: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
