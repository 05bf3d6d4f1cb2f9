//! `demi-fsck`: checks images of cattree's logs, shows what is in them, makes them, and mends them.
//!
//! Invariant: nothing is written without `--make` or `--repair`, and nothing before it was said what is lost by it.
//!
//! | module | what it holds |
//! |---|---|
//! | `args` | the command line |
//! | `device` | the device, and its heap |
//! | `check` | the check, for people and programs |
//! | `dump` | logs, elements, and the format field by field |
//! | `make`, `repair` | what writes |
#![forbid(unsafe_code)]

mod args;
mod check;
mod device;
mod dump;
mod fields;
mod make;
mod repair;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use self::args::{Action, Args};

/// How it ended, as for fsck(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Outcome {
    Clean = 0,
    Repaired = 1,
    ErrorsLeft = 4,
}

/// What could not be done at all.
const OPERATIONAL: u8 = 8;
const USAGE: u8 = 16;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match run(&args) {
        Ok(outcome) => ExitCode::from(outcome as u8),
        // Whoever reads has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "demi-fsck: {}: {error:#}", args.target);
            ExitCode::from(OPERATIONAL)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Outcome> {
    match args.action() {
        Action::Check => check::run(args),
        Action::List => dump::list(args),
        Action::Dump(log) => dump::elements(args, log),
        Action::DumpFormat => dump::format(args),
        Action::Make => make::run(args),
        Action::Repair => repair::run(args),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
