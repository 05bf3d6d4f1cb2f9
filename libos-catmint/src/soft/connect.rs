//! Connections that are made, refused and ended: between the libOS's calls, the connection manager and the table.
//!
//! Invariants: a queue pair is in the table from the call that names it until the event that ends its name, and the connection manager
//! knows it for as long. A request is answered once; one that nobody answers ends with its listener, its path, or when the
//! connection manager gives it up.

use std::net::SocketAddr;
use std::ops::RangeFrom;

use demi_api::error::Error;
use demi_api::time::Instant;

use super::Soft;
use super::cm::{self, Agreed, Offer};
use super::link::Link;
use super::rc::{Host, Params, QueuePair};
use super::table::{Entry, Stage};
use super::wire::{CommId, Psn};
use crate::device::{Event, Fault, HELLO_MAX, ListenId, Qp, RequestId};

/// READs and atomic operations that a queue pair has under way, and answers.
pub(super) const READS: usize = 16;
/// Ports for those who do not choose one.
pub(super) const EPHEMERAL: RangeFrom<u16> = 49_152..;

/// A request that was told of.
#[derive(Debug)]
pub(super) struct Asked<P> {
    listener: ListenId,
    path: P,
    local: SocketAddr,
    remote: SocketAddr,
}

/// Whether the peer is to be told that a queue pair ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// It is.
    Told,
    /// It has said so itself.
    Knows,
}

impl<P> Entry<P> {
    /// It is connected on the side that accepted, too.
    pub(super) fn rise(&mut self, qp: Qp, events: &mut Vec<Event>) {
        match std::mem::replace(&mut self.stage, Stage::Calling) {
            Stage::Answering(pair) => {
                self.stage = Stage::Up(pair);
                events.push(Event::Established { qp, hello: Vec::new() });
            }
            // A packet has said so before the connection manager did.
            other => self.stage = other,
        }
    }
}

