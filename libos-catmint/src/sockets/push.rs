//! Pushing: what fits goes at once and in place, the rest in its turn.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Position, Step};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::conn::{Posted, Push, PushState};
use super::{Flight, Socket};
use crate::catmint::Catmint;
use crate::device::{DeviceCx, Then};
use crate::peers::Peer;
use crate::wire::{self, HEAD, Head, OFFER_COST, cost};

use super::Conn;

/// Arrays up to this are copied rather than held.
const COPIED: usize = 512;

impl Catmint {
    /// Posts a small array if nothing is in its way, and is done with it. False: nothing was done.
    #[inline]
    pub(crate) fn push_brief(&mut self, cx: &mut Cx<'_>, key: Key, sga: &mut SgArray) -> bool {
        let window = self.window;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return false };
        let len = sga.len();
        // Lengths beyond 32 bits have no cost.
        if len + HEAD > self.inline {
            return false;
        }
        let cost = cost(len);
        let goes = conn.pushes.is_empty()
            && conn.send.covers(cost)
            && cost <= conn.send.most
            && !(conn.end_wanted | conn.heard_close)
            && conn.speaks();
        if !goes {
            return false;
        }
        let Some(peer) = self.peers.table.get_mut(conn.peer) else { return false };
        if !peer.is_clear() || len + HEAD > peer.receive_bytes || conn.failed.is_some() {
            return false;
        }
        let before = peer.allowance.told();
        let head = Head { to: conn.remote, taken: peer.allowance.tell(), granted: conn.recv.grant(window) };
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let data = std::mem::take(sga);
        match self.device.send(&device_cx, peer.qp, &wire::data(head), data, Then::Quiet) {
            Ok(()) => {
                peer.allowance.note_sent();
                peer.posted = cx.now;
                conn.send.spent = conn.send.spent.wrapping_add(cost);
                self.counters.sent += 1;
                self.counters.bytes_out += len as u64;
                self.flush_first(cx);
                true
            }
            Err(data) => {
                peer.allowance.untell(before);
                *sga = data;
                false
            }
        }
    }

    pub(crate) fn push(
        &mut self,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        sga: &mut SgArray,
    ) -> Result<Step, Error> {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        if conn.opening.is_some() {
            return Err(Error::NotConnected);
        }
        if let Some(error) = &conn.failed {
            return Err(error.clone());
        }
        if conn.end_wanted || conn.heard_close {
            return Err(Error::Closed);
        }
        let Some(peer) = self.peers.table.get(conn.peer) else { return Err(Error::ConnectionReset) };
        let (len, limit) = (sga.len(), peer.longest as usize);
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        conn.pushes.push_back(Push { token: None, state: PushState::Waiting, sga: std::mem::take(sga) });
        let number = conn.first.wrapping_add(conn.pushes.len() as u32 - 1);
        let peer = conn.peer;
        self.list(key);
        self.pump(cx, peer);
        self.flush_first(cx);
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return Ok(Step::Pending) };
        // Done at once: that is how it is returned, not posted.
        match conn.push_mut(number) {
            Some(push) => {
                push.token = Some(token);
                Ok(Step::Pending)
            }
            // And so are those before it, which were posted.
            None => Ok(Step::Done(Ok(Done::Pushed(Position(0))))),
        }
    }

    /// Puts a connection that has something to push on its peer's list.
    pub(crate) fn list(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.listed || conn.stalled || conn.next == conn.pushes.len() {
            return;
        }
        let Some(peer) = self.peers.table.get_mut(conn.peer) else { return };
        conn.listed = true;
        peer.ready.push_back(key);
        self.peers.rouse(conn.peer);
    }

    /// Posts the next push of a connection.
    pub(crate) fn post_next(&mut self, cx: &mut Cx<'_>, key: Key) -> Posted {
        let posted = self.post_one(cx, key);
        if matches!(posted, Posted::Last) {
            self.say_end(key);
            self.settle_close(cx, key);
        }
        posted
    }

    fn post_one(&mut self, cx: &mut Cx<'_>, key: Key) -> Posted {
        let window = self.window;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return Posted::Last };
        let Some(peer) = self.peers.table.get_mut(conn.peer) else { return Posted::Last };
        if !conn.speaks() {
            return Posted::Last;
        }
        let Some(push) = conn.pushes.get_mut(conn.next) else { return Posted::Last };
        let len = push.sga.len();
        let in_place = fits(peer, conn.send.most, len);
        let cost = if in_place { cost(len) } else { OFFER_COST };
        if !conn.send.covers(cost) {
            self.stall(key);
            return Posted::Last;
        }
        if !in_place {
            return self.post_offer(cx, key);
        }
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let mut data = std::mem::take(&mut push.sga);
        let mut held = len + HEAD > self.inline;
        if held
            && len <= COPIED
            && let Ok(mut copy) = cx.heap.alloc(len)
        {
            data.copy_to(&mut copy);
            data = SgArray::from(copy);
            held = false;
            self.counters.copied_sends += 1;
        }
        let number = conn.first.wrapping_add(conn.next as u32);
        let flight = held.then(|| self.flights.insert(Flight::Push(key, number)));
        let then = flight.map_or(Then::Quiet, |flight| Then::Tell(flight.to_u64()));
        let before = peer.allowance.told();
        let head = Head { to: conn.remote, taken: peer.allowance.tell(), granted: conn.recv.grant(window) };
        match self.device.send(&device_cx, peer.qp, &wire::data(head), data, then) {
            Ok(()) => {
                peer.allowance.note_sent();
                peer.posted = cx.now;
                conn.send.spent = conn.send.spent.wrapping_add(cost);
                push.state = if held { PushState::Flying } else { PushState::Done };
                conn.next += 1;
                self.counters.sent += 1;
                self.counters.bytes_out += len as u64;
                conn.complete(cx);
                more(conn)
            }
            Err(data) => {
                push.sga = data;
                peer.allowance.untell(before);
                if let Some(flight) = flight {
                    self.flights.remove(flight);
                }
                Posted::NoRoom
            }
        }
    }

    /// The window is used up.
    fn stall(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        conn.stalled = true;
        conn.blocked_said = false;
        self.stalled.push_back(key);
        self.counters.window_exhausted += 1;
    }

    /// The window is wider than it was.
    pub(crate) fn unstall(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if std::mem::replace(&mut conn.stalled, false) {
            self.stalled.retain(|other| *other != key);
            self.list(key);
        }
    }

    /// A push of which the device has told that it is done, or has failed: its connection's name may be given up already, and
    /// then nothing else tells of it.
    pub(crate) fn push_sent(&mut self, cx: &mut Cx<'_>, key: Key, number: u32, well: bool) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if let Some(push) = conn.push_mut(number)
            && matches!(push.state, PushState::Flying)
        {
            push.state = if well { PushState::Done } else { PushState::Failed(Error::ConnectionReset) };
        }
        conn.complete(cx);
        if conn.closing {
            self.settle_close(cx, key);
        }
    }
}

/// Whether an array goes as a message, or is offered. An empty one has nothing to be read, and so no end as an offer.
fn fits(peer: &Peer, most: u32, len: usize) -> bool {
    len == 0 || (len + HEAD <= peer.receive_bytes && cost(len) <= most)
}

pub(super) fn more(conn: &Conn) -> Posted {
    if conn.next < conn.pushes.len() { Posted::More } else { Posted::Last }
}
