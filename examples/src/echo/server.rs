//! The server. Of each connection there is exactly one operation outstanding: a pop, or the push of what it
//! yielded. So a peer that does not read stops being read from, a closed connection leaves no operation behind,
//! and the descriptor in a result is all there is to know.

use std::collections::BTreeSet;

use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, QDesc};

use super::Server;
use crate::cli::{grouped, say};
use crate::net::{self, Listener};
use crate::stop::{GRACE, Stop};

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Server) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let addr = args.listen.addr();
    if args.udp { serve_datagrams(demi, &addr, &stop) } else { serve_streams(demi, &addr, &stop) }
}

fn serve_streams<L: LibOs>(demi: &Demikernel<L>, addr: &Addr, stop: &Stop) -> anyhow::Result<()> {
    let listener = Listener::open(demi, addr)?;
    say(format_args!("listening on {}", listener.addr()));
    let mut streams = Streams { demi, listener, open: BTreeSet::new(), accepted: 0, pushed: 0 };
    let mut results = Vec::new();
    while stop.wait(demi, &mut results, streams.listener.patience())? {
        for completion in results.drain(..) {
            streams.step(completion);
        }
        streams.listener.again(demi);
    }
    streams.finish(results);
    Ok(())
}

struct Streams<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    listener: Listener,
    open: BTreeSet<QDesc>,
    accepted: u64,
    pushed: u64,
}

impl<L: LibOs> Streams<'_, L> {
    #[inline]
    fn step(&mut self, Completion { token, qd, result }: Completion) {
        let next = match result {
            Ok(Done::Popped(sga)) if !sga.is_empty() => self.demi.push(qd, sga).map_err(Error::from),
            Ok(Done::Pushed(_)) => {
                self.pushed += 1;
                self.demi.pop(qd)
            }
            Ok(Done::Popped(_)) => Err(Error::EndOfStream),
            other => return self.step_rarely(Completion { token, qd, result: other }),
        };
        if let Err(error) = next {
            self.close(qd, &error);
        }
    }

    #[cold]
    fn step_rarely(&mut self, completion: Completion) {
        if self.listener.owns(&completion) {
            let Some(qd) = self.listener.accepted(self.demi, completion.result) else { return };
            self.accepted += 1;
            self.open.insert(qd);
            if let Err(error) = self.demi.pop(qd) {
                self.close(qd, &error);
            }
            return;
        }
        if let Err(error) = completion.result {
            self.close(completion.qd, &error);
        }
    }

    fn close(&mut self, qd: QDesc, why: &Error) {
        if self.open.remove(&qd) {
            tracing::debug!(%qd, %why, "closed");
            let _ = self.demi.close(qd);
        }
    }

    /// Lets pushes end that are under way, and starts nothing new.
    fn finish(self, mut results: Vec<Completion>) {
        self.listener.close(self.demi);
        for qd in &self.open {
            let _ = self.demi.close(*qd);
        }
        drain(self.demi, &mut results);
        let (pushed, accepted) = (grouped(self.pushed), grouped(self.accepted));
        say(format_args!(
            "stopped: {pushed} pushes to {accepted} connections, {} of them open",
            self.open.len()
        ));
    }
}

/// Takes results until nothing is under way any more, or the time is up.
fn drain<L: LibOs>(demi: &Demikernel<L>, results: &mut Vec<Completion>) {
    let deadline = std::time::Instant::now() + GRACE;
    loop {
        results.clear();
        let pending = demi.counters().is_ok_and(|counters| counters.operations_pending > 0);
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if !pending || left.is_zero() {
            return;
        }
        let _ = demi.wait_next_n(results, usize::MAX, Some(left));
    }
}

fn serve_datagrams<L: LibOs>(demi: &Demikernel<L>, addr: &Addr, stop: &Stop) -> anyhow::Result<()> {
    let socket = net::bind_datagram(demi, addr)?;
    say(format_args!("listening on {}", demi.local_addr(socket)?));
    demi.pop(socket)?;
    let (mut pushed, mut failed) = (0, 0);
    let mut results = Vec::new();
    while stop.wait(demi, &mut results, None)? {
        for completion in results.drain(..) {
            match completion.result {
                Ok(Done::Popped(sga)) => {
                    let Some(peer) = sga.peer().cloned() else {
                        demi.pop(socket)?;
                        continue;
                    };
                    if demi.push_to(socket, sga, peer).is_err() {
                        failed += 1;
                        demi.pop(socket)?;
                    }
                }
                Ok(_) => {
                    pushed += 1;
                    demi.pop(socket)?;
                }
                // A sender that is gone already, or a datagram that was too large: the next one is served.
                Err(error) => {
                    tracing::debug!(%error, "a datagram was not answered");
                    failed += 1;
                    demi.pop(socket)?;
                }
            }
        }
    }
    say(format_args!("stopped: {} datagrams sent back, {failed} failed", grouped(pushed)));
    Ok(())
}
