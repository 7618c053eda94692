//! The `quorate` binary.

mod cli;
mod config;
mod logging;
mod look;
mod serve;
mod sim_command;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = <cli::Cli as clap::Parser>::parse();
    let result = match cli.command {
        cli::Command::Serve(args) => serve::serve(&args),
        cli::Command::Status(args) => return look::status(&args),
        cli::Command::Top(args) => return look::top(&args),
        cli::Command::Sim(args) => return sim_command::sim(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {error}");
            ExitCode::FAILURE
        }
    }
}
