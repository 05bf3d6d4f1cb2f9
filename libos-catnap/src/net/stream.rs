//! A connected byte stream, TCP or UNIX: pushes that wait for room, pops that wait for bytes.
//!
//! Invariants: pushes complete in the order in which they were started, each when the kernel has all of its
//! bytes; what is queued is sent before the end of the stream is. Once a send has failed nothing more is
//! sent, so that a peer never sees a stream with a hole in it. Bytes that arrived before a reset are still
//! popped; then every pop reports the reset.
//!
//! The first push of a round (see [`Completions::round`](demi_api::token::Completions::round)) is tried at once. Those
//! that follow in the same round are gathered, to go with one call in the next turn, or as soon as they fill one.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::libos::{Cx, Shutdown};
use demi_api::memalloc::{Buf, Heap};
use demi_api::op::{Done, Position};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::token::QToken;

use super::{Io, Tried, Turn};
use crate::receive::element;
use crate::sys::socket::{self, MAX_IOVECS};
use crate::sys::{Attempt, Fd};

/// Pops served, and sends made, for one socket in one turn.
const PER_TURN: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Stream {
    pops: VecDeque<Pop>,
    pushes: VecDeque<Push>,
    /// The round of the last push that was tried at once.
    round: u32,
    /// Segments that wait for the next turn although they have not been tried; 0: none do.
    gathered: usize,
    /// The local side ended receiving: every pop is the end of the stream.
    read_shut: bool,
    /// The local side ended sending: no more pushes.
    write_shut: bool,
    /// The end of the stream is to be sent once `pushes` is empty.
    fin_due: bool,
    /// Why no more can be sent.
    send_failed: Option<Error>,
    /// What to report in place of the end of the stream.
    failed: Option<Error>,
}

#[derive(Debug)]
struct Pop {
    token: QToken,
    limit: usize,
}

#[derive(Debug)]
struct Push {
    token: QToken,
    rest: SgArray,
    /// Some of its bytes have been sent: it can no longer be recalled.
    begun: bool,
}

/// What has become of a push.
#[derive(Debug)]
pub(crate) enum Pushed {
    Done(Result<(), Error>),
    /// It waits for room.
    Blocked,
    /// It waits for the next turn.
    Gathered,
}

