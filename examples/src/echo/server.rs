//! The server. Of each connection there is at most one pop outstanding, and pushes of what was popped, up to a bound:
//! so a peer that does not read stops being read from, and one that does is sent to without a pause between a push and
//! its acknowledgement. With a log, a push waits until what was popped is durable.
//!
//! A descriptor may name a new connection while a result of the old one is still to come, so a result counts only with
//! the token that is waited for.

use std::collections::VecDeque;

use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, QDesc, QToken, SgArray};

use super::Server;
use super::log::{self, Log};
use crate::cli::{grouped, say};
use crate::net::{self, Listener};
use crate::stop::{GRACE, Stop};

/// Bytes that wait to be acknowledged before no more is popped.
const MOST_UNSENT: usize = 256 << 10;

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Server) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let addr = args.listen.addr();
    match (args.udp, args.log.wanted()) {
        (false, false) => serve_streams(demi, &addr, &stop, None),
        (false, true) => serve_streams(demi, &addr, &stop, Some(Log::open(demi)?)),
        (true, false) => serve_datagrams(demi, &addr, &stop),
        (true, true) => log::serve_datagrams(demi, &addr, &stop, Log::open(demi)?),
    }
}

fn serve_streams<L: LibOs>(
    demi: &Demikernel<L>,
    addr: &Addr,
    stop: &Stop,
    log: Option<Log<Origin>>,
) -> anyhow::Result<()> {
    let listener = Listener::open(demi, addr)?;
    say(format_args!("listening on {}", listener.addr()));
    let mut streams = Streams { demi, listener, log, open: Vec::new(), accepted: 0, pushed: 0 };
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
    log: Option<Log<Origin>>,
    /// By the number of the descriptor.
    open: Vec<Option<Stream>>,
    accepted: u64,
    pushed: u64,
}

/// The connection that something in the log came from: its descriptor, and its number among all.
type Origin = (QDesc, u64);

/// What is under way on a connection.
struct Stream {
    number: u64,
    /// What waits for the log.
    logging: usize,
    /// `None`: the peer has sent all it will, or too much waits to be sent back.
    pop: Option<QToken>,
    /// In the order in which they will complete, with their sizes.
    pushes: VecDeque<(QToken, usize)>,
    unsent: usize,
    /// Close when all is sent back.
    ended: bool,
}

