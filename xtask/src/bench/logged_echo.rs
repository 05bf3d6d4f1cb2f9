//! An echo that is durable before it is sent back, beside the echo and the write that it consists of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::link::{Device, End, Link, Over};
use super::log::LoopDevice;
use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// TCP echo whose server makes each message durable in a log before it sends it back (SOSP'21, §7.3), beside the same echo
/// without a log and a durable write of a bare io_uring.
///
/// catnap runs over the loopback interface, catnip over --device. The last line of each holds `ratio_p50`, the median of the
/// logged echo's p50 through the sum of the other two in the same alternation.
///
/// Without --path the log is on a loop device over memory, which this makes and removes; this needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The network libOS; both, one after the other, if none is named
    #[arg(long, value_enum)]
    libos: Option<Libos>,
    /// The NIC under catnip
    #[arg(long, value_enum, default_value_t = Device::Memif)]
    device: Device,
    /// A file or block device for the log, whose content is LOST
    #[arg(long)]
    path: Option<PathBuf>,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Turns that each gets
    #[arg(long, default_value_t = 12)]
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

const PARTS: [&str; 3] = ["echo", "write", "logged echo"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    let loop_device = match &args.path {
        Some(_) => None,
        None => Some(LoopDevice::new(1024)?),
    };
    let path = args.path.as_deref().or(loop_device.as_ref().map(|device| device.path.as_path()));
    let path = path.context("there is a path, given or made")?;
    for libos in [Libos::Catnap, Libos::Catnip] {
        if args.libos.is_none_or(|named| named == libos) {
            compare(args, session, path, libos)?;
        }
    }
    Ok(())
}

fn compare(args: &Args, session: &Session, path: &Path, libos: Libos) -> Result<()> {
    let (name, link) = match libos {
        Libos::Catnap => ("catnap", None),
        Libos::Catnip => ("catnip", Some(Link::set_up(args.device, 1500)?)),
    };
    let progress = session.progress(args.alternations * PARTS.len());
    let mut reports: [Vec<Value>; 3] = Default::default();
    for index in 0..args.alternations {
        for step in 0..PARTS.len() {
            let part = (index + step) % PARTS.len();
            progress.set_message(format!("{name}, {}", PARTS[part]));
            let cacheline = session.roles.cacheline()?;
            let mut report = match part {
                0 => echo(args, session, name, link.as_ref(), None)?,
                1 => write(args, session, path)?,
                _ => echo(args, session, name, link.as_ref(), Some(path))?,
            };
            report["subject"] = name.into();
            report["part"] = PARTS[part].into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
            reports[part].push(report);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let p50 =
        |part: usize| reports[part].iter().map(|report| number(report, "p50_ns")).collect::<Result<Vec<_>>>();
    let (echo, write, logged) = (p50(0)?, p50(1)?, p50(2)?);
    let sums = echo.iter().zip(&write).map(|(echo, write)| echo + write);
    let ratio = Spread::of(logged.iter().zip(sums).map(|(logged, sum)| logged / sum));
    session.emit(&json!({
        "subject": name,
        "size": args.size,
        "alternations": args.alternations,
        "p50_echo_ns": Spread::of(echo.iter().copied()).median,
        "p50_write_ns": Spread::of(write.iter().copied()).median,
        "p50_logged_echo_ns": Spread::of(logged.iter().copied()).median,
        "ratio_p50": ratio.median,
        "ratio_p50_quartiles": ratio.quartiles(),
    }));
    if session.json {
        return Ok(());
    }
    println!("{name}: logged echo, {} B, {} alternations", args.size, args.alternations);
    let bars: Vec<_> = PARTS.into_iter().zip([echo, write, logged]).collect();
    let bars: Vec<_> =
        bars.into_iter().map(|(part, p50)| (part.to_owned(), Spread::of(p50).median)).collect();
    term::bars("median of p50", &bars, term::time);
    println!("ratio_p50 {ratio}");
    session.warn_of_company(reports.iter().flatten());
    Ok(())
}

fn write(args: &Args, session: &Session, path: &Path) -> Result<Value> {
    let [_, core] = session.roles.cores();
    let kib = 4 * (args.size + 48).div_ceil(4096);
    session.roles.report(&format!(
        "log-raw --path {} --core {core} --seconds {} --direction write --kib {kib}",
        path.display(),
        args.seconds
    ))
}

fn echo(
    args: &Args,
    session: &Session,
    name: &str,
    link: Option<&Link>,
    log: Option<&Path>,
) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let log = log.map(|path| format!("--log {}", path.display())).unwrap_or_default();
    let server = format!("echo-server --subject {name} --core {far} {log}");
    let client =
        format!("echo-client --subject {name} --core {near} --size {} --seconds {}", args.size, args.seconds);
    let (mut server, words) = match link {
        None => (session.roles.start(&server)?, String::new()),
        Some(link) => {
            let [at_server, at_client] = link.words(Over::Nic);
            (link.start(&session.roles, End::Server, Over::Nic, &format!("{server} {at_server}"))?, at_client)
        }
    };
    let address = server.address("listening")?;
    let client = format!("{client} --connect {address} {words}");
    let mut client = match link {
        None => session.roles.start(&client)?,
        Some(link) => link.start(&session.roles, End::Client, Over::Nic, &client)?,
    };
    let report = client.read()?;
    client.finish()?;
    while server.read_more()?.is_some() {}
    server.finish()?;
    Ok(report)
}