impl Stream {
    #[inline]
    pub(crate) fn start_pop(
        &mut self,
        fd: &Fd,
        io: &mut Io,
        heap: &Heap,
        token: QToken,
        limit: usize,
    ) -> Result<Tried<Buf>, Error> {
        if limit == 0 {
            return Err(Error::Invalid("a pop of at most no bytes"));
        }
        if self.pops.is_empty() {
            match self.receive(fd, io, heap, limit) {
                Ok(Some(buf)) => return Ok(Some(Ok(buf))),
                Ok(None) => {}
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        self.pops.push_back(Pop { token, limit });
        Ok(None)
    }

    #[inline]
    pub(crate) fn start_push(
        &mut self,
        fd: &Fd,
        io: &mut Io,
        cx: &mut Cx<'_>,
        token: QToken,
        sga: &mut SgArray,
    ) -> Result<Pushed, Error> {
        if self.write_shut {
            return Err(Error::Closed);
        }
        if let Some(error) = &self.send_failed {
            return Ok(Pushed::Done(Err(error.clone())));
        }
        let round = cx.done.round();
        if !self.pushes.is_empty() || self.round == round {
            return Ok(self.queue(fd, io, cx, token, sga));
        }
        self.round = round;
        let len = sga.len();
        let sent = match send_one(fd, io, sga, len) {
            Ok(Some(all)) if all == len => return Ok(Pushed::Done(Ok(()))),
            Ok(Some(part)) => part,
            Ok(None) => 0,
            Err(error) => return Ok(Pushed::Done(Err(self.send_broke(error)))),
        };
        let mut rest = std::mem::take(sga);
        rest.advance(sent);
        self.pushes.push_back(Push { token, rest, begun: sent > 0 });
        Ok(Pushed::Blocked)
    }

    /// Puts a push behind others: those that wait for room, or those of its round.
    fn queue(&mut self, fd: &Fd, io: &mut Io, cx: &mut Cx<'_>, token: QToken, sga: &mut SgArray) -> Pushed {
        if !self.pushes.is_empty() && self.gathered == 0 {
            self.pushes.push_back(Push { token, rest: std::mem::take(sga), begun: false });
            return Pushed::Blocked;
        }
        let segments = sga.segments().len().max(1);
        if self.gathered + segments > MAX_IOVECS {
            // What is left of it, if anything, is the next turn's.
            match self.send_queued(fd, io) {
                Ok(Some(count)) => self.note_sent(count),
                Ok(None) => {}
                Err(error) => {
                    let error = self.send_broke(error);
                    self.fail_pushes(cx, &error);
                    self.gathered = 0;
                    return Pushed::Done(Err(error));
                }
            }
            self.complete_sent(cx);
            self.gathered = 0;
        }
        self.gathered += segments;
        self.pushes.push_back(Push { token, rest: std::mem::take(sga), begun: false });
        Pushed::Gathered
    }

    /// The last chance for what is gathered: its instance goes.
    pub(crate) fn send_gathered(&mut self, fd: &Fd, io: &mut Io) {
        if self.gathered == 0 {
            return;
        }
        self.pushes.retain(|push| !push.rest.is_empty());
        while !self.pushes.is_empty()
            && let Ok(Some(count @ 1..)) = self.send_queued(fd, io)
        {
            self.note_sent(count);
            self.pushes.retain(|push| !push.rest.is_empty());
        }
    }

    /// Serves waiting pops until there is nothing to receive.
    #[inline]
    pub(crate) fn run_pops(&mut self, fd: &Fd, io: &mut Io, cx: &mut Cx<'_>) -> Turn {
        let mut done = 0;
        while let Some(Pop { token, limit }) = self.pops.front() {
            if done == PER_TURN {
                return Turn { done, more: true };
            }
            let (token, limit) = (*token, *limit);
            match self.receive(fd, io, cx.heap, limit) {
                Ok(Some(buf)) => cx.done.post(token, Ok(Done::Popped(element(buf)))),
                Ok(None) => break,
                Err(error) => cx.done.post(token, Err(error)),
            }
            self.pops.pop_front();
            done += 1;
        }
        Turn { done, more: false }
    }

    /// Sends what waits until there is no room.
    pub(crate) fn run_pushes(&mut self, fd: &Fd, io: &mut Io, cx: &mut Cx<'_>) -> Turn {
        let mut done = 0;
        self.gathered = 0;
        for _ in 0..PER_TURN {
            done += self.complete_sent(cx);
            if self.pushes.is_empty() {
                self.send_fin(fd);
                return Turn { done, more: false };
            }
            match self.send_queued(fd, io) {
                Ok(Some(count)) => self.note_sent(count),
                Ok(None) => return Turn { done, more: false },
                Err(error) => {
                    let error = self.send_broke(error);
                    done += self.pushes.len();
                    self.fail_pushes(cx, &error);
                    return Turn { done, more: false };
                }
            }
        }
        done += self.complete_sent(cx);
        Turn { done, more: true }
    }

    pub(crate) fn has_pops(&self) -> bool {
        !self.pops.is_empty()
    }

    pub(crate) fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// Ends one direction or both; the end of sending takes effect once everything pushed is sent.
    pub(crate) fn shutdown(&mut self, fd: &Fd, cx: &mut Cx<'_>, how: Shutdown) -> Result<(), Error> {
        if matches!(how, Shutdown::Write | Shutdown::Both) && !self.write_shut {
            self.write_shut = true;
            self.fin_due = true;
            if self.pushes.is_empty() {
                self.send_fin(fd);
            }
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) && !self.read_shut {
            self.read_shut = true;
            // The peer may be gone already, and with it what there was to shut down.
            let _ = socket::shutdown(fd, Shutdown::Read);
            for pop in self.pops.drain(..) {
                cx.done.post(pop.token, Ok(Done::Popped(SgArray::new())));
            }
        }
        Ok(())
    }

    /// Recalls one operation.
    pub(crate) fn cancel(&mut self, token: QToken) -> Result<(), Error> {
        if let Some(place) = self.pops.iter().position(|pop| pop.token == token) {
            self.pops.remove(place);
            return Ok(());
        }
        let place = self.pushes.iter().position(|push| push.token == token).ok_or(Error::NotCancellable)?;
        if self.pushes[place].begun {
            return Err(Error::NotCancellable);
        }
        self.pushes.remove(place);
        Ok(())
    }

    /// Takes a pop back that cannot be waited for.
    pub(crate) fn take_last_pop(&mut self) {
        self.pops.pop_back();
    }

    pub(crate) fn cancel_pops(&mut self, cx: &mut Cx<'_>) {
        for pop in self.pops.drain(..) {
            cx.done.post(pop.token, Err(Error::Cancelled));
        }
    }

    pub(crate) fn fail_pushes(&mut self, cx: &mut Cx<'_>, error: &Error) {
        for push in self.pushes.drain(..) {
            cx.done.post(push.token, Err(error.clone()));
        }
    }

    #[inline]
    fn receive(&mut self, fd: &Fd, io: &mut Io, heap: &Heap, limit: usize) -> Attempt<Buf> {
        if self.read_shut {
            return Ok(Some(Buf::empty()));
        }
        match io.receiver.stream(heap, &mut io.counters, fd, limit) {
            Ok(Some(buf)) if buf.is_empty() => match &self.failed {
                Some(error) => Err(error.clone()),
                None => Ok(Some(buf)),
            },
            Err(error) => Err(self.receive_broke(error)),
            received => received,
        }
    }

    /// Remembers why the stream ended, unless it has not.
    #[cold]
    fn receive_broke(&mut self, error: Error) -> Error {
        match error {
            Error::OutOfMemory(_) => error,
            Error::Closed => self.failed.get_or_insert(Error::ConnectionReset).clone(),
            error => self.failed.insert(error).clone(),
        }
    }

    /// Remembers that nothing more can be sent. The kernel reports a reset once, to whoever asks first: here
    /// it is kept for the pops too.
    #[cold]
    fn send_broke(&mut self, error: Error) -> Error {
        let error = match (error, &self.failed) {
            (Error::Closed, Some(reason)) => reason.clone(),
            (error, _) => error,
        };
        if !matches!(error, Error::Closed | Error::NoBuffers) {
            self.failed = Some(error.clone());
        }
        self.fin_due = false;
        self.send_failed = Some(error.clone());
        error
    }

    fn send_queued(&self, fd: &Fd, io: &mut Io) -> Attempt<usize> {
        let mut parts: ArrayVec<IoSlice<'_>, MAX_IOVECS> = ArrayVec::new();
        let segments =
            self.pushes.iter().flat_map(|push| push.rest.segments()).filter(|part| !part.is_empty());
        for segment in segments.take(MAX_IOVECS) {
            parts.push(IoSlice::new(segment));
        }
        let len = parts.iter().map(|part| part.len()).sum();
        let sent = socket::send_vectored(fd, &parts);
        count_sent(io, &sent, len);
        sent
    }

    fn note_sent(&mut self, mut count: usize) {
        for push in &mut self.pushes {
            let part = count.min(push.rest.len());
            push.rest.advance(part);
            push.begun |= part > 0;
            count -= part;
            if count == 0 {
                break;
            }
        }
    }

    fn complete_sent(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        while self.pushes.front().is_some_and(|push| push.rest.is_empty()) {
            let push = self.pushes.pop_front().expect("there is a front");
            cx.done.post(push.token, Ok(Done::Pushed(Position(0))));
            done += 1;
        }
        done
    }

    fn send_fin(&mut self, fd: &Fd) {
        if std::mem::take(&mut self.fin_due) {
            // Fails only when the connection is gone, which pops report.
            let _ = socket::shutdown(fd, Shutdown::Write);
        }
    }
}

#[inline]
fn send_one(fd: &Fd, io: &mut Io, sga: &SgArray, len: usize) -> Attempt<usize> {
    let sent = match sga.segments() {
        _ if len == 0 => return Ok(Some(0)),
        [one] => socket::send(fd, one),
        several => {
            let parts: ArrayVec<IoSlice<'_>, MAX_SEGMENTS> =
                several.iter().map(|part| IoSlice::new(part)).collect();
            socket::send_vectored(fd, &parts)
        }
    };
    count_sent(io, &sent, len);
    sent
}

#[inline]
fn count_sent(io: &mut Io, sent: &Attempt<usize>, len: usize) {
    match sent {
        Ok(Some(count)) => {
            io.counters.send += 1;
            io.counters.bytes_out += *count as u64;
            io.counters.send_partial += u64::from(*count < len);
        }
        Ok(None) => io.counters.send_again += 1,
        Err(_) => {}
    }
}
