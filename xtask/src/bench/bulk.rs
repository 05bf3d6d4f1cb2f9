//! One connection, one direction: catnip against smoltcp over the same device.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// One connection, one direction, as much as goes: catnip against smoltcp over the same device.
///
/// The kernel's TCP over its own loopback stands beside them for orientation. All take turns. The last line holds
/// `ratio_smoltcp`, the median of catnip's throughput through smoltcp's, and what catnip copied of the payload in all
/// turns: `payload_copied_bytes` in segments above the copy threshold, `small_copied_bytes` in those below it, which go
/// next to their header or to a small neighbour that waits, `device_copied_frames` what a device copied that need not.
/// memif copies each frame once on either side by its nature; that is not counted there.
///
/// Over memif there is also `ratio_smoltcp_in_one_thread`: both ends take turns on one core, and what is compared is bytes
/// per time that the thread was running. It means something on a busy machine too, but leaves out what two cores cost.
///
/// AF_XDP runs over a veth pair between two network namespaces of its own, which takes root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device under catnip and smoltcp
    #[arg(long, value_enum, default_value_t = Device::Memif)]
    device: Device,
    /// Largest packet: 1500, or 9000 for jumbo frames
    #[arg(long, default_value_t = 1500)]
    mtu: usize,
    /// Turns that each gets
    #[arg(long, default_value_t = 15)]
    alternations: usize,
    /// Seconds of each turn
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Check every byte that arrives, which is slow: the speeds then mean nothing
    #[arg(long)]
    verify: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Device {
    Memif,
    AfXdp,
}

const SUBJECTS: [&str; 3] = ["smoltcp", "catnip", "kernel"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    ensure!((68..=16_000).contains(&args.mtu), "--mtu ranges from 68 to 16000");
    let link = match args.device {
        Device::Memif => Link::Memif,
        Device::AfXdp => Link::Veth(Veth::new(args.mtu)?),
    };
    let progress = session.progress(args.alternations * SUBJECTS.len());
    let mut turns: Vec<[Value; SUBJECTS.len()]> = Vec::new();
    for index in 0..args.alternations {
        let mut turn = [const { Value::Null }; SUBJECTS.len()];
        for step in 0..SUBJECTS.len() {
            let side = (index + step) % SUBJECTS.len();
            progress.set_message(SUBJECTS[side]);
            let mut report = measure(args, session, &link, SUBJECTS[side])?;
            report["alternation"] = index.into();
            session.emit(&report);
            turn[side] = report;
            progress.inc(1);
        }
        turns.push(turn);
    }
    progress.finish_and_clear();

    let speeds = |side: usize| -> Result<Vec<f64>> {
        turns.iter().map(|turn| number(&turn[side], "gbit_per_s")).collect()
    };
    let ratio = |to: usize| -> Result<Spread> {
        let pairs = speeds(1)?.into_iter().zip(speeds(to)?);
        Ok(Spread::of(pairs.map(|(ours, control)| ours / control)))
    };
    let sum = |key: &str| -> u64 { turns.iter().filter_map(|turn| turn[1][key].as_u64()).sum() };
    let (smoltcp, kernel) = (ratio(0)?, ratio(2)?);
    let in_one_thread = match link {
        Link::Memif => in_one_thread(args, session, &link)?,
        Link::Veth(_) => f64::NAN,
    };
    let last = json!({
        "subject": "catnip",
        "control": "smoltcp",
        "device": args.device.to_possible_value().map(|value| value.get_name().to_owned()),
        "mtu": args.mtu,
        "verified": args.verify,
        "alternations": args.alternations,
        "gbit_per_s": Spread::of(speeds(1)?).median,
        "gbit_per_s_smoltcp": Spread::of(speeds(0)?).median,
        "gbit_per_s_kernel": Spread::of(speeds(2)?).median,
        "bytes": sum("bytes"),
        "payload_copied_bytes": sum("payload_copied_bytes"),
        "small_copied_bytes": sum("small_copied_bytes"),
        "device_copied_frames": sum("device_copied_frames"),
        "retransmitted": sum("retransmitted"),
        "ratio_smoltcp_in_one_thread": in_one_thread,
        "ratio_smoltcp": smoltcp.median,
        "ratio_smoltcp_quartiles": smoltcp.quartiles(),
        "ratio_kernel": kernel.median,
    });
    session.emit(&last);
    if session.json {
        return Ok(());
    }
    println!("one connection, one direction, MTU {}, {} alternations", args.mtu, args.alternations);
    let mut medians = Vec::new();
    for (side, subject) in SUBJECTS.into_iter().enumerate() {
        medians.push((subject.to_owned(), Spread::of(speeds(side)?).median));
    }
    term::bars("Gbit/s", &medians, |value| format!("{value:.2}"));
    for key in ["payload_copied_bytes", "small_copied_bytes", "device_copied_frames", "retransmitted"] {
        println!("{key:<20} {}", last[key]);
    }
    println!("ratio_smoltcp        {smoltcp}, {in_one_thread:.3} in one thread");
    println!("ratio_kernel         {kernel}");
    Ok(())
}

