//! Popping: elements in the order in which they came.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::Buf;
use demi_api::op::{Done, Step};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::Socket;
use super::conn::Element;
use crate::catmint::Catmint;
use crate::peers::Control;

impl Catmint {
    pub(crate) fn pop(&mut self, _cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<Step, Error> {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        if conn.opening.is_some() {
            return Err(Error::NotConnected);
        }
        if let Some(error) = conn.end() {
            return Ok(Step::Done(Err(error)));
        }
        if conn.pops.is_empty()
            && let Some(Element::Whole(..)) = conn.inbox.front()
            && let Some(Element::Whole(sga, cost)) = conn.inbox.pop_front()
        {
            conn.held -= sga.len();
            conn.recv.consumed = conn.recv.consumed.wrapping_add(cost);
            self.note_consumed(key);
            self.want_reads(key);
            return Ok(Step::Done(Ok(Done::Popped(sga))));
        }
        conn.pops.push_back(token);
        if !conn.inbox.is_empty() {
            self.want_reads(key);
        }
        Ok(Step::Pending)
    }

    /// The bytes of a message, without its head, for a connection that still listens.
    #[inline]
    pub(crate) fn deliver(&mut self, cx: &mut Cx<'_>, key: Key, data: Buf, cost: u32) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.inbox.is_empty()
            && let Some(token) = conn.pops.pop_front()
        {
            conn.recv.consumed = conn.recv.consumed.wrapping_add(cost);
            let mut sga = SgArray::from(data);
            cx.done.post_popped(token, &mut sga);
            return self.note_consumed(key);
        }
        conn.held += data.len();
        conn.inbox.push_back(Element::Whole(data.into(), cost));
    }

    /// Hands out what is at the front, as far as there are pops.
    pub(crate) fn serve_pops(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        while !conn.pops.is_empty()
            && let Some(Element::Whole(..)) = conn.inbox.front()
            && let Some(Element::Whole(mut sga, cost)) = conn.inbox.pop_front()
            && let Some(token) = conn.pops.pop_front()
        {
            conn.held -= sga.len();
            conn.recv.consumed = conn.recv.consumed.wrapping_add(cost);
            cx.done.post_popped(token, &mut sga);
        }
        self.note_consumed(key);
        self.serve_end(cx, key);
        self.want_reads(key);
    }

    /// After something was taken: whether the peer should be told.
    #[inline]
    pub(crate) fn note_consumed(&mut self, key: Key) {
        let window = self.window;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if !conn.recv.is_due(window) || conn.grant_listed || !conn.speaks() || conn.heard_close {
            return;
        }
        if std::mem::take(&mut conn.wake) {
            return self.say_grant(key);
        }
        if let Some(known) = self.peers.table.get_mut(conn.peer) {
            conn.grant_listed = true;
            known.grants.push_back(key);
            self.peers.rouse(conn.peer);
        }
    }

    /// The peer sleeps until it is granted more than this.
    pub(crate) fn blocked(&mut self, key: Key, known: u32) {
        let window = self.window;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.recv.granted == known && !conn.recv.is_due(window) {
            conn.wake = true;
            return;
        }
        // What was written into its memory it may not have seen.
        self.say_grant(key);
    }

    /// Says what is granted, once: a grant that waits tells the newest when it goes.
    fn say_grant(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if !std::mem::replace(&mut conn.grant_said, true) {
            let peer = conn.peer;
            self.peers.say(peer, Control::Grant(key));
        }
    }
}
