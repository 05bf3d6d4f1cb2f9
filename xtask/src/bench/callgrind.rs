//! Instructions, counted by callgrind: the figure that repeats exactly on a noisy machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::Process;
use crate::setup;

const LIMIT: Duration = Duration::from_secs(300);

/// A callgrind that can be run.
#[derive(Debug)]
pub(crate) struct Callgrind;

impl Callgrind {
    /// Finds it; installs it where that is permitted.
    pub(crate) fn find() -> Result<Callgrind> {
        setup::ensure(&[setup::VALGRIND]).map_err(|missing| anyhow!("valgrind is missing: {missing}"))?;
        Ok(Callgrind)
    }

    /// Instructions per unit of work: the difference between runs of `less` and of `more` units, so that what
    /// does not depend on the number of units cancels out.
    pub(crate) fn per_unit(
        &self,
        program: &Path,
        less: u64,
        more: u64,
        words: impl Fn(u64) -> String,
    ) -> Result<f64> {
        let short = self.instructions(program, &words(less))?;
        let long = self.instructions(program, &words(more))?;
        Ok((long as f64 - short as f64) / (more - less) as f64)
    }

    fn instructions(&self, program: &Path, words: &str) -> Result<u64> {
        let mut command = Command::new(setup::VALGRIND.program);
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
        command.arg(program).args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Process::spawn(&mut command)?;
        let mut lines = process.lines()?;
        let mut count = None;
        while let Some(line) = lines.next(LIMIT)? {
            if let Some((_, collected)) = line.split_once("Collected : ") {
                count = Some(collected.trim().parse().context("callgrind's count")?);
            }
        }
        let status = process.wait(LIMIT)?;
        if !status.success() {
            bail!("{words} under callgrind: {status}");
        }
        count.context("callgrind printed no count")
    }
}
