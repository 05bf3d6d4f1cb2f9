//! Connecting: to a peer that is known it is one message; otherwise the peer is called first.

use std::net::SocketAddr;

use demi_api::addr::Domain;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Step};
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::conn::{Conn, Opening};
use super::{Fresh, Socket, unspecified};
use crate::catmint::Catmint;
use crate::deadlines::Of;
use crate::peers::Control;
use crate::wire::{Name, Refusal};

impl Catmint {
    pub(crate) fn connect(
        &mut self,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        to: SocketAddr,
    ) -> Result<Step, Error> {
        let fresh = match self.sockets.get(key) {
            Some(Socket::Fresh(fresh)) => (**fresh).clone(),
            Some(_) => return Err(Error::AlreadyConnected),
            None => return Err(Error::BadDescriptor),
        };
        if (fresh.domain == Domain::Inet) != to.is_ipv4() || to.port() == 0 || to.ip().is_unspecified() {
            return Err(Error::BadAddress);
        }
        let here = fresh.bound.unwrap_or(SocketAddr::new(unspecified(fresh.domain), 0));
        let mut conn = Conn::new(Key::NONE, here, to);
        conn.qd = fresh.qd;
        conn.linger = fresh.linger;
        conn.bound = fresh.bound.is_some();
        conn.opening = Some(Box::new(Opening { token: Some(token), fresh, by_route: false }));
        let at = cx.now + self.policy.connect_timeout;
        conn.deadline = Some(at);
        if let Some(socket) = self.sockets.get_mut(key) {
            *socket = Socket::Connection(Box::new(conn));
        }
        self.count(1);
        self.deadlines.set(at, Of::Connection(key));
        match self.peers.routes.get(&to).copied() {
            Some(peer) => self.join(cx, key, peer),
            None => self.call_for(cx, key, to),
        }
        Ok(Step::Pending)
    }

    /// Goes by a peer that is known, or being called.
    fn join(&mut self, cx: &mut Cx<'_>, key: Key, peer: Key) {
        let Some(known) = self.peers.table.get_mut(peer) else { return };
        if !known.is_up() {
            return known.waiting.push(key);
        }
        if let Some(Socket::Connection(conn)) = self.sockets.get_mut(key)
            && let Some(opening) = &mut conn.opening
        {
            opening.by_route = true;
        }
        self.open_on(cx, key, peer);
    }

    fn call_for(&mut self, cx: &mut Cx<'_>, key: Key, to: SocketAddr) {
        if let Err(error) = self.call(cx, to, false, vec![key]) {
            self.opening_failed(cx, key, error);
        }
    }

    /// Asks a peer for a connection.
    pub(crate) fn open_on(&mut self, cx: &mut Cx<'_>, key: Key, peer: Key) {
        let limit = self.policy.connections;
        let Some(Socket::Connection(conn)) = self.sockets.get(key) else { return };
        if conn.closing {
            // Closed before it came to this.
            return self.remove(cx, key);
        }
        if self.peers.table.get(peer).is_none() {
            return;
        }
        // The peer's slots are its credit words.
        let Some(name) = self.take_name(peer, key) else {
            return self.opening_failed(cx, key, Error::TooManyQueues(limit.into()));
        };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let Some(known) = self.peers.table.get(peer) else { return };
        conn.peer = peer;
        conn.name = name;
        if let Some(local) = known.local {
            let port = match conn.here.port() {
                0 => self.ports.pick(cx.rng, local.ip()).unwrap_or(local.port()),
                port => port,
            };
            conn.here = SocketAddr::new(local.ip(), port);
        }
        self.watch_over(cx, peer);
        self.peers.say(peer, Control::Open(key));
    }

    /// The peer has accepted.
    pub(crate) fn accepted(&mut self, cx: &mut Cx<'_>, key: Key, name: Name, granted: u32) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let Some(opening) = conn.opening.take() else { return };
        conn.remote = name;
        conn.deadline = None;
        conn.send.granted = granted.min(1 << 30);
        conn.send.most = conn.send.granted / 2;
        if let Some(token) = opening.token {
            self.counters.connected += 1;
            cx.done.post(token, Ok(Done::Connected));
        }
        self.settle_close(cx, key);
    }

    /// The peer has refused.
    pub(crate) fn refused(&mut self, cx: &mut Cx<'_>, key: Key, why: Refusal) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let (to, by_route) = (conn.there, conn.opening.as_ref().is_some_and(|opening| opening.by_route));
        if let Some(peer) = self.peers.table.get_mut(conn.peer) {
            peer.release(conn.name);
        }
        conn.peer = Key::NONE;
        conn.name = Name::NONE;
        if why != Refusal::Nobody || !by_route || conn.closing {
            return self.opening_failed(cx, key, Error::ConnectionRefused);
        }
        // Who was there once is there no more: perhaps somebody else is.
        if let Some(opening) = &mut conn.opening {
            opening.by_route = false;
        }
        self.peers.routes.remove(&to);
        self.call_for(cx, key, to);
    }

    /// A connection does not come about; its socket is what it was before.
    pub(crate) fn opening_failed(&mut self, cx: &mut Cx<'_>, key: Key, error: Error) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let Some(opening) = conn.opening.take() else { return };
        let Opening { token, fresh, .. } = *opening;
        if conn.closing {
            return self.remove(cx, key);
        }
        self.give_up_name(key);
        self.restore(key, fresh);
        if let Some(token) = token {
            cx.done.post(token, Err(error));
        }
    }

    fn restore(&mut self, key: Key, fresh: Fresh) {
        self.count(-1);
        if let Some(socket) = self.sockets.get_mut(key) {
            *socket = Socket::Fresh(Box::new(fresh));
        }
    }

    /// The connection of a connect is not wanted any more, or takes too long. What the peer knows of it must be ended first.
    pub(crate) fn abandon(&mut self, cx: &mut Cx<'_>, key: Key, error: Error, keep: bool) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let Some(opening) = &mut conn.opening else { return };
        if let Some(token) = opening.token.take() {
            cx.done.post(token, Err(error));
        }
        let asked = conn.peer != Key::NONE;
        let fresh = opening.fresh.clone();
        if !asked {
            let waits_at: Vec<Key> = self.peers.routes.get(&conn.there).copied().into_iter().collect();
            for peer in waits_at {
                if let Some(peer) = self.peers.table.get_mut(peer) {
                    peer.waiting.retain(|other| *other != key);
                }
            }
            if keep {
                self.restore(key, fresh)
            } else {
                self.remove(cx, key)
            }
            return;
        }
        // The question goes on without its socket, which is fresh again.
        conn.qd = None;
        conn.closing = true;
        conn.abort = true;
        conn.deadline = None;
        conn.bound = false;
        if keep && let Some(qd) = fresh.qd {
            let bound = fresh.bound;
            let again = self.sockets.insert(Socket::Fresh(Box::new(fresh)));
            if let Ok(named) = self.queues.get_mut(qd) {
                *named = again;
            }
            if let Some(addr) = bound {
                self.ports.move_to(addr, key, again);
            }
        } else if let Some(addr) = fresh.bound {
            self.ports.leave(addr, key);
        }
    }
}
