//! Sources of the network: what comes out is printed, or sent on by `qconnect`.

use demi_api::{Demikernel, Done, LibOs, SocketKind};

use super::{Args, build, message, source};
use crate::cli::{grouped, say};
use crate::net;
use crate::stop::Stop;

/// Messages that one pop takes at the most.
const BATCH: usize = 64;

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Args) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let mut queues = Vec::new();
    let mut lines = Vec::new();
    for at in &args.listen {
        let (qd, addr, more) = source::open(demi, at)?;
        say(format_args!("listening on {addr}"));
        queues.push(qd);
        lines.extend(more);
    }
    let sorted = build(demi, &queues, args)?;
    let mut end = match &args.send_to {
        Some(to) => demi.qconnect(sorted, net::connect(demi, &to.addr(), SocketKind::Datagram)?)?,
        None => demi.pop_n(sorted, BATCH)?,
    };
    let mut printed = 0;
    let mut results = Vec::new();
    loop {
        let patience = lines.iter_mut().filter_map(|lines| lines.again(demi)).min();
        if !stop.wait(demi, &mut results, patience)? {
            break;
        }
        for completion in results.drain(..) {
            let other = lines.iter_mut().try_fold(completion, |it, lines| lines.step(demi, it));
            let Some(completion) = other.filter(|it| it.token == end) else { continue };
            match completion.result {
                Ok(Done::Batch(batch)) => {
                    printed += batch.len() as u64;
                    batch.iter().for_each(|sga| say(message::text(sga)));
                }
                Ok(other) => tracing::debug!(?other, "the pipeline has ended"),
                // Such as a receiver that is gone: the next message may find it back.
                Err(error) => tracing::warn!(%error, "a message was lost"),
            }
            end = match &args.send_to {
                Some(to) => demi.qconnect(sorted, net::connect(demi, &to.addr(), SocketKind::Datagram)?)?,
                None => demi.pop_n(sorted, BATCH)?,
            };
        }
    }
    let dropped = grouped(demi.counters()?.elements_dropped);
    match &args.send_to {
        Some(to) => say(format_args!("stopped: sent on to {to}; {dropped} messages were not urgent enough")),
        None => say(format_args!("stopped: {} printed; {dropped} were not urgent enough", grouped(printed))),
    }
    Ok(())
}
