//! What goes out to a peer, and in which order: credits, then what is to be said, then reads, then the connections in turn.
//!
//! Invariant: nothing is posted beyond the peer's allowance, and what has no room waits in its list.

use demi_api::libos::Cx;
use demi_api::sga::SgArray;
use demi_api::slab::Key;

use crate::catmint::Catmint;
use crate::device::{DeviceCx, RdmaDevice, Remote, Then};
use crate::sockets::{Posted, Reading, Socket};
use crate::wire::{self, Head, Kind, Name, OFFER_COST, Refusal};

use super::{Peer, Stage};

/// Something to be said to a peer.
#[derive(Debug)]
pub(crate) enum Control {
    /// On a connection, which names the rest.
    Open(Key),
    Accept(Key),
    End(Key),
    Grant(Key),
    Blocked(Key),
    /// By the peer's name for the connection, which may be gone here.
    Refuse(Name, Refusal),
    Close {
        to: Name,
        reset: bool,
        used: u32,
    },
    /// Of a connection, by the peer's name for it.
    Done {
        of: Key,
        to: Name,
        number: u32,
        read: bool,
    },
}

/// What a step of `pump` came to.
enum Step {
    Done,
    /// Nothing was posted: a connection was put aside.
    Aside,
    /// The send queue is full.
    Full,
    /// The peer has taken too little.
    Starved,
    Nothing,
}

