//! An echo that is durable before it is sent back, beside the echo and the write that it consists of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Session;
use super::link::{Device, End, Link, Over};
use super::log::LoopDevice;
use super::stats::Spread;
use super::turns::{Libos, Reports, Turns};

/// TCP echo whose server makes each message durable in a log before it sends it back (SOSP'21, §7.3), beside the same echo
/// without a log and a durable write of a bare io_uring.
///
/// catnap runs over the loopback interface, catnip over --device. The last line of each holds `ratio_p50`, the median of the
/// logged echo's p50 through the sum of the other two in the same alternation.
///
/// Without --path the log is on a loop device over memory, which this makes and removes; this needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    turns: Turns,
    /// Turns that each gets
    #[arg(long, default_value_t = 12)]
    alternations: usize,
    /// The NIC under catnip
    #[arg(long, value_enum, default_value_t = Device::Memif)]
    device: Device,
    /// A file or block device for the log, whose content is LOST
    #[arg(long)]
    path: Option<PathBuf>,
}

const PARTS: [&str; 3] = ["echo", "write", "logged echo"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let loop_device = match &args.path {
        Some(_) => None,
        None => Some(LoopDevice::new(1024)?),
    };
    let path = args.path.as_deref().or(loop_device.as_ref().map(|device| device.path.as_path()));
    let path = path.context("there is a path, given or made")?;
    for libos in args.turns.liboses() {
        compare(args, session, path, libos)?;
    }
    Ok(())
}

fn compare(args: &Args, session: &Session, path: &Path, libos: Libos) -> Result<()> {
    let link = match libos {
        Libos::Catnap => None,
        Libos::Catnip => Some(Link::set_up(args.device, 1500)?),
    };
    let (name, turns, alternations) = (libos.name(), &args.turns, args.alternations);
    let reports = Reports::gather(session, PARTS, alternations, name, |_, part| match part {
        0 => echo(turns, session, name, link.as_ref(), None),
        1 => write(turns, session, path),
        _ => echo(turns, session, name, link.as_ref(), Some(path)),
    })?;
    let [echo, write, logged] = reports.p50()?;
    let sums = echo.iter().zip(&write).map(|(echo, write)| echo + write);
    let ratio = Spread::of(logged.iter().zip(sums).map(|(logged, sum)| logged / sum));
    session.emit(&json!({
        "subject": name,
        "size": turns.size,
        "alternations": alternations,
        "p50_echo_ns": Spread::of(echo.iter().copied()).median,
        "p50_write_ns": Spread::of(write.iter().copied()).median,
        "p50_logged_echo_ns": Spread::of(logged.iter().copied()).median,
        "ratio_p50": ratio.median,
        "ratio_p50_quartiles": ratio.quartiles(),
    }));
    if !session.json {
        println!("{name}: logged echo, {} B, {alternations} alternations", turns.size);
        reports.show(session, [echo, write, logged], &ratio);
    }
    Ok(())
}

fn write(args: &Turns, session: &Session, path: &Path) -> Result<Value> {
    let [_, core] = session.roles.cores();
    let kib = 4 * (args.size + 48).div_ceil(4096);
    session.roles.report(&format!(
        "log-raw --path {} --core {core} --seconds {} --direction write --kib {kib}",
        path.display(),
        args.seconds
    ))
}

fn echo(
    args: &Turns,
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
