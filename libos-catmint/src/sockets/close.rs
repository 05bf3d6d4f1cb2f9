//! How connections end.
//!
//! Invariant: a side says Close once, when it reads nothing of the peer's any more; after both have, the name is free. What
//! was offered is taken back when the peer says Close, as it reads nothing then.

use demi_api::error::Error;
use demi_api::libos::{Cx, Shutdown};
use demi_api::op::{Done, Position};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::conn::{Element, PushState};
use super::{Flight, Socket};
use crate::catmint::Catmint;
use crate::deadlines::Of;
use crate::device::DeviceCx;
use crate::peers::Control;
use crate::wire::Name;

impl Catmint {
    /// The descriptor is gone already.
    pub(crate) fn close_socket(&mut self, cx: &mut Cx<'_>, key: Key) {
        match self.sockets.get_mut(key) {
            Some(Socket::Fresh(fresh)) => {
                if let Some(addr) = fresh.bound {
                    self.ports.leave(addr, key);
                }
                self.sockets.remove(key);
            }
            Some(Socket::Listener(_)) => self.close_listener(cx, key),
            Some(Socket::Connection(conn)) if conn.opening.is_some() => {
                conn.qd = None;
                self.abandon(cx, key, Error::Cancelled, false);
            }
            Some(Socket::Connection(_)) => self.close_connection(cx, key),
            Some(Socket::Region(region)) => {
                let region = *region;
                self.sockets.remove(key);
                self.regions.close(&mut *self.device, cx, region);
            }
            None => {}
        }
    }

    fn close_listener(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(Socket::Listener(listener)) = self.sockets.remove(key) else { return };
        self.ports.leave(listener.addr, key);
        self.device.unlisten(&DeviceCx { heap: cx.heap, now: cx.now }, listener.device);
        for token in listener.accepts {
            cx.done.post(token, Err(Error::Cancelled));
        }
        for waiting in listener.queue {
            if let Some(Socket::Connection(conn)) = self.sockets.get_mut(waiting) {
                conn.listener = Key::NONE;
                conn.linger = Some(std::time::Duration::ZERO);
            }
            self.close_connection(cx, waiting);
        }
    }

    fn close_connection(&mut self, cx: &mut Cx<'_>, key: Key) {
        let linger = self.policy.linger;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        conn.qd = None;
        conn.closing = true;
        for token in conn.pops.drain(..) {
            cx.done.post(token, Err(Error::Cancelled));
        }
        let linger = conn.linger.unwrap_or(linger);
        conn.abort |= !conn.inbox.is_empty() || linger.is_zero();
        conn.inbox.clear();
        (conn.held, conn.unread) = (0, 0);
        if conn.failed.is_some() || conn.peer == Key::NONE {
            // What the device has yet to tell of is waited for.
            return self.settle_close(cx, key);
        }
        if linger.is_zero() {
            self.drop_pushes(cx, key, &Error::ConnectionAborted);
        } else if !conn.is_through() {
            let at = cx.now + linger;
            conn.deadline = Some(at);
            self.deadlines.set(at, Of::Connection(key));
        }
        self.settle_close(cx, key);
    }

    /// A deadline of a connection.
    pub(crate) fn connection_due(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.deadline.is_none_or(|at| at > cx.now) {
            return;
        }
        conn.deadline = None;
        if conn.opening.is_some() {
            return self.abandon(cx, key, Error::TimedOut, true);
        }
        if conn.closing {
            // Close may have been said with pushes left: their fate must not depend on the peer's.
            let late = conn.pushes.iter().any(|push| push.token.is_some());
            self.counters.linger_expired += u64::from(late);
            conn.abort = true;
            self.drop_pushes(cx, key, &Error::TimedOut);
            self.settle_close(cx, key);
        }
    }

