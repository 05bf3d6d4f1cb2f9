//! TCP echo over a libOS, beside the same over plain spinning sockets.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::stats::Spread;
use super::{Roles, Session, number};
use crate::term;

/// TCP echo, beside plain spinning sockets.
///
/// The control is a plain non-blocking echo: both ends spin on recv, one send per message, the server sends
/// back what one recv returned, and Nagle's algorithm is off. The subject does the same through the API: it
/// pushes the messages that are due and then waits for them, which may take fewer calls than messages. With
/// --lockstep it waits for each before it pushes the next, so that both make the same calls.
/// Server and client are fresh processes in every alternation, each on its core; a warm-up comes first.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The libOS
    #[arg(long, value_enum, default_value_t = Libos::Catnap)]
    libos: Libos,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages outstanding
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Wait for each push before the next
    #[arg(long)]
    lockstep: bool,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 24)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Messages to measure in each turn, instead of a time
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
}

/// One exchange to measure, by either subject.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) size: usize,
    pub(crate) window: usize,
    pub(crate) lockstep: bool,
    pub(crate) seconds: f64,
    pub(crate) count: Option<u64>,
    pub(crate) histogram: bool,
}

impl Exchange {
    /// Starts a server and a client, and returns the client's report.
    pub(crate) fn measure(&self, roles: &Roles, subject: &str) -> Result<Value> {
        let [near, far] = roles.cores();
        let mut server = roles.start(&format!("echo-server --subject {subject} --core {far}"))?;
        let address = server.address("listening")?;
        let Exchange { size, window, seconds, .. } = self;
        let mut words = format!(
            "echo-client --subject {subject} --core {near} --connect {address} \
             --size {size} --window {window} --seconds {seconds}"
        );
        if let Some(count) = self.count {
            words.push_str(&format!(" --count {count}"));
        }
        if self.lockstep {
            words.push_str(" --lockstep");
        }
        if self.histogram {
            words.push_str(" --histogram");
        }
        let report = roles.report(&words)?;
        server.finish()?;
        Ok(report)
    }
}

/// What one alternation yielded: the control's report and the subject's.
type Turn = [Value; 2];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
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
    let exchange = Exchange {
        size: args.size,
        window: args.window,
        lockstep: args.lockstep,
        seconds: args.seconds,
        count: args.count,
        histogram: false,
    };
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
