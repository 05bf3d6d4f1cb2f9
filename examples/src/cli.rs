//! What every program does around its body: arguments, configuration, logging, errors, exit codes.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use demi_api::{Config, Demikernel, Error, LibOs};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Arguments of every program.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Configuration file (TOML); without it the file that DEMI_CONFIG names, else the defaults
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// At the end, print what the instance has counted, as one JSON object on standard error
    #[arg(long, global = true)]
    counters: bool,
}

/// The arguments of a program.
pub trait Arguments: CommandFactory + FromArgMatches {
    /// Those that every program has.
    fn common(&self) -> &Common;

    /// What these arguments add to the configuration.
    fn configure(&self, config: Config) -> anyhow::Result<Config> {
        Ok(config)
    }
}

/// Parses the arguments, makes an instance with `open`, runs `run`; a failure is one line on standard error.
///
/// Texts of help may say `{bin}` where the name of the binary belongs.
pub fn main<A: Arguments, L: LibOs>(
    open: impl FnOnce(&Config) -> Result<Demikernel<L>, Error>,
    run: impl FnOnce(&Demikernel<L>, A) -> anyhow::Result<()>,
) -> ExitCode {
    let name = program_name();
    let args = parse::<A>(name);
    start_logging();
    let outcome = load(args.common()).and_then(|config| args.configure(config)).and_then(|config| {
        let demi = open(&config)?;
        let counters = args.common().counters;
        let outcome = run(&demi, args);
        if counters {
            print_counters(&demi);
        }
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line, also where the program failed: that is when it is wanted most.
fn print_counters<L: LibOs>(demi: &Demikernel<L>) {
    let Ok(counted) = demi.counters() else { return };
    let mut object = serde_json::Map::new();
    object.insert("turns".into(), counted.turns.into());
    object.insert("sleeps".into(), counted.sleeps.into());
    object.insert("overdue_turns".into(), counted.overdue_turns.into());
    object.insert("longest_gap_us".into(), (counted.longest_gap.as_micros() as u64).into());
    object.extend(counted.libos.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
    let _ = writeln!(io::stderr().lock(), "{}", serde_json::Value::Object(object));
}

/// Writes a line to standard output at once. Nobody there to read it is not an error.
pub fn say(line: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A count with its thousands set apart.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Asked for once, so it may stay.
fn program_name() -> &'static str {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    path.file_name().map_or("demi", |name| name.to_string_lossy().into_owned().leak())
}

fn parse<A: CommandFactory + FromArgMatches>(name: &'static str) -> A {
    let mut command = with_name(A::command().name(name), name);
    let matches = command.get_matches_mut();
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// Puts the binary's name into the texts of a command and its subcommands.
fn with_name(mut command: clap::Command, name: &str) -> clap::Command {
    if let Some(text) = command.get_after_help() {
        let text = text.to_string().replace("{bin}", name);
        command = command.after_help(text);
    }
    let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, below| command.mut_subcommand(below, |it| with_name(it, name)))
}

fn load(common: &Common) -> anyhow::Result<Config> {
    Ok(match &common.config {
        Some(path) => Config::load(path)?,
        None => Config::from_env()?,
    })
}

/// Logs go to standard error; RUST_LOG chooses which (`info`, `demi_examples=debug`, …), warnings by default.
fn start_logging() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(count), text);
        }
    }
}
