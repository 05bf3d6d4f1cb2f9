//! Catnap beside plain spinning sockets, both over the loopback interface.

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::super::stats::Spread;
use super::{Args, Exchange, Session, number};
use crate::term;

/// What one alternation yielded: the control's report and the subject's.
type Turn = [Value; 2];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let subjects = ["kernel", "catnap"];
    let progress = session.progress(args.alternations * 2);
    let turns = (0..args.alternations)
        .map(|index| turn(args, session, &progress, subjects, index))
        .collect::<Result<Vec<Turn>>>()?;
    progress.finish_and_clear();

    let ratios = |key: &str| -> Result<Vec<f64>> {
        turns.iter().map(|[control, ours]| Ok(number(ours, key)? / number(control, key)?)).collect()
    };
    let p50 = ratios("p50_ns")?;
    let (ratio_p50, ratio_p99) = (Spread::of(p50.iter().copied()), Spread::of(ratios("p99_ns")?));
    let throughput = Spread::of(ratios("msgs_per_s")?);
    session.emit(&json!({
        "subject": "catnap",
        "control": "kernel",
        "size": args.size,
        "window": args.window,
        "lockstep": args.lockstep,
        "alternations": args.alternations,
        "ratio_p50": ratio_p50.median,
        "ratio_p50_quartiles": ratio_p50.quartiles(),
        "ratio_p99": ratio_p99.median,
        "ratio_throughput": throughput.median,
        "ratio_throughput_quartiles": throughput.quartiles(),
    }));
    if session.json {
        return Ok(());
    }
    println!(
        "echo over TCP, {} B, {} outstanding, {} alternations",
        args.size, args.window, args.alternations
    );
    let all = |side: usize, key: &str| -> Result<f64> {
        let values = turns.iter().map(|turn| number(&turn[side], key)).collect::<Result<Vec<_>>>()?;
        Ok(Spread::of(values).median)
    };
    let mut rows = Vec::new();
    let mut medians = Vec::new();
    for (side, subject) in subjects.into_iter().enumerate() {
        let row = [
            subject.to_owned(),
            term::time(all(side, "p50_ns")?),
            term::time(all(side, "p99_ns")?),
            term::thousands(all(side, "msgs_per_s")?),
            term::time(all(side, "cacheline_ns")?),
        ];
        rows.push(row);
        medians.push((subject.to_owned(), all(side, "p50_ns")?));
    }
    println!("{}", term::table(&["subject", "p50", "p99", "messages/s", "cache line"], rows));
    term::bars("round trip, median of p50", &medians, term::time);
    term::distribution("ratio of p50, number of alternations", &p50);
    println!("ratio_p50        {ratio_p50}");
    println!("ratio_p99        {ratio_p99}");
    println!("ratio_throughput {throughput}");
    session.warn_of_company(turns.iter().flatten());
    Ok(())
}

/// Measures both subjects once, in alternating order, a cache-line ping-pong before each.
fn turn(
    args: &Args,
    session: &Session,
    bar: &ProgressBar,
    subjects: [&str; 2],
    index: usize,
) -> Result<Turn> {
    let exchange = Exchange::of(args);
    let mut turn = [Value::Null, Value::Null];
    for step in 0..2 {
        let side = (index + step) % 2;
        bar.set_message(subjects[side].to_owned());
        let cacheline = session.roles.cacheline()?;
        let mut report = exchange.measure(&session.roles, subjects[side])?;
        report["subject"] = subjects[side].into();
        report["alternation"] = index.into();
        report["cacheline_ns"] = cacheline.into();
        session.emit(&report);
        turn[side] = report;
        bar.inc(1);
    }
    Ok(turn)
}
