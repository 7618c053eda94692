//! Runs seeds and says which of them break a promise: `hunt FROM COUNT [seconds] [load] [nodes] [faults]`.

use quorate_sim::{Kind, Options, SECOND, Stats, load, run_seed};
use std::time::Instant;

fn main() {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        args.get(at).map_or(default, |arg| arg.parse().expect("a number"))
    };
    let (from, count) = (number(0, 0), number(1, 100));
    let options = Options {
        faults_us: number(2, 20) * SECOND,
        load: load::NAMES.into_iter().find(|name| args.get(3).is_some_and(|arg| arg == name)),
        nodes: args.get(4).map(|arg| arg.parse().expect("a number")),
        kinds: args.get(5).map_or(Kind::ALL.to_vec(), |names| {
            names.split(',').map(|name| name.parse().expect("a kind of fault")).collect()
        }),
        shrink_max: 40,
        ..Options::default()
    };
    let (mut stats, mut failures, started) = (Stats::default(), 0, Instant::now());
    for seed in from..from + count {
        let outcome = run_seed(seed, &options);
        stats.add(&outcome.stats);
        if let Some(failure) = outcome.failure {
            failures += 1;
            println!("seed {seed}: {}", failure.what);
            println!(
                "   shrunk to {} of {}: {}",
                failure.faults.len(),
                failure.faults_planned,
                failure.shrunk_what
            );
            if std::env::var_os("STORY").is_some() {
                for note in &failure.story.notes {
                    if !matches!(note.what, quorate_sim::Told::Packet { .. }) {
                        println!("     {:.6} {:?}", note.at as f64 / 1e6, note.what);
                    }
                }
            }
            for fault in failure.faults.iter().take(12) {
                println!("     {fault}");
            }
        }
    }
    let (simulated, took) = (stats.simulated_us as f64 / 1e6, started.elapsed().as_secs_f64());
    println!(
        "{stats:#?}\n{failures} of {count} failed; {:.1} simulated s a second",
        simulated / took
    );
}
