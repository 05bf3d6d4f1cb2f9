//! The log of a server: what came in, in order, durable before it is sent back.
//!
//! Invariant: the log never fills. When half of the room is used up, what was there at the last look is discarded, so
//! that the newest elements stay: those of an eighth of the room at least.

use std::collections::VecDeque;

use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, Position, QDesc, QToken, SeekTo, SgArray};

use crate::cli::{grouped, say};
use crate::log::Room;
use crate::net;
use crate::stop::Stop;

/// Bytes that an element takes beside its own, at the most that is usual: a header, and the rest of a block.
const OVERHEAD: u64 = 4096 + 48;

/// Datagrams that wait for the log before no more are popped.
const MOST_LOGGED: usize = 256;

/// A log, and what of it is not durable yet, with where that is from.
pub(super) struct Log<O> {
    qd: QDesc,
    /// In the order in which they will complete.
    waiting: VecDeque<(QToken, SgArray, O)>,
    room: Room,
    /// Bytes pushed since the room was looked at.
    since: u64,
    /// The newest element that is durable, and that which was at the last look.
    newest: Option<Position>,
    mark: Option<Position>,
}

impl<O> Log<O> {
    pub(super) fn open<L: LibOs>(demi: &Demikernel<L>) -> anyhow::Result<Log<O>> {
        let qd = crate::log::open(demi, "echo")?;
        // What an earlier run has left may be given up from the first.
        let newest = Some(demi.seek(qd, SeekTo::End)?);
        let room = Room::look(demi);
        Ok(Log { qd, waiting: VecDeque::new(), room, since: u64::MAX, newest, mark: newest })
    }

    #[inline]
    pub(super) fn owns(&self, completion: &Completion) -> bool {
        completion.qd == self.qd
    }

    /// Appends; the array comes back from [`Log::completed`].
    pub(super) fn push<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        sga: SgArray,
        from: O,
    ) -> Result<(), Error> {
        self.since = self.since.saturating_add(sga.len() as u64 + OVERHEAD);
        if self.since >= self.room.total / 8 {
            self.make_room(demi);
        }
        let mut pushed = demi.push(self.qd, sga.clone());
        if matches!(&pushed, Err(refused) if refused.error == Error::NoSpace) {
            // More has come at once than was to be expected.
            self.mark = self.newest;
            self.make_room(demi);
            pushed = demi.push(self.qd, sga.clone());
        }
        self.waiting.push_back((pushed?, sga, from));
        Ok(())
    }

    /// What has become durable, and where it is from.
    #[inline]
    pub(super) fn completed(&mut self, completion: Completion) -> Option<(O, Result<SgArray, Error>)> {
        self.waiting.front().filter(|(token, ..)| *token == completion.token)?;
        let (_, sga, from) = self.waiting.pop_front()?;
        let result = match completion.result {
            Ok(Done::Pushed(position)) => {
                self.newest = Some(position);
                Ok(sga)
            }
            Ok(_) => Err(Error::Io),
            Err(error) => {
                tracing::warn!(%error, "the log has failed: what comes is not sent back");
                Err(error)
            }
        };
        Some((from, result))
    }

    #[cold]
    fn make_room<L: LibOs>(&mut self, demi: &Demikernel<L>) {
        self.room = Room::look(demi);
        self.since = 0;
        if self.room.free <= self.room.total / 2
            && let Some(upto) = self.mark
            && let Err(error) = demi.discard(self.qd, upto)
        {
            tracing::warn!(%error, "the head of the log cannot be discarded");
        }
        self.mark = self.newest;
    }
}

/// The server of datagrams. One pop is outstanding, unless too much waits for the log.
pub(super) fn serve_datagrams<L: LibOs>(
    demi: &Demikernel<L>,
    addr: &Addr,
    stop: &Stop,
    mut log: Log<Addr>,
) -> anyhow::Result<()> {
    let socket = net::bind_datagram(demi, addr)?;
    say(format_args!("listening on {}", demi.local_addr(socket)?));
    let mut pop = Some(demi.pop(socket)?);
    let (mut pushed, mut failed) = (0, 0_u64);
    let mut results = Vec::new();
    while stop.wait(demi, &mut results, None)? {
        for completion in results.drain(..) {
            let is_pop = pop == Some(completion.token);
            let done = if log.owns(&completion) {
                log.completed(completion).map_or(Ok(()), |(peer, logged)| {
                    logged.and_then(|sga| Ok(demi.push_to(socket, sga, peer).map(drop)?))
                })
            } else if is_pop {
                pop = None;
                completion.popped().and_then(|sga| match sga.peer() {
                    Some(peer) => log.push(demi, sga, peer),
                    None => Ok(()),
                })
            } else {
                completion.pushed().map(|_| pushed += 1)
            };
            if let Err(error) = done {
                tracing::debug!(%error, "a datagram was not answered");
                failed += 1;
            }
        }
        if pop.is_none() && log.waiting.len() < MOST_LOGGED {
            pop = Some(demi.pop(socket)?);
        }
    }
    say(format_args!("stopped: {} datagrams sent back, {failed} failed", grouped(pushed)));
    Ok(())
}
