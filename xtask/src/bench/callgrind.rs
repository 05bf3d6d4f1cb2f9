//! Instructions, counted by callgrind: the figure that repeats exactly on a noisy machine.

use std::collections::BTreeMap;
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

    /// Where the instructions of a run are.
    pub(crate) fn profile(&self, program: &Path, words: &str) -> Result<Profile> {
        let file = tempfile::NamedTempFile::new().context("a file for callgrind's profile")?;
        self.run(program, words, file.path())?;
        let text = std::fs::read_to_string(file.path()).context("callgrind's profile")?;
        Ok(Profile::parse(&text))
    }

    fn instructions(&self, program: &Path, words: &str) -> Result<u64> {
        self.run(program, words, Path::new("/dev/null"))
    }

    fn run(&self, program: &Path, words: &str, out: &Path) -> Result<u64> {
        let mut command = Command::new(setup::VALGRIND.program);
        command.args(["--tool=callgrind", "--log-fd=1"]);
        command.arg(format!("--callgrind-out-file={}", out.display()));
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

/// A profile: what each function costs with all that it calls, and what the lines of each file cost.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    functions: BTreeMap<String, u64>,
    files: BTreeMap<String, u64>,
}

impl Profile {
    /// Reads callgrind's format: names that are numbered at their first mention, lines of position and cost, and calls
    /// whose cost stands in the line behind.
    ///
    /// What was inlined of the standard library counts as the source file's around it.
    fn parse(text: &str) -> Profile {
        let mut profile = Profile::default();
        let mut names: BTreeMap<(bool, &str), &str> = BTreeMap::new();
        let (mut function, mut owner) = ("", "");
        let mut called = false;
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=') {
                let is_function = matches!(key, "fn" | "cfn");
                let is_file = matches!(key, "fl" | "fi" | "fe" | "cfi" | "cfl");
                if is_function || is_file {
                    let name = resolve(&mut names, is_function, value);
                    match key {
                        "fn" => function = name,
                        "fl" => owner = name,
                        "fi" | "fe" if !name.starts_with("/rustc/") => owner = name,
                        _ => {}
                    }
                    continue;
                }
                called |= key == "calls";
                continue;
            }
            let cost = line.split_once(' ').and_then(|(at, cost)| {
                at.starts_with(|first: char| "+-*0123456789".contains(first))
                    .then(|| cost.parse::<u64>().ok())?
            });
            let Some(cost) = cost else { continue };
            *profile.functions.entry(function.to_owned()).or_default() += cost;
            if !std::mem::take(&mut called) {
                *profile.files.entry(owner.to_owned()).or_default() += cost;
            }
        }
        profile
    }

    /// What the functions cost, with all that they call, whose names fit.
    pub(crate) fn inclusive(&self, fits: impl Fn(&str) -> bool) -> u64 {
        self.functions.iter().filter(|(name, _)| fits(name)).map(|(_, cost)| cost).sum()
    }

    /// What the lines of each file cost.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(file, cost)| (file.as_str(), *cost))
    }
}

/// `(12) name` defines a name, `(12)` refers to it.
fn resolve<'a>(names: &mut BTreeMap<(bool, &'a str), &'a str>, function: bool, value: &'a str) -> &'a str {
    match value.split_once(' ') {
        Some((number, name)) => {
            names.insert((function, number), name);
            name
        }
        None => names.get(&(function, value)).copied().unwrap_or(value),
    }
}

#[cfg(test)]
mod tests {
    use super::Profile;

    #[test]
    fn costs_go_to_functions_with_what_they_call_and_to_files_without() {
        let text = "positions: line\nevents: Ir\nfl=(1) /a/main.rs\nfn=(1) main\n16 5\nfi=(2) /rustc/x/core.rs\n+1 2\n\
                    cfi=(3) /a/work.rs\ncfn=(2) work\ncalls=3 9\n* 30\n\nfl=(3)\nfn=(2)\n9 30\n";
        let profile = Profile::parse(text);
        assert_eq!(profile.inclusive(|name| name == "main"), 37);
        assert_eq!(profile.inclusive(|name| name == "work"), 30);
        assert_eq!(profile.files().collect::<Vec<_>>(), [("/a/main.rs", 7), ("/a/work.rs", 30)]);
    }
}
