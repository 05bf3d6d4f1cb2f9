//! Many established connections, all idle but one: memory of each, and latency of the one.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::role::Role;
use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// What each connection may keep.
const LIMIT: f64 = 1024.0;

/// Many established TCP connections over catnip and memif, all of them idle but one.
///
/// Two pairs of processes: one with the active connection only, one with N idle ones beside it; they take turns.
/// `bytes_per_idle_connection` is what the resident memory (VmRSS) and the live heap of the server's process grow by from
/// the active connection alone to all of them accepted, each with its descriptor, by their number; the process holds the
/// server's ends only. `bytes_with_pop` is the same with a pop outstanding on each. `ratio_p50` is the median round trip
/// beside all of them by that beside none.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Idle connections
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Turns that each pair gets
    #[arg(long, default_value_t = 60)]
    alternations: usize,
    /// Round trips of a turn
    #[arg(long, default_value_t = 5000)]
    exchanges: u64,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    ensure!((1..=1_000_000).contains(&args.count), "--count ranges from 1 to 1000000");
    let progress = session.progress(args.alternations * 2);
    let mut alone = Pair::start(session, 0)?;
    let mut among = Pair::start(session, args.count)?;
    progress.set_message("connecting");
    among.client.tell("open")?;
    let opened = among.client.read()?;
    let mut memory = among.server.read()?;
    memory["connections_per_s"] = opened["connections_per_s"].clone();
    session.emit(&memory);
    progress.set_message("echo");
    let mut turns: Vec<[f64; 2]> = Vec::new();
    for index in 0..args.alternations {
        let mut turn = [f64::NAN; 2];
        for step in 0..2 {
            let side = (index + step) % 2;
            let pair = if side == 0 { &mut alone } else { &mut among };
            pair.client.tell(&format!("echo {}", args.exchanges))?;
            let mut report = pair.client.read()?;
            turn[side] = number(&report, "p50_ns")?;
            report["idle"] = pair.idle.into();
            report["alternation"] = index.into();
            session.emit(&report);
            progress.inc(1);
        }
        turns.push(turn);
    }
    alone.end()?;
    among.end()?;
    progress.finish_and_clear();

    let p50 = |side: usize| Spread::of(turns.iter().map(|turn| turn[side]));
    let ratios: Vec<f64> = turns.iter().map(|[alone, among]| among / alone).collect();
    let ratio = Spread::of(ratios.iter().copied());
    let bytes = number(&memory, "bytes_per_idle_connection")?;
    let last = json!({
        "subject": "catnip",
        "device": "memif",
        "connections": args.count,
        "bytes_per_idle_connection": bytes,
        "bytes_with_pop": memory["bytes_with_pop"],
        "measured_by": "growth of VmRSS and of the live heap of the server's process",
        "connections_per_s": opened["connections_per_s"],
        "p50_ns": p50(1).median,
        "p50_ns_alone": p50(0).median,
        "ratio_p50": ratio.median,
        "ratio_p50_quartiles": ratio.quartiles(),
    });
    session.emit(&last);
    if session.json {
        return Ok(());
    }
    println!("{} idle connections", term::thousands(args.count as f64));
    println!(
        "bytes per idle connection {bytes:.0} of {LIMIT} ({} with a pop)",
        whole(&memory, "bytes_with_pop")?
    );
    println!("connections per second    {}", whole(&opened, "connections_per_s")?);
    term::bars(
        "round trip, median of p50",
        &[("alone".to_owned(), p50(0).median), ("among all".to_owned(), p50(1).median)],
        term::time,
    );
    term::distribution("ratio of p50, number of alternations", &ratios);
    println!("ratio_p50 {ratio}");
    Ok(())
}

fn whole(report: &Value, key: &str) -> Result<String> {
    Ok(term::thousands(number(report, key)?))
}

/// A server and its client.
struct Pair {
    server: Role,
    client: Role,
    idle: usize,
}

impl Pair {
    fn start(session: &Session, idle: usize) -> Result<Pair> {
        let [near, far] = session.roles.cores();
        let nic = format!("--device memif --socket @demi-conns-{}-{idle} --count {idle}", std::process::id());
        let mut server = session.roles.start(&format!("conns-server --core {far} {nic}"))?;
        server.address("listening")?;
        let mut client = session.roles.start(&format!("conns-client --core {near} {nic}"))?;
        client.read()?;
        Ok(Pair { server, client, idle })
    }

    fn end(self) -> Result<()> {
        self.client.finish()?;
        self.server.finish()
    }
}
