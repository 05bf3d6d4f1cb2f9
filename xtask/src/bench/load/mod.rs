//! Latency against offered load, and against the size of messages.
//!
//! - [`points`]: what was measured, by what it was measured for
//! - [`picture`]: the same as an image; [`text`]: for a terminal

mod picture;
mod points;
mod text;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::points::{Points, Spot};
use super::link::{Device, End, Link, Over};
use super::{Session, number};

/// Latency against offered load, over 1 to 64 connections, and against the size of messages.
///
/// Both ends are catnip over --device; the control is plain spinning TCP (over loopback for memif, over veth
/// otherwise; recv with one connection, epoll with more). First each subject's peak is measured with 32 messages
/// outstanding. Then messages leave at shares of that peak on a schedule of random gaps that heeds no answer, and
/// latency counts from when a message was due, so that a stall costs all that would have come meanwhile. Last come
/// sizes: latency with one message outstanding, throughput with up to 512 KiB. Every point is measured in
/// fresh processes, catnip and control in turns, and stands for the median of all alternations.
///
/// Draws an SVG and says where it is; a table and bars beside it, or with --json one object per point and turn.
/// memif needs no privilege; af_xdp and tap need root and make network namespaces, which go with this program.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The NIC
    #[arg(long, value_enum, default_value_t = Device::Memif)]
    device: Device,
    /// Numbers of connections, each a curve
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    connections: Vec<usize>,
    /// Offered loads, in percent of the peak
    #[arg(long, value_delimiter = ',', default_value = "10,30,50,70,80,90,95")]
    shares: Vec<u32>,
    /// Bytes per message under load
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Bytes per message in the sweep
    #[arg(long, value_delimiter = ',', default_value = "64,256,1024,4096,16384,65536,262144")]
    sizes: Vec<usize>,
    /// Turns that each point gets
    #[arg(long, default_value_t = 3)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Where to draw [default: bench-load.svg in cargo's target directory]
    #[arg(long)]
    picture: Option<PathBuf>,
}

impl Args {
    /// The NIC that both ends will use.
    pub(super) fn device(&self) -> Option<Device> {
        Some(self.device)
    }
}

/// The subject and its control, as they appear everywhere.
const SUBJECTS: [&str; 2] = ["catnip", "kernel"];

/// The MTU of every device.
const MTU: usize = 1500;

/// Messages outstanding over all connections when the peak is measured.
const PEAK_WINDOW: usize = 32;

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    check(args)?;
    let link = Link::set_up(args.device, MTU)?;
    let (peaks, loads, sizes) =
        (args.connections.len(), args.connections.len() * args.shares.len(), args.sizes.len() * 2);
    let progress = session.progress((peaks + loads + sizes) * args.alternations * SUBJECTS.len());
    let mut points = Points::default();
    let turn = |points: &mut Points, spot: Spot, index: usize, rates: [Option<f64>; 2]| {
        let cacheline = session.roles.cacheline()?;
        for step in 0..SUBJECTS.len() {
            let side = (index + step) % SUBJECTS.len();
            progress.set_message(SUBJECTS[side]);
            let mut report = measure(args, session, &link, SUBJECTS[side], spot, rates[side])
                .with_context(|| format!("{} over {}", SUBJECTS[side], args.device.name()))?;
            spot.describe(&mut report);
            report["subject"] = SUBJECTS[side].into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
            points.add(SUBJECTS[side], spot, report);
            progress.inc(1);
        }
        anyhow::Ok(())
    };
    for index in 0..args.alternations {
        for connections in &args.connections {
            turn(&mut points, Spot::Peak { connections: *connections }, index, [None; 2])?;
        }
    }
    for index in 0..args.alternations {
        for connections in &args.connections {
            let peak = Spot::Peak { connections: *connections };
            let peaks = SUBJECTS.map(|subject| points.median(subject, peak, "msgs_per_s"));
            for share in &args.shares {
                let spot = Spot::Load { connections: *connections, share: *share };
                let rates = peaks.map(|peak| Some((peak * f64::from(*share) / 100.0).max(1.0)));
                turn(&mut points, spot, index, rates)?;
            }
        }
        for size in &args.sizes {
            turn(&mut points, Spot::Latency { size: *size }, index, [None; 2])?;
            turn(&mut points, Spot::throughput(*size), index, [None; 2])?;
        }
    }
    progress.finish_and_clear();
    let path = match &args.picture {
        Some(path) => path.clone(),
        None => {
            let target = session.roles.program().parent().and_then(|release| release.parent());
            target
                .context("the release binaries lie in a directory of the target directory")?
                .join("bench-load.svg")
        }
    };
    picture::draw(&path, args, &points).with_context(|| format!("cannot draw {}", path.display()))?;
    session.emit(&last(args, &points, &path));
    if !session.json {
        text::print(args, &points);
        println!("picture: {}", path.display());
        session.warn_of_company(points.reports());
    }
    Ok(())
}

