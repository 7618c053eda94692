//! `cargo xtask`: the repository's own tasks, as one program.
//!
//! Owns the command line only; each task lives in a module of its own. Nothing in the product
//! depends on this crate, and this crate depends on no crate of the product: it starts the
//! built binary, as a user would.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The result of a task step; the error is a sentence for the person at the terminal.
pub(crate) type Outcome<T> = Result<T, String>;

/// Tasks of the Quorate repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure Quorate beside Redis 7, Valkey 9 and etcd on this machine
    #[command(long_about = bench::LONG_ABOUT, after_long_help = bench::AFTER_HELP)]
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
