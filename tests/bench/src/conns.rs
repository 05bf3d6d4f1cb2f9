//! Many established connections, all of them idle but one: what each keeps of memory, and whether the active one notices.
//!
//! The server's process holds nothing but the server's ends, so that what it grows by is what they take: pages of
//! ordinary memory, and bytes of the heap, whose pages are resident from the start.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use demi_api::{Demikernel, Domain, Done, Error, QDesc, SocketKind};
use demi_libos_catnip::Catnip;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::bulk::nic::{End, Nic, SERVER};
use crate::cpu;
use crate::measure::PATIENCE;

/// The first of the server's ports, and connections to each: a client has about 16,000 ports.
const FIRST_PORT: u16 = 6000;
const PER_PORT: usize = 10_000;

/// Connections that are being made at a time.
const WINDOW: usize = 64;

/// Exchanges before those that count.
const WARMUP: u64 = 2000;

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    nic: Nic,
    /// Idle connections
    #[arg(long)]
    count: usize,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    nic: Nic,
    /// Idle connections
    #[arg(long)]
    count: usize,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// Where the server listens for the connection with this number.
fn listener_of(index: usize) -> Result<SocketAddr> {
    let port = u16::try_from(index / PER_PORT).ok().and_then(|place| FIRST_PORT.checked_add(place));
    Ok(SocketAddr::from((SERVER, port.context("too many connections")?)))
}

pub(crate) fn server(args: &ServerArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let demi = args.nic.catnip(End::Server)?;
    let mut active = None;
    // The active connection is number 0.
    for index in (0..=args.count).step_by(PER_PORT) {
        let listener = demi.socket(Domain::Inet, SocketKind::Stream)?;
        demi.bind(listener, listener_of(index)?)?;
        demi.listen(listener, 2 * WINDOW as u32)?;
        demi.accept(listener)?;
    }
    say(&json!({ "listening": listener_of(0)?.to_string() }))?;
    let mut before = memory(&demi)?;
    let mut idle = Vec::with_capacity(args.count);
    let mut results = Vec::with_capacity(2);
    loop {
        demi.wait_next_n(&mut results, 1, None)?;
        for done in results.drain(..) {
            match done.result? {
                Done::Accepted { qd, .. } => {
                    demi.accept(done.qd)?;
                    if active.is_none() {
                        active = Some(qd);
                        demi.pop(qd)?;
                        before = memory(&demi)?;
                        continue;
                    }
                    idle.push(qd);
                    if idle.len() == args.count {
                        report(&demi, &idle, before)?;
                    }
                }
                Done::Popped(sga) if sga.is_empty() => {
                    if active == Some(done.qd) {
                        return Ok(());
                    }
                    demi.close(done.qd)?;
                }
                Done::Popped(sga) => {
                    demi.push(done.qd, sga).map_err(Error::from)?;
                    demi.pop(done.qd)?;
                }
                Done::Pushed(_) => {}
                other => bail!("the server did not ask for {other:?}"),
            }
        }
    }
}

/// Bytes of ordinary memory, and of the heap.
fn memory(demi: &Demikernel<Catnip>) -> Result<[u64; 2]> {
    Ok([cpu::status("VmRSS")? * 1024, demi.counters()?.heap.bytes_live as u64])
}

/// All connections are there: what each takes, without and with a pop outstanding.
fn report(demi: &Demikernel<Catnip>, idle: &[QDesc], before: [u64; 2]) -> Result<()> {
    let each = |now: [u64; 2]| {
        let grown = |place: usize| now[place].saturating_sub(before[place]) as f64 / idle.len() as f64;
        (grown(0) + grown(1), grown(1))
    };
    let (bytes, of_heap) = each(memory(demi)?);
    for qd in idle {
        demi.pop(*qd)?;
    }
    let (with_pop, _) = each(memory(demi)?);
    let counters = demi.counters()?;
    let retransmitted = counters.libos.iter().find(|(name, _)| *name == "tcp_retransmitted");
    say(&json!({
        "connections": idle.len(),
        "bytes_per_idle_connection": bytes,
        "of_heap": of_heap,
        "bytes_with_pop": with_pop,
        "retransmitted": retransmitted.map(|(_, value)| *value),
    }))
}

pub(crate) fn client(args: &ClientArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let demi = args.nic.catnip(End::Client)?;
    let active = demi.socket(Domain::Inet, SocketKind::Stream)?;
    match demi.wait(demi.connect(active, listener_of(0)?)?, Some(PATIENCE))?.result? {
        Done::Connected => {}
        other => bail!("connect ended as {other:?}"),
    }
    say(&json!({ "connected": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["open"] => say(&open(&demi, args.count)?)?,
            ["echo", count] => say(&echo(&demi, active, count.parse()?)?)?,
            _ => bail!("neither `open` nor `echo COUNT`: {line}"),
        }
    }
    demi.close(active)?;
    for _ in 0..10_000 {
        demi.poll()?;
    }
    Ok(())
}

/// Opens the idle connections.
fn open(demi: &Demikernel<Catnip>, count: usize) -> Result<Value> {
    let begin = Instant::now();
    let (mut begun, mut open) = (0, 0);
    let mut results = Vec::with_capacity(WINDOW);
    while open < count {
        while begun < count && begun - open < WINDOW {
            begun += 1;
            let qd = demi.socket(Domain::Inet, SocketKind::Stream)?;
            demi.connect(qd, listener_of(begun)?)?;
        }
        demi.wait_next_n(&mut results, 1, Some(PATIENCE))?;
        for done in results.drain(..) {
            match done.result? {
                Done::Connected => open += 1,
                other => bail!("connect ended as {other:?}"),
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(json!({ "opened": open, "connections_per_s": open as f64 / seconds }))
}

/// Round trips of 64 bytes on the active connection.
fn echo(demi: &Demikernel<Catnip>, qd: QDesc, count: u64) -> Result<Value> {
    let message = demi.copy_from(&[0x5a; 64])?;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    for index in 0..WARMUP + count {
        let begin = Instant::now();
        let push = demi.push(qd, message.clone()).map_err(Error::from)?;
        demi.wait(push, Some(PATIENCE))?.pushed()?;
        let mut missing = message.len();
        while missing > 0 {
            let sga = demi.wait(demi.pop(qd)?, Some(PATIENCE))?.popped()?;
            ensure!(!sga.is_empty() && sga.len() <= missing, "the active connection is out of step");
            missing -= sga.len();
        }
        if index >= WARMUP {
            histogram.saturating_record(begin.elapsed().as_nanos() as u64);
        }
    }
    let at = |share| histogram.value_at_quantile(share);
    Ok(json!({ "p50_ns": at(0.5), "p99_ns": at(0.99), "min_ns": histogram.min() }))
}

fn say(line: &Value) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}