/// One transfer over one of the subjects.
fn measure(args: &Args, session: &Session, link: &Link, subject: &str) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let verify = if args.verify { "--verify" } else { "" };
    // The kernel's loopback is this namespace's.
    let words = |side| if subject == "kernel" { String::new() } else { link.words(args, side) };
    let mut receiver = session
        .roles
        .start(&format!("bulk-receive --subject {subject} --core {far} --spin {verify} {}", words(0)))?;
    let address = receiver.address("listening")?;
    let sent = session.roles.report(&format!(
        "bulk-send --subject {subject} --core {near} --connect {address} --seconds {} --spin {verify} {}",
        args.seconds,
        words(1)
    ))?;
    let received = receiver.read()?;
    receiver.finish()?;
    if sent["bytes"] != received["bytes"] {
        bail!("{subject}: of {} bytes that were sent, {} arrived", sent["bytes"], received["bytes"]);
    }
    let both = |keys: &[&str]| -> u64 {
        let reports = [&sent, &received];
        reports.iter().flat_map(|report| keys.iter().filter_map(|key| report[key].as_u64())).sum()
    };
    let mut report = json!({
        "subject": subject,
        "gbit_per_s": number(&received, "gbit_per_s")?,
        "bytes": received["bytes"],
    });
    if subject == "catnip" {
        report["payload_copied_bytes"] = both(&["tcp_copied_large_bytes"]).into();
        report["small_copied_bytes"] = both(&["tcp_copied_bytes", "heap_joined_bytes"]).into();
        report["device_copied_frames"] = both(&["xdp_rx_copied", "xdp_tx_copied"]).into();
        report["retransmitted"] = both(&["tcp_retransmitted"]).into();
        report["timeouts"] = both(&["tcp_timeouts"]).into();
        report["segments"] = sent["tcp_sent"].clone();
        report["acknowledgements"] = received["tcp_sent"].clone();
    }
    Ok(report)
}

/// Catnip's bytes per time of one core through smoltcp's: the median of some turns. Those in which smoltcp comes to a
/// stand, as it does at times with nobody else to wake it, are left out.
fn in_one_thread(args: &Args, session: &Session, link: &Link) -> Result<f64> {
    let [near, _] = session.roles.cores();
    let words = link.words(args, 0);
    let speed = |subject: &str| -> Result<f64> {
        let role = format!("bulk-pair --subject {subject} --core {near} --mib 128 --spin {words}");
        number(&session.roles.report(&role)?, "gbit_per_cpu_s")
    };
    let mut ratios = Vec::new();
    for _ in 0..args.alternations.min(5) {
        let ours = speed("catnip")?;
        match speed("smoltcp") {
            Ok(theirs) => ratios.push(ours / theirs),
            Err(error) => eprintln!("smoltcp in one thread: {error:#}"),
        }
    }
    Ok(Spread::of(ratios).median)
}

/// What both ends hang on.
enum Link {
    Memif,
    Veth(Veth),
}

impl Link {
    /// The words that tell one end about it.
    fn words(&self, args: &Args, side: usize) -> String {
        match self {
            Link::Memif => {
                format!("--device memif --mtu {} --socket @demi-bulk-{}", args.mtu, std::process::id())
            }
            Link::Veth(veth) => {
                format!("--device af-xdp --interface {VETH} --netns /run/netns/{}", veth.names[side])
            }
        }
    }
}

/// The interface at either end.
const VETH: &str = "v0";

/// Two network namespaces with a veth pair between them; they go with the value.
struct Veth {
    names: [String; 2],
}

impl Veth {
    fn new(mtu: usize) -> Result<Veth> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "AF_XDP needs network namespaces of its own, and they need root: run this as root"
        );
        let veth = Veth { names: ["a", "b"].map(|side| format!("demi-bulk-{}{side}", std::process::id())) };
        let [a, b] = &veth.names;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("link add {VETH} netns {a} mtu {mtu} type veth peer name {VETH} netns {b} mtu {mtu}"))?;
        for name in &veth.names {
            ip(&format!("-n {name} link set {VETH} addrgenmode none"))?;
            ip(&format!("-n {name} link set {VETH} up"))?;
        }
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(words: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .context("cannot run `ip`: install iproute2")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