impl<L: Link> Soft<L> {
    pub(super) fn listen_at(&mut self, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error> {
        if !addr.ip().is_unspecified() && addr.ip() != self.link.address() {
            return Err(Error::AddressNotAvailable);
        }
        let port = match addr.port() {
            0 => self.free_port().ok_or(Error::AddressInUse)?,
            port if self.listeners.contains_key(&port) => return Err(Error::AddressInUse),
            port => port,
        };
        let id = ListenId(self.next_listener);
        self.next_listener = self.next_listener.wrapping_add(1);
        self.listeners.insert(port, id);
        let addr = SocketAddr::new(addr.ip(), port);
        self.cm.listen(id, addr);
        Ok((id, addr))
    }

    /// A port that nobody listens at.
    fn free_port(&mut self) -> Option<u16> {
        let ports = (u16::MAX - EPHEMERAL.start) as u32 + 1;
        (0..ports).find_map(|_| {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(EPHEMERAL.start);
            (!self.listeners.contains_key(&port)).then_some(port)
        })
    }

    pub(super) fn unlisten_at(&mut self, now: Instant, id: ListenId) {
        self.listeners.retain(|_, listener| *listener != id);
        self.asked.retain(|_, asked| asked.listener != id);
        self.cm.unlisten(now, id);
        self.send_mads(now);
    }

    /// A queue pair to be, with its number on the wire and that of its first packet.
    fn offer(&mut self, hello: &[u8]) -> Result<(Qp, Offer), Error> {
        if hello.len() > HELLO_MAX {
            return Err(Error::Invalid("a hello has at most 56 bytes"));
        }
        let vacancy = self.table.vacancy(&mut self.rng);
        let (qp, qpn) = vacancy.ok_or(Error::TooManyQueues(self.settings.pairs))?;
        Ok((qp, Offer { qpn, psn: Psn::new(self.rng.u32(..)) }))
    }

    pub(super) fn call(&mut self, now: Instant, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error> {
        let (qp, offer) = self.offer(hello)?;
        let path = self.link.path(now, to.ip()).map_err(|_| Error::Unreachable)?;
        let port = self.free_port().unwrap_or(EPHEMERAL.start);
        let local = SocketAddr::new(self.link.address(), port);
        let conn = self.cm.connect(now, qp, offer, local, to, hello);
        let conn = conn.ok_or(Error::TooManyQueues(self.settings.pairs))?;
        self.table.insert(Entry { path, local, remote: to, conn, stage: Stage::Calling, is_due: false });
        self.counters.connects += 1;
        self.send_mads(now);
        Ok(qp)
    }

    pub(super) fn answer(&mut self, now: Instant, request: RequestId, hello: &[u8]) -> Result<Qp, Error> {
        let asked = self.asked.remove(&request).ok_or(Error::ConnectionAborted)?;
        let offered = self.offer(hello);
        let Ok((qp, offer)) = offered else {
            // Nobody will answer it any more.
            self.cm.reject(now, request, &[]);
            self.send_mads(now);
            return offered.map(|(qp, _)| qp);
        };
        let accepted = self.cm.accept(now, request, qp, offer, hello);
        let (conn, agreed) = accepted.map_err(|_| Error::ConnectionAborted)?;
        let Asked { path, local, remote, .. } = asked;
        let stage = Stage::Answering(self.pair(qp, &agreed));
        self.table.insert(Entry { path, local, remote, conn, stage, is_due: false });
        self.send_mads(now);
        Ok(qp)
    }

    pub(super) fn refuse(&mut self, now: Instant, request: RequestId, hello: &[u8]) {
        if self.asked.remove(&request).is_some() {
            self.cm.reject(now, request, hello);
            self.send_mads(now);
        }
    }

    /// A queue pair as both sides have agreed on it.
    fn pair(&self, qp: Qp, agreed: &Agreed) -> QueuePair {
        let mut params = Params::new(qp, agreed.remote, agreed.mtu, agreed.send_psn, agreed.receive_psn);
        params.initiator_depth = agreed.initiator_depth.into();
        params.responder_resources = agreed.responder_resources.into();
        params.set_depth(self.settings.depth, self.settings.inline);
        QueuePair::new(params)
    }

    pub(super) fn hang_up(&mut self, now: Instant, qp: Qp) {
        let mut events = std::mem::take(&mut self.pending);
        self.end(now, qp, Fault::Disconnected, Peer::Told, &mut events);
        self.pending = events;
        self.send_mads(now);
    }

    /// Ends a queue pair and its name, whatever state it is in.
    pub(super) fn end(&mut self, now: Instant, qp: Qp, why: Fault, peer: Peer, events: &mut Vec<Event>) {
        let Some(mut entry) = self.table.remove(qp) else { return };
        if let Some(pair) = entry.stage.pair() {
            let mut host =
                Host { receives: &mut self.receives, memory: &mut self.memory, events: &mut *events };
            pair.fail(why, &mut host);
            if peer == Peer::Told {
                self.last_word(now, entry.path, pair, events);
            }
        }
        if peer == Peer::Told {
            self.cm.disconnect(now, entry.conn);
        }
        self.memory.abandon(qp);
        self.counters.gone += 1;
        events.push(Event::Gone { qp, why });
    }

    /// A path is no more, and all that went by it.
    #[cold]
    pub(super) fn path_ended(&mut self, now: Instant, path: L::Path, events: &mut Vec<Event>) {
        for (request, _) in self.asked.extract_if(|_, asked| asked.path == path) {
            self.cm.disconnect(now, CommId(request.0));
        }
        let lost: Vec<Qp> = self.table.names().filter(|(_, it)| it.path == path).map(|(qp, _)| qp).collect();
        for qp in lost {
            self.end(now, qp, Fault::Unreachable, Peer::Told, events);
        }
    }

    /// Hands the connection manager what came for it, has it look at its timers, and carries out what it says.
    #[inline]
    pub(super) fn manage(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        let due = self.cm.deadline().is_some_and(|deadline| now >= deadline);
        if due || !self.mads.is_empty() || !self.managed.is_empty() {
            self.manage_now(now, inbox);
        }
    }

    #[cold]
    fn manage_now(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        let here = self.link.address();
        self.carry_out(now, None, inbox);
        for (path, mad) in std::mem::take(&mut self.mads) {
            if let Some(from) = self.link.peer(path) {
                self.cm.datagram(now, from, here, &mad, &mut self.managed);
                self.carry_out(now, Some(path), inbox);
            }
        }
        self.cm.tick(now, &mut self.managed);
        self.carry_out(now, None, inbox);
        self.send_mads(now);
    }

    /// Carries out what the connection manager has said, because of a datagram that came by `path` if there is one.
    fn carry_out(&mut self, now: Instant, path: Option<L::Path>, inbox: &mut Vec<Event>) {
        for event in std::mem::take(&mut self.managed) {
            match event {
                cm::Event::Request { listener, id, from, hello } => {
                    let port = self.listeners.iter().find(|(_, it)| **it == listener).map(|(port, _)| *port);
                    let (Some(path), Some(port)) = (path, port) else { continue };
                    let local = SocketAddr::new(self.link.address(), port);
                    self.counters.requests += 1;
                    self.asked.insert(id, Asked { listener, path, local, remote: from });
                    inbox.push(Event::Request { listener, id, from, hello });
                }
                cm::Event::Withdrawn { id } => {
                    self.asked.remove(&id);
                }
                cm::Event::Connected { qp, agreed, hello } => self.connected(qp, agreed, hello, inbox),
                cm::Event::Refused { qp, hello, .. } => {
                    if self.table.remove(qp).is_some() {
                        self.counters.refused += 1;
                        inbox.push(Event::Refused { qp, hello });
                    }
                }
                cm::Event::Gone { qp, why } => self.end(now, qp, why, Peer::Knows, inbox),
            }
        }
    }

    fn connected(&mut self, qp: Qp, agreed: Option<Agreed>, hello: Vec<u8>, inbox: &mut Vec<Event>) {
        let pair = agreed.map(|agreed| self.pair(qp, &agreed));
        let Some(entry) = self.table.get_mut(qp) else { return };
        self.counters.established += 1;
        match pair {
            Some(pair) => {
                entry.stage = Stage::Up(pair);
                inbox.push(Event::Established { qp, hello });
            }
            None => entry.rise(qp, inbox),
        }
    }

    /// Sends what the connection manager has to send.
    fn send_mads(&mut self, now: Instant) {
        while let Some(datagram) = self.cm.outgoing() {
            if let Ok(path) = self.link.path(now, datagram.to) {
                self.send_mad(path, &datagram.mad);
            }
        }
    }

    /// Disconnects everything, in as many words as the link takes at once.
    pub(super) fn leave(&mut self) {
        let now = Instant::default();
        let all: Vec<Qp> = self.table.names().map(|(qp, _)| qp).collect();
        let mut events = Vec::new();
        for qp in all {
            self.end(now, qp, Fault::Disconnected, Peer::Told, &mut events);
        }
        self.send_mads(now);
        self.link.flush();
    }
}
