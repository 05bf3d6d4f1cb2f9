//! The project's commands: `cargo xtask <command>`.
//!
//! - [`demo`]: a real client against the key-value store, and latency beside plain sockets
//! - [`mod@test`]: everything that must pass
//! - [`lint`]: everything that must be clean
//! - [`mod@bench`]: comparisons, each against its control within one interleaved run
//! - [`vm`]: a command in a virtual machine with NVMe controllers and an IOMMU
//! - [`packetdrill`]: its scripts against catnip
//! - [`setup`]: the packages that the others need
//! - [`install`]: what programs in C are built and run with
//!
//! Below them: [`process`] (children that are always stopped), [`step`] (what runs and how long it took),
//! [`compile`] (release binaries), [`term`] (tables, bars, histograms).
//!
//! Progress goes to standard error, results to standard output. Not in here: anything that is measured; that
//! is `demi-bench`, so that it runs without this program's baggage.
#![forbid(unsafe_code)]

mod bench;
mod compile;
mod demo;
mod install;
mod lint;
mod packetdrill;
mod process;
mod setup;
mod step;
mod tally;
mod term;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "The project's commands")]
#[command(disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// Each is described at its arguments.
#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Test(test::Args),
    Lint(lint::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Packetdrill(packetdrill::Args),
    Setup(setup::Args),
    Install(install::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = process::stop_all_on_signal().and_then(|()| match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Packetdrill(args) => packetdrill::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Install(args) => install::run(&args),
    });
    process::await_stop_if_stopping();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