impl Catmint {
    /// Posts what waits to be posted to a peer, as far as there is room.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let mut done = 0;
        loop {
            match self.pump_one(cx, key) {
                Step::Done => done += 1,
                Step::Aside => {}
                // It stays on the list, for the next turn.
                Step::Full => break,
                Step::Starved => {
                    self.starve(cx, key);
                    break;
                }
                Step::Nothing => {
                    self.rest(key);
                    break;
                }
            }
        }
        self.unflushed |= done > 0;
        done
    }

    /// Posts to all that have something to be posted.
    pub(crate) fn pump_all(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        let mut index = 0;
        while let Some(key) = self.peers.busy.get(index).copied() {
            done += self.pump(cx, key);
            // One that has come to rest is not on the list any more.
            index += usize::from(self.peers.busy.get(index) == Some(&key));
        }
        done
    }

    fn rest(&mut self, key: Key) {
        if let Some(peer) = self.peers.table.get_mut(key) {
            peer.busy = false;
        }
        self.peers.busy.retain(|other| *other != key);
    }

    /// Nothing can be sent before the peer takes something.
    fn starve(&mut self, cx: &Cx<'_>, key: Key) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        if !std::mem::replace(&mut peer.starved, true) {
            self.counters.receives_exhausted += 1;
            self.peers.starved.push(key);
            self.hurry(cx);
        }
    }

    fn pump_one(&mut self, cx: &mut Cx<'_>, key: Key) -> Step {
        let Some(peer) = self.peers.table.get_mut(key) else { return Step::Nothing };
        if !matches!(peer.stage, Stage::Up) || peer.expelled {
            return Step::Nothing;
        }
        if !peer.has_work() {
            return Step::Nothing;
        }
        if self.device.room(peer.qp) == 0 {
            return Step::Full;
        }
        if peer.allowance.is_due() {
            return self.write_taken(cx, key);
        }
        if let Some(connection) = peer.grants.pop_front() {
            self.write_grant(cx, key, connection);
            return Step::Done;
        }
        if !peer.readers.is_empty() {
            match self.read_next(cx, key) {
                Reading::Posted => return Step::Done,
                Reading::Aside => return Step::Aside,
                Reading::Full => return Step::Full,
                Reading::Enough => {}
            }
        }
        let Some(peer) = self.peers.table.get_mut(key) else { return Step::Nothing };
        if peer.controls.is_empty() && peer.ready.is_empty() {
            // Readers that wait for others' reads to end are called then.
            return Step::Nothing;
        }
        if !peer.allowance.may_send() {
            return Step::Starved;
        }
        if let Some(control) = peer.controls.pop_front() {
            return match self.post_control(cx, key, &control) {
                true => Step::Done,
                false => {
                    if let Some(peer) = self.peers.table.get_mut(key) {
                        peer.controls.push_front(control);
                    }
                    Step::Full
                }
            };
        }
        let Some(connection) = peer.ready.pop_front() else { return Step::Nothing };
        match self.post_next(cx, connection) {
            Posted::More => {
                if let Some(peer) = self.peers.table.get_mut(key) {
                    peer.ready.push_back(connection);
                }
                Step::Done
            }
            Posted::Last => {
                self.unlist(connection);
                Step::Done
            }
            Posted::Aside => {
                self.unlist(connection);
                Step::Aside
            }
            Posted::NoRoom => {
                if let Some(peer) = self.peers.table.get_mut(key) {
                    peer.ready.push_front(connection);
                }
                Step::Full
            }
        }
    }

    fn unlist(&mut self, connection: Key) {
        if let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) {
            conn.listed = false;
        }
    }

    /// Tells a peer by its credit word how many messages were taken.
    fn write_taken(&mut self, cx: &Cx<'_>, key: Key) -> Step {
        let Some(peer) = self.peers.table.get_mut(key) else { return Step::Nothing };
        let before = peer.allowance.told();
        let word = u64::from(peer.allowance.tell());
        let cx = DeviceCx { heap: cx.heap, now: cx.now };
        match self.device.write_word(&cx, peer.qp, peer.words, word, Then::Quiet) {
            Ok(()) => {
                peer.posted = cx.now;
                self.counters.receive_credits_written += 1;
                Step::Done
            }
            Err(_) => {
                peer.allowance.untell(before);
                Step::Full
            }
        }
    }

    /// Tells a peer by its credit word how much it may push on a connection, if that is still news.
    fn write_grant(&mut self, cx: &Cx<'_>, key: Key, connection: Key) {
        let window = self.window();
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return };
        conn.grant_listed = false;
        if !conn.recv.is_due(window) || !conn.speaks() {
            return;
        }
        let before = conn.recv.granted;
        let granted = conn.recv.grant(window);
        let slot = conn.remote.slot() as u64;
        let to = Remote { addr: peer.words.addr.wrapping_add(8 * (slot + 1)), key: peer.words.key };
        let word = u64::from(conn.remote.generation()) << 32 | u64::from(granted);
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        match self.device.write_word(&device_cx, peer.qp, to, word, Then::Quiet) {
            Ok(()) => {
                peer.posted = cx.now;
                self.counters.window_credits_written += 1;
            }
            Err(_) => {
                conn.recv.granted = before;
                conn.grant_listed = true;
                peer.grants.push_back(connection);
            }
        }
    }

    /// A write of no bytes, which fails if nobody is there.
    pub(super) fn keep_alive(&mut self, cx: &Cx<'_>, key: Key) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        if self.device.write(&device_cx, peer.qp, peer.words, SgArray::new(), Then::Quiet).is_ok() {
            peer.posted = cx.now;
            self.counters.keepalives += 1;
            self.unflushed = true;
        }
    }

    fn post_control(&mut self, cx: &Cx<'_>, key: Key, control: &Control) -> bool {
        let window = self.window();
        let Some(peer) = self.peers.table.get_mut(key) else { return true };
        let mut head = Head { to: Name::NONE, taken: 0, granted: 0 };
        let kind = match *control {
            Control::Refuse(to, why) => {
                head.to = to;
                peer.refusals = peer.refusals.saturating_sub(1);
                Kind::Refuse(why)
            }
            Control::Close { to, reset, used } => {
                head.to = to;
                Kind::Close { reset, used }
            }
            Control::Done { to, number, read, .. } => {
                head.to = to;
                Kind::Done { number, read }
            }
            Control::Open(connection)
            | Control::Accept(connection)
            | Control::End(connection)
            | Control::Grant(connection)
            | Control::Blocked(connection) => {
                // What has closed meanwhile has nothing to say.
                let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return true };
                head.to = conn.remote;
                let kind = match control {
                    Control::Open(_) => Kind::Open {
                        name: conn.name,
                        port: conn.there.port(),
                        from: conn.here.port(),
                        ip: conn.there.ip(),
                    },
                    Control::Accept(_) => Kind::Accept { name: conn.name },
                    Control::End(_) if conn.speaks() => Kind::End,
                    Control::Grant(_) if conn.speaks() => Kind::Grant,
                    Control::Blocked(_) if conn.speaks() => Kind::Blocked { granted: conn.send.granted },
                    _ => return true,
                };
                head.granted = conn.recv.grant(window);
                kind
            }
        };
        self.counters.window_credits_sent += u64::from(kind == Kind::Grant);
        if matches!(control, Control::Close { .. } | Control::Done { .. }) {
            head.granted = 0;
        }
        self.counters.sent += 1;
        let posted = post(&mut *self.device, cx, peer, head, &kind);
        if posted {
            self.note_said(control);
        }
        posted
    }

    /// What was to be said is on its way.
    fn note_said(&mut self, control: &Control) {
        let (Control::Accept(key) | Control::Grant(key) | Control::Done { of: key, .. }) = *control else {
            return;
        };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        match control {
            Control::Accept(_) => conn.unanswered = false,
            Control::Grant(_) => conn.grant_said = false,
            _ => {
                conn.recv.unsaid = conn.recv.unsaid.wrapping_sub(OFFER_COST);
                self.note_consumed(key);
            }
        }
    }
}

/// Posts a message without data. False: there is no room.
pub(crate) fn post(
    device: &mut dyn RdmaDevice,
    cx: &Cx<'_>,
    peer: &mut Peer,
    mut head: Head,
    kind: &Kind,
) -> bool {
    let before = peer.allowance.told();
    head.taken = peer.allowance.tell();
    let bytes = wire::emit(head, kind);
    let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
    match device.send(&device_cx, peer.qp, &bytes, SgArray::new(), Then::Quiet) {
        Ok(()) => {
            peer.allowance.note_sent();
            peer.posted = cx.now;
            true
        }
        Err(_) => {
            peer.allowance.untell(before);
            false
        }
    }
}
