//! Roles: processes of `demi-bench`, each with one part in one measurement.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{Lines, Process};

/// Longest silence of a role, its longest measurement included.
const LIMIT: Duration = Duration::from_secs(90);

/// Where roles come from.
#[derive(Debug)]
pub(crate) struct Roles {
    program: PathBuf,
    cores: [usize; 2],
}

/// A role under way.
#[derive(Debug)]
pub(crate) struct Role {
    process: Process,
    lines: Lines,
    input: ChildStdin,
    name: String,
}

impl Roles {
    pub(crate) fn new(program: &Path) -> Roles {
        Roles { program: program.to_path_buf(), cores: cores() }
    }

    /// Two cores, or twice the only one: for the near and the far end.
    pub(crate) fn cores(&self) -> [usize; 2] {
        self.cores
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a role with words separated by spaces.
    pub(crate) fn start(&self, words: &str) -> Result<Role> {
        let mut command = Command::new(&self.program);
        command.args(words.split_whitespace());
        self.start_as(command, words.split_whitespace().next().unwrap_or(""))
    }

    /// Starts a role by a command of the caller's.
    pub(crate) fn start_as(&self, mut command: Command, name: &str) -> Result<Role> {
        let process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let lines = process.lines()?;
        let input = process.input()?;
        Ok(Role { process, lines, input, name: name.to_owned() })
    }

    /// Runs a role that prints one object.
    pub(crate) fn report(&self, words: &str) -> Result<Value> {
        let mut role = self.start(words)?;
        let report = role.read()?;
        role.finish()?;
        Ok(report)
    }

    /// Runs a role that prints one object and kills itself.
    pub(crate) fn report_of_killed(&self, words: &str) -> Result<Value> {
        let mut role = self.start(words)?;
        let report = role.read()?;
        drop(role.input);
        role.process.wait(LIMIT)?;
        Ok(report)
    }

    /// Round trip of a cache line between the two cores at this moment, in nanoseconds.
    pub(crate) fn cacheline(&self) -> Result<f64> {
        let [near, far] = self.cores;
        if near == far {
            return Ok(f64::NAN);
        }
        super::number(&self.report(&format!("cacheline --core {near} --far-core {far}"))?, "cacheline_ns")
    }
}

impl Role {
    /// The next object that it prints.
    pub(crate) fn read(&mut self) -> Result<Value> {
        match self.lines.next(LIMIT).with_context(|| format!("{} is silent", self.name))? {
            Some(line) => {
                serde_json::from_str(&line).with_context(|| format!("{} printed {line}", self.name))
            }
            None => bail!("{} ended without a report: {}", self.name, self.process.wait(LIMIT)?),
        }
    }

    /// The next object, if there is one more.
    pub(crate) fn read_more(&mut self) -> Result<Option<Value>> {
        let line = self.lines.next(LIMIT).with_context(|| format!("{} is silent", self.name))?;
        line.map(|line| serde_json::from_str(&line).context("a report is not JSON")).transpose()
    }

    /// The address that a server or relay announces.
    pub(crate) fn address(&mut self, key: &str) -> Result<String> {
        let announced = self.read()?;
        Ok(announced[key].as_str().with_context(|| format!("{announced} lacks {key}"))?.to_owned())
    }

    /// Writes a line to it.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("{} does not listen", self.name))
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.input);
        let status = self.process.wait(LIMIT)?;
        if !status.success() {
            bail!("{} failed: {status}", self.name);
        }
        Ok(())
    }
}

/// The first two cores that this process may use.
fn cores() -> [usize; 2] {
    let allowed = rustix::thread::sched_getaffinity(None);
    let allowed =
        allowed.map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect());
    let allowed: Vec<usize> = allowed.unwrap_or_else(|_| vec![0]);
    match allowed[..] {
        [near, far, ..] => [near, far],
        [only] => {
            eprintln!("only one core: both ends share it, and ratios mean little");
            [only, only]
        }
        [] => [0, 0],
    }
}
