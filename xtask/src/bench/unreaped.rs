//! A million pushes whose tokens nobody waits for: slowdown and growth.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// A million pushes whose tokens nobody waits for.
///
/// Throughput of the last tenth is compared with that of the first, in the same process; beside it stands
/// what the process has grown by per token. The heap stays as it is: all pushes share one buffer.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The libOS
    #[arg(long, value_enum, default_value_t = Libos::Catnap)]
    libos: Libos,
    /// Pushes
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Times to do it all
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
    Loopback,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.repeats > 0, "--repeats must be at least 1");
    let libos = match args.libos {
        Libos::Catnap => "catnap",
        Libos::Loopback => "loopback",
    };
    let [near, far] = session.roles.cores();
    let progress = session.progress(args.repeats);
    let mut ratios = Vec::new();
    let mut growth = Vec::new();
    let mut tenths = vec![Vec::new(); 10];
    for _ in 0..args.repeats {
        let words = format!("unreaped --libos {libos} --count {} --core {near} --far-core {far}", args.count);
        let mut report = session.roles.report(&words)?;
        let speeds: Option<Vec<f64>> = report["pushes_per_s"]
            .as_array()
            .and_then(|speeds| speeds.iter().map(|speed| speed.as_f64()).collect());
        let speeds = speeds.filter(|speeds| speeds.len() == 10).context("a report lacks its tenths")?;
        for (tenth, speed) in tenths.iter_mut().zip(&speeds) {
            tenth.push(*speed);
        }
        ratios.push(speeds[9] / speeds[0]);
        growth.push(number(&report, "bytes_per_token")?);
        report["subject"] = libos.into();
        session.emit(&report);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let (ratio, growth) = (Spread::of(ratios), Spread::of(growth));
    session.emit(&json!({
        "subject": libos,
        "pushes": args.count,
        "repeats": args.repeats,
        "ratio": ratio.median,
        "ratio_quartiles": ratio.quartiles(),
        "bytes_per_token": growth.median,
    }));
    if session.json {
        return Ok(());
    }
    let speeds: Vec<_> = tenths
        .into_iter()
        .enumerate()
        .map(|(index, speeds)| (format!("{:>3} %", index * 10), Spread::of(speeds).median))
        .collect();
    println!("{} pushes on {libos}, none of them waited for", term::thousands(args.count as f64));
    term::bars("pushes per second, by tenths", &speeds, term::thousands);
    println!("growth per token   {:.1} bytes", growth.median);
    println!("ratio last / first {ratio}");
    Ok(())
}
