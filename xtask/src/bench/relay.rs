//! A UDP relay over a libOS, beside one over plain sockets and one over io_uring.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::link::{Device, End, Link, Over};
use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// UDP relay, beside one over plain spinning sockets and one over io_uring.
///
/// A client sends a datagram to the relay and spins on the socket to which the relay passes it on; the time
/// between is taken. Client and sink share one core, the relay has the other. The last line holds ratios to
/// the relay over plain sockets.
///
/// --libos catnap: all run over the loopback interface. --libos catnip: the client is at the other end of a veth pair,
/// and the relay is catnip over AF_XDP, or on sockets of the kernel over the same pair. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The libOS
    #[arg(long, value_enum, default_value_t = Libos::Catnap)]
    libos: Libos,
    /// Bytes per datagram
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 20)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
    Catnip,
}

/// The relay over the libOS stands for it last.
const SUBJECTS: [&str; 3] = ["kernel", "io-uring", "libos"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    let link = match args.libos {
        Libos::Catnap => None,
        Libos::Catnip => Some(Link::set_up(Device::AfXdp, 1500)?),
    };
    if let Some(link) = &link {
        link.admit_kernel_clients()?;
    }
    let name = |side: usize| match (SUBJECTS[side], args.libos) {
        ("libos", Libos::Catnap) => "catnap",
        ("libos", Libos::Catnip) => "catnip",
        (name, _) => name,
    };
    let measure = |subject: &str, seconds: f64| measure(args, session, link.as_ref(), subject, seconds);
    let mut subjects: Vec<usize> = (0..SUBJECTS.len()).collect();
    if let Err(error) = measure("io-uring", 0.01) {
        eprintln!("io_uring is left out: {error:#}");
        subjects.retain(|subject| SUBJECTS[*subject] != "io-uring");
    }
    let progress = session.progress(args.alternations * subjects.len());
    let mut reports: [Vec<Value>; 3] = Default::default();
    for index in 0..args.alternations {
        // Each order comes as often as its reverse, so that drift cancels out.
        let mut order = subjects.clone();
        order.rotate_left(index / 2 % subjects.len());
        if index % 2 == 1 {
            order.reverse();
        }
        for side in order {
            progress.set_message(name(side));
            let cacheline = session.roles.cacheline()?;
            let mut report = measure(name(side), args.seconds)?;
            report["subject"] = name(side).into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
            reports[side].push(report);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();

    let ratio = |side: usize| -> Result<Spread> {
        let pairs = reports[0].iter().zip(&reports[side]);
        let ratios = pairs.map(|(control, ours)| Ok(number(ours, "p50_ns")? / number(control, "p50_ns")?));
        Ok(Spread::of(ratios.collect::<Result<Vec<_>>>()?))
    };
    let (uring, ours) = (ratio(1)?, ratio(2)?);
    session.emit(&json!({
        "subject": name(2),
        "control": "kernel",
        "size": args.size,
        "alternations": args.alternations,
        "ratio_p50": ours.median,
        "ratio_p50_quartiles": ours.quartiles(),
        "ratio_p50_io_uring": if uring.median.is_nan() { Value::Null } else { uring.median.into() },
    }));
    if session.json {
        return Ok(());
    }
    let median = |side: usize, key: &str| {
        let values = reports[side].iter().map(|report| number(report, key)).collect::<Result<Vec<_>>>();
        values.map(|values| Spread::of(values).median)
    };
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for side in subjects {
        let (p50, p99) = (median(side, "p50_ns")?, median(side, "p99_ns")?);
        let row = [name(side).to_owned(), term::time(p50), term::time(p99), ratio(side)?.to_string()];
        rows.push(row);
        bars.push((name(side).to_owned(), p50));
    }
    println!("UDP relay, {} B, {} alternations", args.size, args.alternations);
    println!("{}", term::table(&["subject", "p50", "p99", "ratio of p50 to kernel"], rows));
    term::bars("client to sink, median of p50", &bars, term::time);
    println!("ratio_p50 {ours}");
    session.warn_of_company(reports.iter().flatten());
    Ok(())
}

fn measure(
    args: &Args,
    session: &Session,
    link: Option<&Link>,
    subject: &str,
    seconds: f64,
) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let size = args.size;
    let client = format!("relay-client --size {size} --seconds {seconds} --core {near}");
    let relay = format!("relay --subject {subject} --core {far} --to");
    let over = if subject == "catnip" { Over::Nic } else { Over::Kernel };
    let mut client = match link {
        None => session.roles.start(&client)?,
        Some(link) => {
            let words = link.words_of_kernel_client(over);
            link.start(&session.roles, End::Client, Over::Kernel, &format!("{client} {words}"))?
        }
    };
    let sink = client.address("sink")?;
    let mut relay = match link {
        None => session.roles.start(&format!("{relay} {sink}"))?,
        Some(link) => {
            let [words, _] = link.words(over);
            link.start(&session.roles, End::Server, over, &format!("{relay} {sink} {words}"))?
        }
    };
    let address = relay.address("listening")?;
    client.tell(&address)?;
    let report = client.read()?;
    client.finish()?;
    relay.finish()?;
    Ok(report)
}
