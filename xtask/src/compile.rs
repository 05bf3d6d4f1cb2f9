//! Builds, and where their results lie.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Process;
use crate::step;

const LIMIT: Duration = Duration::from_secs(1200);

/// The top of the source tree.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// A cargo command at the top of the source tree.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(root());
    // Set for this program by the cargo that runs it; they are not meant for another one.
    for variable in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(variable);
    }
    command
}

/// Release binaries by name.
#[derive(Debug)]
pub(crate) struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    pub(crate) fn path(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("no binary named {name} was built"))
    }
}

/// Builds release binaries, each of a package. Cargo shows its progress on standard error.
pub(crate) fn release(wanted: &[(&str, &str)]) -> Result<Binaries> {
    let words: Vec<&str> =
        wanted.iter().flat_map(|(package, binary)| ["-p", package, "--bin", binary]).collect();
    let mut binaries = BTreeMap::new();
    build(&words, |message| {
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            binaries.insert(name.to_owned(), PathBuf::from(path));
        }
    })?;
    Ok(Binaries(binaries))
}

/// Builds packages of libraries for programs in C, in release mode; returns all files that came of it.
pub(crate) fn libraries(packages: &[String]) -> Result<Vec<PathBuf>> {
    let words: Vec<&str> = packages.iter().flat_map(|package| ["-p", package]).collect();
    let mut files = Vec::new();
    build(&words, |message| {
        let kinds = message["target"]["crate_types"].as_array().map(Vec::as_slice).unwrap_or_default();
        if kinds.iter().any(|kind| kind == "cdylib") {
            let names = message["filenames"].as_array().map(Vec::as_slice).unwrap_or_default();
            files.extend(names.iter().filter_map(|name| name.as_str()).map(PathBuf::from));
        }
    })?;
    Ok(files)
}

/// Builds in release mode, and has each message of cargo looked at.
fn build(words: &[&str], mut each: impl FnMut(&Value)) -> Result<()> {
    let begin = Instant::now();
    let mut command = cargo(&["build", "--release", "--message-format=json-render-diagnostics"]);
    command.args(words);
    step::announce("build", &command);
    let process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut lines = process.lines()?;
    while let Some(line) = lines.next(LIMIT)? {
        if let Ok(message) = serde_json::from_str::<Value>(&line) {
            each(&message);
        }
    }
    if !process.wait(LIMIT)?.success() {
        bail!("the build failed");
    }
    eprintln!("  built in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}