impl<L: LibOs> Streams<'_, L> {
    #[inline]
    fn step(&mut self, Completion { token, qd, result }: Completion) {
        let found = self.open.get_mut(qd.raw() as usize).and_then(Option::as_mut);
        let next = match (found, result) {
            (Some(stream), Ok(Done::Popped(sga))) if stream.pop == Some(token) => {
                stream.pop = None;
                match &mut self.log {
                    None => stream.popped(self.demi, qd, sga),
                    Some(log) => stream.popped_to(log, self.demi, qd, sga),
                }
            }
            (Some(stream), Ok(Done::Pushed(_))) if stream.awaits(token) => {
                self.pushed += 1;
                stream.pushed(self.demi, qd)
            }
            (_, result) => return self.step_rarely(Completion { token, qd, result }),
        };
        if let Err(error) = next {
            self.close(qd, &error);
        }
    }

    /// What was popped is durable, or will never be.
    fn logged(&mut self, completion: Completion) {
        let Some(log) = &mut self.log else { return };
        let Some(((qd, number), result)) = log.completed(completion) else { return };
        let found = self.open.get_mut(qd.raw() as usize).and_then(Option::as_mut);
        let Some(stream) = found.filter(|stream| stream.number == number) else { return };
        stream.logging -= 1;
        if let Err(error) = result.and_then(|sga| stream.send(self.demi, qd, sga)) {
            self.close(qd, &error);
        }
    }

    fn step_rarely(&mut self, completion: Completion) {
        if self.log.as_ref().is_some_and(|log| log.owns(&completion)) {
            return self.logged(completion);
        }
        if self.listener.owns(&completion) {
            let Some(qd) = self.listener.accepted(self.demi, completion.result) else { return };
            self.accepted += 1;
            let place = qd.raw() as usize;
            if self.open.len() <= place {
                self.open.resize_with((place + 1).next_power_of_two(), || None);
            }
            match self.demi.pop(qd) {
                Ok(pop) => {
                    let (pushes, unsent, ended) = (VecDeque::new(), 0, false);
                    let (number, logging) = (self.accepted, 0);
                    self.open[place] =
                        Some(Stream { number, logging, pop: Some(pop), pushes, unsent, ended });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client was turned away");
                    let _ = self.demi.close(qd);
                }
            }
            return;
        }
        let stream = self.open.get(completion.qd.raw() as usize).and_then(Option::as_ref);
        let ours = stream.is_some_and(|it| it.pop == Some(completion.token) || it.awaits(completion.token));
        if ours && let Err(error) = completion.result {
            self.close(completion.qd, &error);
        }
    }

    fn close(&mut self, qd: QDesc, why: &Error) {
        if self.open.get_mut(qd.raw() as usize).and_then(Option::take).is_some() {
            tracing::debug!(%qd, %why, "closed");
            let _ = self.demi.close(qd);
        }
    }

    /// Lets pushes end that are under way, and starts nothing new.
    fn finish(self, mut results: Vec<Completion>) {
        self.listener.close(self.demi);
        let open = self.open.iter().enumerate().filter(|(_, stream)| stream.is_some());
        let open: Vec<QDesc> = open.map(|(place, _)| QDesc::from_raw(place as u32)).collect();
        for qd in &open {
            let _ = self.demi.close(*qd);
        }
        drain(self.demi, &mut results);
        let (pushed, accepted) = (grouped(self.pushed), grouped(self.accepted));
        say(format_args!("stopped: {pushed} pushes to {accepted} connections, {} of them open", open.len()));
    }
}

impl Stream {
    /// Whether the token is that of the oldest push.
    #[inline]
    fn awaits(&self, token: QToken) -> bool {
        self.pushes.front().is_some_and(|(oldest, _)| *oldest == token)
    }

    #[inline]
    fn popped<L: LibOs>(&mut self, demi: &Demikernel<L>, qd: QDesc, sga: SgArray) -> Result<(), Error> {
        self.ended = sga.is_empty();
        if !self.ended {
            let len = sga.len();
            self.pushes.push_back((demi.push(qd, sga)?, len));
            self.unsent += len;
        }
        self.go_on(demi, qd)
    }

    /// As `popped`, but the push comes later.
    fn popped_to<L: LibOs>(
        &mut self,
        log: &mut Log<Origin>,
        demi: &Demikernel<L>,
        qd: QDesc,
        sga: SgArray,
    ) -> Result<(), Error> {
        self.ended = sga.is_empty();
        if !self.ended {
            self.unsent += sga.len();
            log.push(demi, sga, (qd, self.number))?;
            self.logging += 1;
        }
        self.go_on(demi, qd)
    }

    /// Sends back what has been logged.
    fn send<L: LibOs>(&mut self, demi: &Demikernel<L>, qd: QDesc, sga: SgArray) -> Result<(), Error> {
        let len = sga.len();
        self.pushes.push_back((demi.push(qd, sga)?, len));
        Ok(())
    }

    #[inline]
    fn pushed<L: LibOs>(&mut self, demi: &Demikernel<L>, qd: QDesc) -> Result<(), Error> {
        self.unsent -= self.pushes.pop_front().map_or(0, |(_, len)| len);
        self.go_on(demi, qd)
    }

    fn go_on<L: LibOs>(&mut self, demi: &Demikernel<L>, qd: QDesc) -> Result<(), Error> {
        if self.ended {
            return if self.pushes.is_empty() && self.logging == 0 {
                Err(Error::EndOfStream)
            } else {
                Ok(())
            };
        }
        if self.pop.is_none() && self.unsent < MOST_UNSENT {
            self.pop = Some(demi.pop(qd)?);
        }
        Ok(())
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
                    let Some(peer) = sga.peer() else {
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
