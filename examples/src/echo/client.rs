//! The client's frame: connect, warm up, measure, report.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use demi_api::{Buf, Demikernel, Error, LibOs, SocketKind};

use super::report::Report;
use super::{Client, datagrams, stream};
use crate::net;
use crate::stop::Stop;

/// Bytes of the ring of content that messages are cut from, at least a window's worth.
const RING_BYTES: u64 = 1 << 18;

/// Messages exchanged before those that count.
const WARM_UP: u64 = 1000;

/// How long a stream may stay silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Client) -> anyhow::Result<()> {
    let kind = if args.udp { SocketKind::Datagram } else { SocketKind::Stream };
    ensure!(
        !args.udp || args.size as usize >= datagrams::HEADER,
        "--udp needs --size {} or more",
        datagrams::HEADER
    );
    let content = content(demi, args)?;
    let stop = Stop::on_signals(demi)?;
    let qd = net::connect(demi, &args.connect.addr(), kind)?;
    let phase = |count: u64| -> anyhow::Result<(Report, Duration)> {
        let args = Client { count, ..args.clone() };
        let mut report = Report::new(&args);
        let start = Instant::now();
        if args.udp {
            datagrams::exchange(demi, qd, &content, &args, &mut report, &stop)?;
        } else {
            stream::exchange(demi, qd, &content, &args, &mut report, &stop)?;
        }
        Ok((report, start.elapsed()))
    };
    phase(WARM_UP.min(args.count))?;
    let (report, took) = phase(args.count)?;
    demi.close(qd)?;
    report.print(L::NAME, args, took);
    if report.latencies.count() == 0 {
        bail!("no message was answered by {}: is the server running, with --udp too?", args.connect);
    }
    Ok(())
}

/// What to do on the error of a wait: end at a signal, else explain.
pub(super) fn waited<T>(result: Result<T, Error>, args: &Client, stop: &Stop) -> anyhow::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Interrupted) if stop.asked() => Ok(None),
        Err(Error::TimedOut) => {
            bail!("{} sent no reply for {} s; is it an echo server?", args.connect, PATIENCE.as_secs())
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes without a short period: a whole number of messages, at least a window of them.
fn content<L: LibOs>(demi: &Demikernel<L>, args: &Client) -> anyhow::Result<Buf> {
    let size = u64::from(args.size);
    let messages = (RING_BYTES / size).max(u64::from(args.window));
    let mut ring = demi.alloc((messages * size) as usize)?;
    let mut state = 0x9E37_79B9_u32;
    for byte in ring.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    Ok(ring.freeze())
}
