//! The NVMe driver beside the kernel's, on two emulated controllers in one virtual machine.

use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::stats::Spread;
use super::{Session, number};
use crate::compile::root;
use crate::{term, vm};

/// Random reads and writes of 4 KiB: our NVMe driver against the kernel's.
///
/// In a virtual machine with two controllers of the same kind, whose images lie in memory: one bound to vfio-pci and
/// driven by ours, one by the kernel's driver, through io_uring with registered files and buffers, once waiting for
/// interrupts and once polling (IOPOLL). One process takes turns between them. The processor is emulated: only
/// the ratios mean something, and those not what they would on hardware.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Turns that each gets, for each of reading and writing, one and 32 at a time
    #[arg(long, default_value_t = 10)]
    alternations: usize,
    /// Seconds of a turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
}

const OURS: &str = "demi";
const CONTROLS: [&str; 2] = ["io_uring", "io_uring, polled"];

/// What is compared: the work, how much at once, by which figure, and where ours should be.
const CASES: [(&str, u64, &str, &str); 4] = [
    ("read", 1, "p50_ns", "at most 0.8"),
    ("write", 1, "p50_ns", "at most 0.8"),
    ("read", 32, "msgs_per_s", "at least 1"),
    ("write", 32, "msgs_per_s", "at least 1"),
];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    vm::ensure().map_err(|why| anyhow!("skipped: there is no virtual machine to be had here: {why}"))?;
    let cacheline = session.roles.cacheline()?;
    let turns = args.alternations * CASES.len() * (1 + CONTROLS.len());
    let limit = 120 + (turns as f64 * (args.seconds + 1.0)) as u64;
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    command.args(["vm", "--nvme", "2", "--limit", &limit.to_string(), "--"]);
    command.arg(root().join("tests/vm/with-nvme")).arg(session.roles.program());
    command.args(["nvme", "--alternations", &args.alternations.to_string()]);
    command.args(["--seconds", &args.seconds.to_string()]);
    let mut role = session.roles.start_as(command, "nvme")?;
    let progress = session.progress(turns);
    let mut reports = Vec::new();
    while let Some(mut report) = role.read_more()? {
        report["cacheline_ns"] = cacheline.into();
        session.emit(&report);
        reports.push(report);
        progress.inc(1);
    }
    progress.finish_and_clear();
    role.finish()?;
    ensure!(reports.len() == turns, "{} of {turns} turns were reported", reports.len());

    let mut last = json!({ "subject": OURS, "alternations": args.alternations, "seconds": args.seconds });
    let mut rows = Vec::new();
    for (work, depth, key, target) in CASES {
        let ours = figures(&reports, OURS, work, depth, key)?;
        for control in CONTROLS {
            let theirs = figures(&reports, control, work, depth, key)?;
            let ratio = Spread::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
            let name = format!("{work}_{depth}_{key}_to_{}", control.replace(", ", "_"));
            last[format!("ratio_{name}")] = ratio.median.into();
            last[format!("ratio_quartiles_{name}")] = ratio.quartiles();
            let shown = |figures: &[f64]| {
                let median = Spread::of(figures.iter().copied()).median;
                if key == "p50_ns" { term::time(median) } else { format!("{}/s", term::thousands(median)) }
            };
            let figures = [shown(&ours), shown(&theirs)];
            let [ours, theirs] = figures;
            rows.push([
                format!("{work}, {depth} at a time"),
                control.into(),
                ours,
                theirs,
                ratio.to_string(),
                target.into(),
            ]);
        }
    }
    session.emit(&last);
    if !session.json {
        println!("4 KiB at random, {} alternations, in a virtual machine", args.alternations);
        println!("{}", term::table(&["work", "control", "demi", "control's", "ratio", "target"], rows));
        session.warn_of_company(reports.iter());
    }
    Ok(())
}

/// A subject's figures in order of alternations.
fn figures(reports: &[Value], subject: &str, work: &str, depth: u64, key: &str) -> Result<Vec<f64>> {
    let its = |report: &&Value| {
        report["subject"] == subject && report["work"] == work && report["depth"].as_u64() == Some(depth)
    };
    reports.iter().filter(its).map(|report| number(report, key)).collect()
}