    pub(crate) fn shutdown_socket(&mut self, cx: &mut Cx<'_>, key: Key, how: Shutdown) -> Result<(), Error> {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        if conn.opening.is_some() {
            return Err(Error::NotConnected);
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) && !conn.deaf {
            conn.deaf = true;
            let mut taken = 0_u32;
            // What is being read is dropped when it has been.
            conn.inbox.retain(|element| match element {
                Element::Whole(_, cost) => {
                    taken = taken.wrapping_add(*cost);
                    false
                }
                Element::Offer(_) => true,
            });
            conn.held = conn.inbox.iter().map(Element::len).sum();
            conn.recv.consumed = conn.recv.consumed.wrapping_add(taken);
            for token in conn.pops.drain(..) {
                cx.done.post(token, Err(Error::EndOfStream));
            }
            self.refuse_offers(key);
            self.note_consumed(key);
        }
        if matches!(how, Shutdown::Write | Shutdown::Both)
            && let Some(Socket::Connection(conn)) = self.sockets.get_mut(key)
        {
            conn.end_wanted = true;
            self.say_end(key);
        }
        Ok(())
    }

    /// Says that no more is pushed, once all is posted.
    pub(crate) fn say_end(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.end_wanted && conn.next == conn.pushes.len() && conn.speaks() && !conn.end_said {
            conn.end_said = true;
            let peer = conn.peer;
            self.peers.say(peer, Control::End(key));
        }
    }

    /// All pushes fail, here and now. What the peer may be reading is taken back when it says that it does not.
    fn drop_pushes(&mut self, cx: &mut Cx<'_>, key: Key, error: &Error) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        for push in &mut conn.pushes {
            // What the peer has read has arrived.
            let read = matches!(&push.state, PushState::Offered(offered) if offered.read);
            if let Some(token) = push.token.take() {
                cx.done.post(token, if read { Ok(Done::Pushed(Position(0))) } else { Err(error.clone()) });
            }
            if matches!(push.state, PushState::Waiting) {
                push.sga = SgArray::new();
                push.state = PushState::Done;
            }
        }
        conn.next = conn.pushes.len();
        conn.complete(cx);
    }

    /// Says Close if it is time, and lets go of the connection if both have.
    pub(crate) fn settle_close(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.opening.is_some() {
            return;
        }
        let through = conn.abort || conn.heard_close || conn.is_through();
        let wanted = (conn.closing && through) || conn.heard_close;
        if wanted && !conn.said_close && conn.reads == 0 && conn.peer != Key::NONE {
            conn.said_close = true;
            let reset = conn.abort;
            let used = conn.recv.consumed;
            let (peer, to) = (conn.peer, conn.remote);
            self.peers.say(peer, Control::Close { to, reset, used });
        }
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.said_close && conn.heard_close {
            self.give_up_name(key);
        }
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let held = conn.qd.is_some() || conn.listener != Key::NONE;
        if !held && conn.peer == Key::NONE && conn.pushes.is_empty() {
            self.remove(cx, key);
        }
    }

    /// The peer says Close.
    pub(crate) fn heard_close(&mut self, cx: &mut Cx<'_>, key: Key, reset: bool, used: u32) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        conn.heard_close = true;
        let lost = used != conn.send.spent && !conn.said_close;
        // What it has offered it takes back.
        let offered = conn.inbox.iter().position(|element| matches!(element, Element::Offer(_)));
        if reset {
            conn.inbox.clear();
        } else if let Some(first) = offered {
            conn.inbox.truncate(first);
        }
        (conn.held, conn.unread) = (conn.inbox.iter().map(Element::len).sum(), 0);
        if reset || offered.is_some() {
            conn.failed = Some(Error::ConnectionReset);
        }
        conn.broken = lost;
        self.fail_pushes(cx, key, &Error::ConnectionReset);
        self.serve_end(cx, key);
        self.settle_close(cx, key);
    }

    /// The peer takes nothing more, and reads nothing: what waits fails, in its order; what is offered is taken back.
    fn fail_pushes(&mut self, cx: &mut Cx<'_>, key: Key, error: &Error) {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        for push in &mut conn.pushes {
            match &mut push.state {
                // Those that were read are being taken back already, and that is told of in its time.
                PushState::Offered(offered) if offered.read => {}
                PushState::Offered(offered) => {
                    if !offered.answered {
                        for grant in offered.grants.drain(..) {
                            let cookie = self.flights.insert(Flight::Revoke(Key::NONE, 0)).to_u64();
                            self.device.revoke(&device_cx, grant, cookie);
                        }
                    }
                    push.state = PushState::Failed(error.clone());
                }
                PushState::Waiting => push.state = PushState::Failed(error.clone()),
                PushState::Flying | PushState::Done | PushState::Failed(_) => {}
            }
        }
        conn.next = conn.pushes.len();
        conn.complete(cx);
    }

    /// Pops for which nothing will come.
    pub(crate) fn serve_end(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if let Some(error) = conn.end() {
            for token in conn.pops.drain(..) {
                cx.done.post(token, Err(error.clone()));
            }
        }
    }

    /// The queue pair is gone, and the connection with it.
    pub(crate) fn connection_lost(&mut self, cx: &mut Cx<'_>, key: Key, error: Error) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        conn.peer = Key::NONE;
        conn.name = Name::NONE;
        if conn.opening.is_some() {
            return self.opening_failed(cx, key, error);
        }
        if !conn.heard_close {
            conn.failed = Some(error.clone());
            conn.inbox.clear();
            (conn.held, conn.unread) = (0, 0);
        }
        conn.said_close = true;
        conn.reads = 0;
        // In this order: what the device had is lost as well.
        self.fail_pushes(cx, key, &error);
        self.drop_pushes(cx, key, &error);
        if let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) {
            conn.pushes.clear();
            conn.next = 0;
        }
        self.serve_end(cx, key);
        self.settle_close(cx, key);
    }

    /// The name is free for another connection.
    pub(crate) fn give_up_name(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if let Some(peer) = self.peers.table.get_mut(conn.peer) {
            peer.release(conn.name);
            peer.readers.retain(|other| *other != key);
        }
        conn.peer = Key::NONE;
        conn.name = Name::NONE;
    }

    /// Lets go of a connection that nobody holds.
    pub(crate) fn remove(&mut self, cx: &mut Cx<'_>, key: Key) {
        self.give_up_name(key);
        let Some(Socket::Connection(mut conn)) = self.sockets.remove(key) else { return };
        self.count(-1);
        if conn.bound {
            self.ports.leave(conn.here, key);
        }
        debug_assert!(conn.pushes.iter().all(|push| push.token.is_none()), "all have met their fate");
        if let Some(token) = conn.opening.as_mut().and_then(|opening| opening.token.take()) {
            cx.done.post(token, Err(Error::Cancelled));
        }
    }

    pub(crate) fn cancel_op(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<(), Error> {
        let cancelled = match self.sockets.get_mut(key) {
            Some(Socket::Listener(listener)) => take(&mut listener.accepts, token),
            Some(Socket::Connection(conn)) if conn.opening.is_some() => {
                self.abandon(cx, key, Error::Cancelled, true);
                return Ok(());
            }
            Some(Socket::Connection(conn)) => {
                let waiting = conn
                    .pushes
                    .iter()
                    .position(|push| push.token == Some(token) && matches!(push.state, PushState::Waiting));
                match waiting {
                    // Its number goes to the next, which is not posted either.
                    Some(at) => {
                        conn.pushes.remove(at);
                        // What comes next may be small enough for the window.
                        if at == conn.next {
                            self.unstall(key);
                        }
                        true
                    }
                    None => take(&mut conn.pops, token),
                }
            }
            Some(Socket::Fresh(_) | Socket::Region(_)) | None => false,
        };
        if !cancelled {
            return Err(Error::NotCancellable);
        }
        cx.done.post(token, Err(Error::Cancelled));
        self.say_end(key);
        Ok(())
    }
}

fn take(tokens: &mut std::collections::VecDeque<QToken>, token: QToken) -> bool {
    let found = tokens.iter().position(|other| *other == token);
    found.is_some_and(|at| tokens.remove(at).is_some())
}
