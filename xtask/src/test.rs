//! Everything that must pass.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::compile::{cargo, root};
use crate::setup;
use crate::step::{AtLimit, Outcome, Steps, run_alone};
use crate::vm;

/// All of it, on a slow machine from nothing, ends within 40 minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
const TESTS_LIMIT: Duration = Duration::from_secs(900);
const DOCS_LIMIT: Duration = Duration::from_secs(150);
const RELEASE_LIMIT: Duration = Duration::from_secs(150);
const MIRI_FETCH_LIMIT: Duration = Duration::from_secs(60);
const MIRI_LIMIT: Duration = Duration::from_secs(420);
/// Making the guest included.
const VM_LIMIT: Duration = Duration::from_secs(300);
/// Building the libraries' bindings included.
const RDMA_LIMIT: Duration = Duration::from_secs(600);
const ALL_LIMIT: Duration = Duration::from_secs(2400);

/// Less time than this is not worth starting Miri for.
const MIRI_LEAST: Duration = Duration::from_secs(90);

/// Run everything that must pass.
///
/// Unit and integration tests, documentation tests (among them those that must not compile), memalloc's
/// tests once more in release mode, and under Miri where a nightly toolchain is installed; the NVMe driver, and RDMA by
/// verbs, in virtual machines, where they can be had. Ends with a list
/// of steps and, as the very last line, `N passed, N failed, N skipped`: counted from the test runners'
/// output; a step that fails without a result counts as one failed test, a step left out as one skipped.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out what is slow: release mode and Miri
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut steps = Steps::default();
    if let Err(missing) = setup::ensure(&[setup::REDIS]) {
        steps.skip("tests with redis's own clients", missing.to_string());
    }
    if let Err(missing) = setup::ensure(&[setup::IP, setup::PING, setup::NETCAT, setup::CURL, setup::IPERF3])
    {
        steps.skip("tests with the kernel's programs", missing.to_string());
    }
    if let Err(missing) = setup::ensure(&setup::SUBJECTS) {
        steps.skip("tests of the preload shim with real servers", missing.to_string());
    }
    let words = ["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"];
    // By itself, so that a slow machine takes none of the time for tests.
    let mut build = cargo(&words);
    steps.run("build the tests", build.arg("--no-run"), BUILD_LIMIT);
    let mut tests = cargo(&words);
    steps.run_counted("unit and integration tests", &mut tests, TESTS_LIMIT, AtLimit::Fail);
    let mut docs = cargo(&["test", "--workspace", "--doc", "--no-fail-fast"]);
    steps.run_counted("documentation tests", &mut docs, DOCS_LIMIT, AtLimit::Fail);
    in_vm(&mut steps);
    rdma_in_vm(&mut steps);
    if args.quick {
        steps.skip("memalloc in release mode", "as --quick asks");
        steps.skip("memalloc under Miri", "as --quick asks");
    } else {
        let mut release = cargo(&["test", "--release", "-p", "demi-memalloc", "--lib", "--tests"]);
        steps.run_counted("memalloc in release mode", &mut release, RELEASE_LIMIT, AtLimit::Skip);
        under_miri(&mut steps, ALL_LIMIT.saturating_sub(begin.elapsed()));
    }
    let code = steps.summary();
    let tally = steps.tally();
    let skipped = tally.ignored + steps.skipped();
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, skipped);
    Ok(code)
}

/// The NVMe driver, and logs on it, with emulated controllers. The last of them is the kernel's.
fn in_vm(steps: &mut Steps) {
    const NAME: &str = "NVMe in a virtual machine";
    if let Err(why) = vm::ensure() {
        return steps.skip(NAME, why);
    }
    // What is built here runs there: cargo starts tests by a runner.
    let scripts = root().join("tests/vm/with-nvme");
    let runner = format!("cargo xtask vm --nvme 2 --limit 120 -- {}", scripts.display());
    let runner = format!("target.'cfg(unix)'.runner = {runner:?}");
    let mut tests = cargo(&["test", "-p", "demi-libos-cattree", "-p", "demi-tests", "--test", "nvme"]);
    tests.args(["--no-fail-fast", "--config", &runner]);
    steps.run_counted(NAME, &mut tests, VM_LIMIT, AtLimit::Fail);
}

/// Catmint on the kernel's soft-RoCE.
fn rdma_in_vm(steps: &mut Steps) {
    const NAME: &str = "RDMA in a virtual machine";
    if let Err(why) = vm::ensure() {
        return steps.skip(NAME, why);
    }
    if let Err(missing) = setup::ensure(&setup::RDMA).and_then(|()| setup::ensure(&setup::RDMA_VM)) {
        return steps.skip(NAME, missing.to_string());
    }
    let scripts = root().join("tests/vm/with-rdma");
    let runner = format!("cargo xtask vm --limit 300 -- {}", scripts.display());
    let runner = format!("target.'cfg(unix)'.runner = {runner:?}");
    let mut tests = cargo(&["test", "-p", "demi-libos-catmint", "--features", "verbs", "--test", "verbs"]);
    tests.args(["-p", "demi-tests", "--test", "rdma", "--no-fail-fast", "--config", &runner]);
    steps.run_counted(NAME, &mut tests, RDMA_LIMIT, AtLimit::Fail);
}

fn under_miri(steps: &mut Steps, left: Duration) {
    const NAME: &str = "memalloc under Miri";
    if left < MIRI_LEAST {
        return steps.skip(NAME, "too little time is left");
    }
    if let Err(why) = miri_is_there() {
        return steps.skip(NAME, why);
    }
    let mut miri = nightly(&["miri", "test", "-p", "demi-memalloc", "--lib", "--tests"]);
    steps.run_counted(NAME, &mut miri, MIRI_LIMIT.min(left - MIRI_FETCH_LIMIT), AtLimit::Skip);
}

fn miri_is_there() -> Result<(), String> {
    let toolchains = Command::new("rustup").args(["toolchain", "list"]).output();
    let toolchains = toolchains.map_err(|_| "there is no rustup to fetch it with".to_owned())?;
    if !String::from_utf8_lossy(&toolchains.stdout).lines().any(|line| line.starts_with("nightly-")) {
        return Err("no nightly toolchain is installed (`rustup toolchain install nightly`)".to_owned());
    }
    let mut add = Command::new("rustup");
    add.args(["component", "add", "--toolchain", "nightly", "miri", "rust-src"]);
    if !matches!(run_alone("fetch Miri", &mut add, MIRI_FETCH_LIMIT), Outcome::Passed) {
        return Err("the component could not be fetched: see rustup's message above".to_owned());
    }
    Ok(())
}

/// A cargo command of the nightly toolchain, whichever one runs this program.
fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(args).current_dir(root());
    command
}
