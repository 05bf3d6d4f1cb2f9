//! Comparisons, each against its control within one interleaved run.
//!
//! The machine may be shared and noisy: absolute times mean little, and drift within seconds. So subject and
//! control take turns, in the order AB, BA, AB, …; a ratio is taken in each alternation, and the median of
//! these ratios is what counts, with its quartiles beside it. A cache-line ping-pong tells how the machine
//! stood at the time. Nothing here passes or fails on a time.

mod alloc;
mod bulk;
mod c_echo;
mod callgrind;
mod conns;
mod echo;
mod instr;
mod link;
mod load;
mod log;
mod logged_echo;
mod nvme;
mod redis;
mod relay;
mod role;
mod space;
pub(crate) mod stats;
mod turns;
mod unreaped;
mod wait;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use indicatif::ProgressBar;
use serde_json::Value;

pub(crate) use self::echo::Exchange;
pub(crate) use self::role::Roles;
use crate::{compile, term};

/// Measure against a control within one interleaved run.
///
/// Release binaries are built first. Subject and control take turns; the last line of each bench holds the
/// median of the ratios of all alternations. Results go to standard output: a table and a picture, or with
/// --json one object per line and nothing else.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
    /// Print JSON objects only, one per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Bench {
    Echo(echo::Args),
    CEcho(c_echo::Args),
    Bulk(bulk::Args),
    Conns(conns::Args),
    Load(load::Args),
    Alloc(alloc::Args),
    Instr(instr::Args),
    Nvme(nvme::Args),
    Wait(wait::Args),
    Log(log::Args),
    LoggedEcho(logged_echo::Args),
    Redis(redis::Args),
    Relay(relay::Args),
    Unreaped(unreaped::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = match &args.bench {
        Bench::Echo(args) => args.device(),
        Bench::Load(args) => args.device(),
        _ => None,
    };
    // Before minutes are spent on building.
    if device.is_some_and(link::Device::needs_root) {
        space::Space::permitted()?;
    }
    let binaries = compile::release(&[("demi-bench", "demi-bench")])?;
    let bench = Session { roles: Roles::new(binaries.path("demi-bench")?), json: args.json };
    match &args.bench {
        Bench::Echo(args) => echo::run(args, &bench),
        Bench::CEcho(args) => c_echo::run(args, &bench),
        Bench::Bulk(args) => bulk::run(args, &bench),
        Bench::Conns(args) => conns::run(args, &bench),
        Bench::Load(args) => load::run(args, &bench),
        Bench::Alloc(args) => alloc::run(args, &bench),
        Bench::Instr(args) => instr::run(args, &bench),
        Bench::Nvme(args) => nvme::run(args, &bench),
        Bench::Wait(args) => wait::run(args, &bench),
        Bench::Log(args) => log::run(args, &bench),
        Bench::LoggedEcho(args) => logged_echo::run(args, &bench),
        Bench::Redis(args) => redis::run(args, &bench),
        Bench::Relay(args) => relay::run(args, &bench),
        Bench::Unreaped(args) => unreaped::run(args, &bench),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Preemptions in a turn that leave no mark on it.
const FEW_PREEMPTIONS: u64 = 5;

/// What every bench works with.
pub(crate) struct Session {
    roles: Roles,
    json: bool,
}

impl Session {
    /// A line of results, if lines are what is asked for.
    fn emit(&self, line: &Value) {
        if self.json {
            println!("{line}");
        }
    }

    /// Says so if other programs had the cores, too, while the reports were made.
    fn warn_of_company<'a>(&self, reports: impl Iterator<Item = &'a Value>) {
        let (mut disturbed, mut all) = (0, 0);
        for report in reports {
            all += 1;
            disturbed += u64::from(report["preemptions"].as_u64() > Some(FEW_PREEMPTIONS));
        }
        if disturbed * 4 > all {
            println!(
                "note: other programs had the cores, too, in {disturbed} of {all} turns: p50 still means"
            );
            println!("something then, p99 and throughput do not");
        }
    }

    fn progress(&self, len: usize) -> ProgressBar {
        term::progress(len as u64, !self.json)
    }
}

/// A number in a role's report.
pub(crate) fn number(report: &Value, key: &str) -> Result<f64> {
    report[key].as_f64().with_context(|| format!("a report lacks {key}: {report}"))
}
