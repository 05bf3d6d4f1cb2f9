//! Listeners: whoever asks is answered here and now, as far as the backlog goes; the application takes what there is when it likes.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::addr::Addr;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Step};
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::{Conn, Socket};
use crate::catmint::Catmint;
use crate::device::{DeviceCx, ListenId};
use crate::peers::Control;
use crate::wire::{Name, Refusal};

/// Ports of our own choice that are tried at a device where others listen as well.
const TRIES: usize = 64;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) addr: SocketAddr,
    pub(crate) linger: Option<Duration>,
    pub(crate) device: ListenId,
    pub(crate) backlog: usize,
    pub(crate) queue: VecDeque<Key>,
    pub(crate) accepts: VecDeque<QToken>,
}

/// A question for a connection.
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) port: u16,
    pub(crate) from: u16,
    pub(crate) ip: IpAddr,
    pub(crate) granted: u32,
}

impl Catmint {
    pub(crate) fn listen_at(&mut self, cx: &Cx<'_>, key: Key, backlog: u32) -> Result<(), Error> {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let backlog = (backlog as usize).clamp(1, usize::from(u16::MAX));
        match self.sockets.get_mut(key) {
            Some(Socket::Listener(listener)) => {
                listener.backlog = backlog;
                return Ok(());
            }
            Some(Socket::Connection(_)) => return Err(Error::AlreadyConnected),
            Some(Socket::Fresh(_)) => {}
            Some(Socket::Region(_)) | None => return Err(Error::BadDescriptor),
        }
        let Some(Socket::Fresh(fresh)) = self.sockets.get_mut(key) else { return Err(Error::BadDescriptor) };
        let addr = fresh.bound.ok_or(Error::Invalid("bind before listen"))?;
        let (device, addr) = self.device.listen(&device_cx, addr)?;
        let linger = fresh.linger;
        let (queue, accepts) = (VecDeque::new(), VecDeque::new());
        let listener = Listener { addr, linger, device, backlog, queue, accepts };
        if let Some(socket) = self.sockets.get_mut(key) {
            *socket = Socket::Listener(Box::new(listener));
        }
        Ok(())
    }

    pub(crate) fn accept(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<Step, Error> {
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) else {
            return Err(Error::Invalid("accept needs a listening socket"));
        };
        if !listener.accepts.is_empty() || listener.queue.is_empty() {
            listener.accepts.push_back(token);
            return Ok(Step::Pending);
        }
        let Some(next) = listener.queue.pop_front() else { return Ok(Step::Pending) };
        Ok(Step::Done(self.hand_out(cx, next)))
    }

    /// Gives a connection a descriptor.
    fn hand_out(&mut self, _cx: &mut Cx<'_>, key: Key) -> Result<Done, Error> {
        let qd = self.queues.insert(key);
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else {
            return Err(Error::ConnectionAborted);
        };
        match qd {
            Ok(qd) => {
                conn.qd = Some(qd);
                conn.listener = Key::NONE;
                let peer = Addr::Inet(conn.there);
                Ok(Done::Accepted { qd, peer })
            }
            Err(error) => {
                let listener = conn.listener;
                if let Some(Socket::Listener(listener)) = self.sockets.get_mut(listener) {
                    listener.queue.push_front(key);
                }
                Err(error)
            }
        }
    }

    /// A peer asks for a connection.
    pub(crate) fn asked(&mut self, cx: &mut Cx<'_>, peer: Key, question: &Question) {
        let outcome = self.consider(peer, question);
        match outcome {
            Ok((listener, connection)) => {
                self.counters.accepted += 1;
                self.peers.say(peer, Control::Accept(connection));
                self.watch_over(cx, peer);
                if let Some(Socket::Listener(listener)) = self.sockets.get_mut(listener) {
                    listener.queue.push_back(connection);
                }
                self.serve_accepts(cx, listener);
            }
            Err(why) => {
                self.counters.refused += 1;
                let Some(entry) = self.peers.table.get_mut(peer) else { return };
                entry.refusals += 1;
                // An honest peer asks for no more at a time than it keeps.
                if entry.refusals > u32::from(entry.connections) {
                    return self.expel(cx, peer);
                }
                self.peers.say(peer, Control::Refuse(question.name, why));
            }
        }
    }

    fn consider(&mut self, key: Key, question: &Question) -> Result<(Key, Key), Refusal> {
        // The question came to one address of this device, and goes to listeners that are there.
        let entry = self.peers.table.get(key).ok_or(Refusal::TooMany)?;
        let local = entry.local.or_else(|| self.device.addrs(entry.qp).map(|(local, _)| local));
        if local.is_none_or(|local| local.ip() != question.ip) {
            return Err(Refusal::Nobody);
        }
        let here = SocketAddr::new(question.ip, question.port);
        let listener = self.ports.find(here).ok_or(Refusal::Nobody)?;
        let Some(Socket::Listener(found)) = self.sockets.get(listener) else { return Err(Refusal::Nobody) };
        if found.queue.len() >= found.backlog && found.accepts.is_empty() {
            return Err(Refusal::Backlog);
        }
        let linger = found.linger;
        let Some(peer) = self.peers.table.get(key) else { return Err(Refusal::TooMany) };
        // Where it says it is, is where its queue pair comes from.
        let ip = peer.remote.map_or(super::unspecified(demi_api::Domain::Inet), |addr| addr.ip());
        let there = SocketAddr::new(ip, question.from);
        let mut conn = Conn::new(key, here, there);
        conn.remote = question.name;
        conn.listener = listener;
        conn.unanswered = true;
        conn.linger = linger;
        conn.send.granted = question.granted.min(1 << 30);
        conn.send.most = conn.send.granted / 2;
        let connection = self.sockets.insert(Socket::Connection(Box::new(conn)));
        match self.take_name(key, connection) {
            Some(name) => {
                if let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) {
                    conn.name = name;
                }
                self.count(1);
                Ok((listener, connection))
            }
            None => {
                self.sockets.remove(connection);
                Err(Refusal::TooMany)
            }
        }
    }

    fn serve_accepts(&mut self, cx: &mut Cx<'_>, key: Key) {
        while let Some(Socket::Listener(listener)) = self.sockets.get_mut(key)
            && !listener.queue.is_empty()
            && let Some(token) = listener.accepts.pop_front()
            && let Some(next) = listener.queue.pop_front()
        {
            let done = self.hand_out(cx, next);
            cx.done.post(token, done);
        }
    }

    /// A port of our choice for a socket that listens at any.
    pub(crate) fn listen_anywhere(&mut self, cx: &mut Cx<'_>, key: Key, backlog: u32) -> Result<(), Error> {
        let mut tried = self.listen_at(cx, key, backlog);
        for _ in 0..TRIES {
            let Some(Socket::Fresh(fresh)) = self.sockets.get_mut(key) else { break };
            let (Err(Error::AddressInUse), Some(addr), true) = (&tried, fresh.bound, fresh.chosen) else {
                break;
            };
            // Another instance on the same device listens there.
            self.ports.leave(addr, key);
            fresh.bound = None;
            let again = self.ports.take(cx.rng, SocketAddr::new(addr.ip(), 0), key)?;
            fresh.bound = Some(again);
            tried = self.listen_at(cx, key, backlog);
        }
        tried
    }
}