fn check(args: &Args) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    ensure!(
        !args.connections.is_empty() && !args.shares.is_empty(),
        "--connections and --shares need values"
    );
    ensure!(
        args.connections.iter().all(|count| (1..=1024).contains(count)),
        "--connections range from 1 to 1024"
    );
    ensure!(
        args.shares.iter().all(|share| (1..=500).contains(share)),
        "--shares range from 1 to 500 percent"
    );
    let mut sizes = args.sizes.iter().chain([&args.size]);
    ensure!(sizes.all(|size| (1..=1 << 20).contains(size)), "--size and --sizes range from 1 to 1048576");
    Ok(())
}

/// One turn of a subject at one point: a server and a client, started afresh.
fn measure(
    args: &Args,
    session: &Session,
    link: &Link,
    subject: &str,
    spot: Spot,
    rate: Option<f64>,
) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let over = if subject == "kernel" { Over::Kernel } else { Over::Nic };
    let [at_server, at_client] = link.words(over);
    let (connections, size, pace) = match spot {
        Spot::Peak { connections } => {
            (connections, args.size, format!("--window {}", PEAK_WINDOW.div_ceil(connections)))
        }
        Spot::Load { connections, .. } => {
            let rate = rate.filter(|rate| rate.is_finite()).context("no peak was measured")?;
            (connections, args.size, format!("--rate {rate}"))
        }
        Spot::Latency { size } => (1, size, "--window 1".to_owned()),
        Spot::Throughput { size, window } => (1, size, format!("--window {window}")),
    };
    let words =
        format!("load-server --subject {subject} --connections {connections} --core {far} {at_server}");
    // Ended without ceremony: what a client leaves behind that was overrun may take long to deliver.
    let mut server = link.start(&session.roles, End::Server, over, &words)?;
    let address = server.address("listening")?;
    let words = format!(
        "load-client --subject {subject} --connections {connections} --core {near} --connect {address} \
         {at_client} --size {size} --seconds {} {pace}",
        args.seconds
    );
    let mut client = link.start(&session.roles, End::Client, over, &words)?;
    let report = client.read()?;
    client.finish()?;
    Ok(report)
}

/// The last line: medians by connections and by sizes, in the order of the arguments.
fn last(args: &Args, points: &Points, path: &std::path::Path) -> Value {
    let half = args.shares.iter().min_by_key(|share| share.abs_diff(50)).copied().unwrap_or(50);
    let by_connections = |subject: &str, spot: &dyn Fn(usize) -> Spot, key: &str| -> Vec<f64> {
        args.connections.iter().map(|count| points.median(subject, spot(*count), key)).collect()
    };
    let over_connections = |spot: &dyn Fn(usize) -> Spot, key: &str| -> Vec<f64> {
        args.connections.iter().map(|count| points.ratio(spot(*count), key)).collect()
    };
    let over_sizes = |spot: &dyn Fn(usize) -> Spot, key: &str| -> Vec<f64> {
        args.sizes.iter().map(|size| points.ratio(spot(*size), key)).collect()
    };
    let peak = |connections| Spot::Peak { connections };
    let load = |connections| Spot::Load { connections, share: half };
    json!({
        "subject": SUBJECTS[0],
        "control": SUBJECTS[1],
        "device": args.device.name(),
        "size": args.size,
        "alternations": args.alternations,
        "picture": path.display().to_string(),
        "connections": args.connections,
        "peak_msgs_per_s": by_connections(SUBJECTS[0], &peak, "msgs_per_s"),
        "peak_msgs_per_s_control": by_connections(SUBJECTS[1], &peak, "msgs_per_s"),
        "ratio_peak": over_connections(&peak, "msgs_per_s"),
        "share_percent": half,
        "p50_ns_at_share": by_connections(SUBJECTS[0], &load, "p50_ns"),
        "p99_ns_at_share": by_connections(SUBJECTS[0], &load, "p99_ns"),
        "ratio_p50_at_share": over_connections(&load, "p50_ns"),
        "ratio_p99_at_share": over_connections(&load, "p99_ns"),
        "sizes": args.sizes,
        "ratio_p50_by_size": over_sizes(&|size| Spot::Latency { size }, "p50_ns"),
        "ratio_throughput_by_size":
            over_sizes(&Spot::throughput, "msgs_per_s"),
    })
}
