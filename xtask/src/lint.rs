//! Everything that must be clean.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::compile::{cargo, root};
use crate::setup;
use crate::step::{Outcome, Steps, run_alone};

const LIMIT: Duration = Duration::from_secs(900);

/// Folders without sources of ours.
const NOT_OURS: [&str; 3] = ["target", ".git", "corpus"];

/// Files that may hold `unsafe`, besides everything under `shims`.
const UNSAFE_FILES: [&str; 2] = ["sys.rs", "raw.rs"];

/// Check format, lints, documentation, dependencies and where `unsafe` stands.
///
/// Clippy's and rustdoc's warnings are errors. Dependencies are checked by cargo-deny (licences, advisories,
/// sources) if that is installed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install cargo-deny if it is missing; that takes some minutes
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.run("format", &mut cargo(&["fmt", "--all", "--check"]), LIMIT);
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.run("clippy", &mut clippy, LIMIT);
    // What is not run by default is not among all targets.
    let mut clippy = cargo(&["clippy", "-p", "demi-tests", "--test", "nvme", "--", "-D", "warnings"]);
    steps.run("clippy of tests for the virtual machine", &mut clippy, LIMIT);
    let mut docs = cargo(&["doc", "--workspace", "--no-deps"]);
    steps.run("documentation", docs.env("RUSTDOCFLAGS", "-D warnings"), LIMIT);
    steps.check("unsafe stands in sys.rs and raw.rs only", unsafe_is_contained);
    steps.check("no build for this machine's processor only", builds_are_portable);
    dependencies(&mut steps, args.install);
    Ok(steps.summary())
}

fn dependencies(steps: &mut Steps, install: bool) {
    const NAME: &str = "dependencies";
    if setup::find("cargo-deny").is_none() {
        if !install {
            return steps.skip(NAME, "cargo-deny is not installed: `cargo xtask lint --install` does so");
        }
        steps.run("install cargo-deny", &mut cargo(&["install", "cargo-deny", "--locked"]), LIMIT);
    }
    let mut rules = cargo(&["deny", "--workspace", "check", "--hide-inclusion-graph"]);
    steps.run(NAME, rules.args(["bans", "licenses", "sources"]), LIMIT);
    const ADVISORIES: &str = "advisories";
    if !matches!(run_alone("fetch advisories", &mut cargo(&["deny", "fetch", "db"]), LIMIT), Outcome::Passed)
    {
        return steps.skip(ADVISORIES, "their database cannot be fetched: see the message above");
    }
    let mut advisories = cargo(&["deny", "--workspace", "check", "--hide-inclusion-graph"]);
    steps.run(ADVISORIES, advisories.args(["--disable-fetch", "advisories"]), LIMIT);
}

fn unsafe_is_contained() -> Result<Outcome> {
    let mut files = Vec::new();
    sources(&root(), &mut files)?;
    let mut stray = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = file.strip_prefix(root()).unwrap_or(&file);
        if path.starts_with("shims") || path.iter().any(|part| part == "sys" || part == "raw") {
            continue;
        }
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let line = text.lines().position(has_unsafe);
        if let (Some(line), false) = (line, UNSAFE_FILES.contains(&name.as_str())) {
            stray.push(format!("{}:{}", path.display(), line + 1));
        }
    }
    if stray.is_empty() { Ok(Outcome::Passed) } else { Ok(Outcome::Failed(stray.join(", "))) }
}

/// Whether a line of source holds the keyword in code: not in a comment, a string or a lint's name. An
/// `unsafe fn` is only a contract, as what it does must stand in blocks of its own.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    let code = code.replace("\\\"", "").replace("'\"'", "");
    let code = code.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.any(|word| word == "unsafe") && words.next() != Some("fn")
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                sources(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Binaries have to run on any x86-64, and under valgrind, which knows no AVX-512.
fn builds_are_portable() -> Result<Outcome> {
    let config = std::fs::read_to_string(root().join(".cargo/config.toml"))?;
    let variable = std::env::var("RUSTFLAGS").unwrap_or_default();
    for (place, text) in [(".cargo/config.toml", config), ("RUSTFLAGS", variable)] {
        if text.contains("target-cpu=native") || text.contains("+avx512") {
            return Ok(Outcome::Failed(format!("{place} asks for target-cpu=native or AVX-512")));
        }
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::has_unsafe;

    #[test]
    fn the_keyword_is_told_from_words_around_it() {
        assert!(has_unsafe("    let x = unsafe { y() };"));
        assert!(has_unsafe("unsafe impl Send for X {}"));
        for line in [
            "#![forbid(unsafe_code)]",
            "// unsafe",
            "\"unsafe\"",
            "unsafe_op_in_unsafe_fn",
            "unsafe fn f() {",
        ] {
            assert!(!has_unsafe(line), "{line}");
        }
    }
}
