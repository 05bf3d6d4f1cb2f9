//! Steps of a command: what runs, how it ended, how long it took.

use std::ffi::OsStr;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::Process;
use crate::tally::Tally;
use crate::term;

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should; the text says more than "failed" if there is more.
    Failed(String),
    /// It did not run, and why.
    Skipped(String),
}

/// What it means that a step has not ended in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtLimit {
    /// Something hangs.
    Fail,
    /// The machine is slow; what has not run by then is left out.
    Skip,
}

/// All steps of a command so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Outcome, Duration)>,
    tally: Tally,
}

impl Steps {
    /// Runs a command to its end, its output passed through.
    pub(crate) fn run(&mut self, name: &str, command: &mut Command, limit: Duration) {
        let begin = Instant::now();
        announce(name, command);
        let outcome = passed_through(command, limit);
        self.note(name, outcome, begin.elapsed());
    }

    /// Runs a test runner: its output passed through, and its results counted.
    pub(crate) fn run_counted(
        &mut self,
        name: &str,
        command: &mut Command,
        limit: Duration,
        at_limit: AtLimit,
    ) {
        let begin = Instant::now();
        announce(name, command);
        let mut tally = Tally::default();
        let late = format!("did not end within {} s", limit.as_secs());
        let outcome = match counted(command, limit, &mut tally) {
            Ok(Some(status)) if status.success() => Outcome::Passed,
            Ok(None) if at_limit == AtLimit::Skip && tally.failed == 0 => Outcome::Skipped(late),
            Ok(_) if tally.failed > 0 => Outcome::Failed(tally.failures.join(", ")),
            Ok(Some(status)) => Outcome::Failed(status.to_string()),
            Ok(None) => Outcome::Failed(late),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        if matches!(outcome, Outcome::Failed(_)) {
            // Such as a program that does not compile: it must not read as "0 failed".
            tally.failed = tally.failed.max(1);
        }
        self.tally.add(tally);
        self.note(name, outcome, begin.elapsed());
    }

    /// Notes a step that a closure does.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Outcome>) {
        let begin = Instant::now();
        eprintln!("{} {name}", term::bold("▶"));
        let outcome = check().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        self.note(name, outcome, begin.elapsed());
    }

    /// Notes a step that is left out.
    pub(crate) fn skip(&mut self, name: &str, why: impl Into<String>) {
        self.note(name, Outcome::Skipped(why.into()), Duration::ZERO);
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.done.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Skipped(_))).count() as u64
    }

    /// Steps that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.done.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))).count() as u64
    }

    /// Prints every step with its outcome, and says how the command as a whole ended.
    pub(crate) fn summary(&self) -> ExitCode {
        println!();
        for (name, outcome, took) in &self.done {
            println!("{}", line(name, outcome, *took));
        }
        if self.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn note(&mut self, name: &str, outcome: Outcome, took: Duration) {
        eprintln!("{}", line(name, &outcome, took));
        self.done.push((name.to_owned(), outcome, took));
    }
}

/// Runs one command as a step of its own.
pub(crate) fn run_alone(name: &str, command: &mut Command, limit: Duration) -> Outcome {
    let begin = Instant::now();
    announce(name, command);
    let outcome = passed_through(command, limit);
    eprintln!("{}", line(name, &outcome, begin.elapsed()));
    outcome
}

/// Says what runs.
pub(crate) fn announce(name: &str, command: &Command) {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    let variables = command.get_envs().filter_map(|(key, value)| {
        Some(format!("{}='{}' ", key.to_string_lossy(), value?.to_string_lossy()))
    });
    eprintln!("{} {name}: {}{}", term::bold("▶"), variables.collect::<String>(), words.join(" "));
}

fn passed_through(command: &mut Command, limit: Duration) -> Outcome {
    let ended = Process::spawn(command.stdin(Stdio::null())).and_then(|process| process.wait(limit));
    match ended {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// `None`: it had not ended at the limit, and was stopped.
fn counted(command: &mut Command, limit: Duration, tally: &mut Tally) -> Result<Option<ExitStatus>> {
    let process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut lines = process.lines()?;
    let deadline = Instant::now() + limit;
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        match lines.next(left()) {
            Ok(Some(line)) => {
                println!("{line}");
                tally.read(&line);
            }
            Ok(None) => return process.wait(left()).map(Some),
            Err(_) if left().is_zero() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn line(name: &str, outcome: &Outcome, took: Duration) -> String {
    let seconds = format!("{:.1} s", took.as_secs_f64());
    match outcome {
        Outcome::Passed => format!("{} {name} ({seconds})", term::green("✔")),
        Outcome::Failed(why) => format!("{} {name} ({seconds}): {why}", term::red("✘")),
        Outcome::Skipped(why) => format!("{} {name}: skipped, {why}", term::yellow("–")),
    }
}
