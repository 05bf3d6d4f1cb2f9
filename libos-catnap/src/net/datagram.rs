//! A datagram socket, UDP or UNIX: whole messages with their sender, both ways.
//!
//! Invariants: a datagram is sent whole or fails whole; pushes complete in order, and one that fails does not
//! fail the next. An array without bytes is a datagram like any other.

use std::collections::VecDeque;
use std::io::IoSlice;

use arrayvec::ArrayVec;
use demi_api::addr::{Addr, Domain};
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::Heap;
use demi_api::op::{Done, Position, Step};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::token::QToken;
use rustix::net::{AddressFamily, SocketAddrAny};

use super::{Io, Turn};
use crate::receive::element;
use crate::sys::addr::{check, from_kernel};
use crate::sys::socket;
use crate::sys::{Attempt, Fd};

/// Datagrams received, and sent, for one socket in one turn.
const PER_TURN: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Datagram {
    connected: bool,
    pops: VecDeque<QToken>,
    pushes: VecDeque<Push>,
    /// The last sender with a path, so that a conversation does not allocate for each datagram.
    last_sender: Option<(SocketAddrAny, Addr)>,
}

#[derive(Debug)]
struct Push {
    token: QToken,
    sga: SgArray,
    to: Option<Addr>,
}

impl Datagram {
    #[inline]
    pub(crate) fn start_pop(&mut self, fd: &Fd, io: &mut Io, heap: &Heap, token: QToken) -> Step {
        if self.pops.is_empty() {
            match self.receive(fd, io, heap) {
                Ok(Some(sga)) => return Step::Done(Ok(Done::Popped(sga))),
                Ok(None) => {}
                Err(error) => return Step::Done(Err(error)),
            }
        }
        self.pops.push_back(token);
        Step::Pending
    }

    #[inline]
    pub(crate) fn start_push(
        &mut self,
        fd: &Fd,
        io: &mut Io,
        domain: Domain,
        token: QToken,
        sga: &mut SgArray,
        to: &mut Option<Addr>,
    ) -> Result<Step, Error> {
        match to {
            Some(to) => check(to, domain)?,
            None if !self.connected => return Err(Error::NotConnected),
            None => {}
        }
        let (len, limit) = (sga.len(), max_len(domain));
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        if self.pushes.is_empty() {
            match send(fd, io, sga, to.as_ref()) {
                Ok(Some(())) => return Ok(Step::Done(Ok(Done::Pushed(Position(0))))),
                Ok(None) => {}
                Err(error) => return Ok(Step::Done(Err(error))),
            }
        }
        self.pushes.push_back(Push { token, sga: std::mem::take(sga), to: to.take() });
        Ok(Step::Pending)
    }

    #[inline]
    pub(crate) fn run_pops(&mut self, fd: &Fd, io: &mut Io, cx: &mut Cx<'_>) -> Turn {
        let mut done = 0;
        while let Some(token) = self.pops.front().copied() {
            if done == PER_TURN {
                return Turn { done, more: true };
            }
            let result = match self.receive(fd, io, cx.heap) {
                Ok(Some(sga)) => Ok(Done::Popped(sga)),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            self.pops.pop_front();
            cx.done.post(token, result);
            done += 1;
        }
        Turn { done, more: false }
    }

    pub(crate) fn run_pushes(&mut self, fd: &Fd, io: &mut Io, cx: &mut Cx<'_>) -> Turn {
        let mut done = 0;
        while let Some(push) = self.pushes.front() {
            if done == PER_TURN {
                return Turn { done, more: true };
            }
            let result = match send(fd, io, &push.sga, push.to.as_ref()) {
                Ok(Some(())) => Ok(Done::Pushed(Position(0))),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            cx.done.post(push.token, result);
            self.pushes.pop_front();
            done += 1;
        }
        Turn { done, more: false }
    }

    pub(crate) fn has_pops(&self) -> bool {
        !self.pops.is_empty()
    }

    pub(crate) fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// Whether the kernel does not tell when the waiting push can go: it watches the queue of a connected
    /// UNIX peer, but not that of a named one.
    pub(crate) fn must_retry(&self, domain: Domain) -> bool {
        domain == Domain::Unix && self.pushes.front().is_some_and(|push| push.to.is_some())
    }

    pub(crate) fn connected() -> Datagram {
        Datagram { connected: true, ..Datagram::default() }
    }

    pub(crate) fn set_connected(&mut self) {
        self.connected = true;
    }

    pub(crate) fn cancel(&mut self, token: QToken) -> Result<(), Error> {
        if let Some(place) = self.pops.iter().position(|pop| *pop == token) {
            self.pops.remove(place);
            return Ok(());
        }
        let place = self.pushes.iter().position(|push| push.token == token).ok_or(Error::NotCancellable)?;
        self.pushes.remove(place);
        Ok(())
    }

    pub(crate) fn take_last_pop(&mut self) {
        self.pops.pop_back();
    }

    pub(crate) fn cancel_pops(&mut self, cx: &mut Cx<'_>) {
        for token in self.pops.drain(..) {
            cx.done.post(token, Err(Error::Cancelled));
        }
    }

    pub(crate) fn fail_pushes(&mut self, cx: &mut Cx<'_>, error: &Error) {
        for push in self.pushes.drain(..) {
            cx.done.post(push.token, Err(error.clone()));
        }
    }

    #[inline]
    fn receive(&mut self, fd: &Fd, io: &mut Io, heap: &Heap) -> Attempt<SgArray> {
        let Some((buf, sender)) = io.receiver.datagram(heap, &mut io.counters, fd)? else { return Ok(None) };
        let mut sga = element(buf);
        sga.set_peer(Some(self.name(sender)));
        Ok(Some(sga))
    }

    #[inline]
    fn name(&mut self, sender: Option<SocketAddrAny>) -> Addr {
        let raw = match sender {
            Some(raw) if raw.address_family() == AddressFamily::UNIX => raw,
            inet => return from_kernel(inet),
        };
        if let Some((last, addr)) = &self.last_sender
            && *last == raw
        {
            return addr.clone();
        }
        let addr = from_kernel(Some(raw.clone()));
        self.last_sender = Some((raw, addr.clone()));
        addr
    }
}

/// Most bytes that one datagram carries.
fn max_len(domain: Domain) -> usize {
    match domain {
        Domain::Inet => 65_507,
        Domain::Inet6 => 65_527,
        Domain::Unix => 64 << 10,
    }
}

fn send(fd: &Fd, io: &mut Io, sga: &SgArray, to: Option<&Addr>) -> Attempt<()> {
    let parts: ArrayVec<IoSlice<'_>, MAX_SEGMENTS> =
        sga.segments().iter().map(|part| IoSlice::new(part)).collect();
    let sent = socket::send_datagram(fd, &parts, to)?;
    match sent {
        Some(count) => {
            io.counters.send += 1;
            io.counters.bytes_out += count as u64;
        }
        None => io.counters.send_again += 1,
    }
    Ok(sent.map(drop))
}
