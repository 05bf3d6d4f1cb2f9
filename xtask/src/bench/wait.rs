//! Cost of a completion beside many idle queues, against the same beside few.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::json;

use super::callgrind::Callgrind;
use super::role::Role;
use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// Idle queues of the control.
const FEW: usize = 10;

/// Alternations that one look at the cache line stands for.
const CACHELINE_EVERY: usize = 10;

/// Cost of a completion beside many idle queues, against the same beside 10.
///
/// Two processes with one active connection each, one with N idle queues and one with 10, take turns on one
/// core; every idle queue has an outstanding pop. On catnap idle queues are UDP sockets, of which a process
/// may have as many as it may have descriptors (the soft limit is raised to the hard one).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The libOS; `loopback` is an in-process one, and so shows the layer above
    #[arg(long, value_enum, default_value_t = Libos::Catnap)]
    libos: Libos,
    /// Idle queues
    #[arg(long, default_value_t = 15_000)]
    idle: usize,
    /// How to wait: for one token, for the next of all, or on a wait set that holds the idle tokens too
    #[arg(long, value_enum, default_value_t = How::NextN)]
    how: How,
    /// Turns that each gets
    #[arg(long, default_value_t = 120)]
    alternations: usize,
    /// Count instructions per completion too, by callgrind
    #[arg(long)]
    instr: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
    Loopback,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum How {
    One,
    NextN,
    Set,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    let idle = [FEW, args.idle];
    let mut sides = [start(args, session, FEW)?, start(args, session, args.idle)?];
    for side in &mut sides {
        side.read()?;
    }
    // Some milliseconds, so that a slice in which other programs got the core is one of few. Each operation is
    // two completions.
    let slice = match args.libos {
        Libos::Catnap => 1000,
        Libos::Loopback => 20_000,
    };
    let progress = session.progress(args.alternations);
    let mut cacheline = f64::NAN;
    let mut costs = [Vec::new(), Vec::new()];
    for index in 0..args.alternations {
        if index % CACHELINE_EVERY == 0 {
            cacheline = session.roles.cacheline()?;
        }
        for step in 0..2 {
            let side = (index + step) % 2;
            sides[side].tell(&slice.to_string())?;
            let mut report = sides[side].read()?;
            costs[side].push(number(&report, "ns_per_completion")?);
            report["subject"] = format!("{} idle", idle[side]).into();
            report["idle"] = idle[side].into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    for side in sides {
        side.finish()?;
    }

    let [few, many] = &costs;
    let ratio = Spread::of(few.iter().zip(many).map(|(few, many)| many / few));
    let mut last = json!({
        "libos": name(args.libos),
        "idle": args.idle,
        "control_idle": FEW,
        "how": name(args.how),
        "alternations": args.alternations,
        "ratio": ratio.median,
        "ratio_quartiles": ratio.quartiles(),
    });
    let instructions = if args.instr { Some(instructions(args, session)?) } else { None };
    if let Some([few, many]) = instructions {
        last["instructions"] = json!([few, many]);
        last["ratio_instructions"] = json!(many / few);
    }
    session.emit(&last);
    if session.json {
        return Ok(());
    }
    let rows = [0, 1].map(|side: usize| {
        let cost = Spread::of(costs[side].iter().copied());
        let counted = instructions.map_or("–".to_owned(), |counted| format!("{:.0}", counted[side]));
        let label = format!("{} idle", term::thousands(idle[side] as f64));
        [label, term::time(cost.median), term::time(cost.lower), term::time(cost.upper), counted]
    });
    println!("cost per completion on {}, {} alternations", name(args.libos), args.alternations);
    println!(
        "{}",
        term::table(&["subject", "median", "lower quartile", "upper quartile", "instructions"], rows)
    );
    let medians = [0, 1].map(|side: usize| {
        (
            format!("{} idle", term::thousands(idle[side] as f64)),
            Spread::of(costs[side].iter().copied()).median,
        )
    });
    term::bars("cost per completion", &medians, term::time);
    println!("ratio {ratio}");
    Ok(())
}

fn start(args: &Args, session: &Session, idle: usize) -> Result<Role> {
    session.roles.start(&words(args, session, idle))
}

fn words(args: &Args, session: &Session, idle: usize) -> String {
    let core = session.roles.cores()[0];
    format!("wait --libos {} --how {} --idle {idle} --core {core}", name(args.libos), name(args.how))
}

/// Instructions per completion, beside few and beside many.
fn instructions(args: &Args, session: &Session) -> Result<[f64; 2]> {
    let callgrind = Callgrind::find()?;
    let mut counted = [0.0; 2];
    for (side, idle) in [FEW, args.idle].into_iter().enumerate() {
        let words = words(args, session, idle);
        let per_operation = callgrind.per_unit(session.roles.program(), 1000, 11_000, |operations| {
            format!("{words} --once {operations}")
        })?;
        counted[side] = per_operation / 2.0;
    }
    Ok(counted)
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}
