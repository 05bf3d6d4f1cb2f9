//! What comes in from a peer. It is an allegation until it is checked here, once.

use demi_api::libos::Cx;
use demi_api::memalloc::Buf;
use demi_api::slab::Key;

use crate::catmint::Catmint;
use crate::device::{DeviceCx, Qp};
use crate::sockets::{Question, Socket};
use crate::wire::{self, HEAD, Head, Kind, OFFER_COST, cost};

/// Messages up to this are copied into a buffer of their size if nobody waits for them.
const COPIED: usize = 512;

impl Catmint {
    /// A message.
    #[inline]
    pub(crate) fn received(&mut self, cx: &mut Cx<'_>, qp: Qp, mut message: Buf) {
        self.receives.note_taken();
        self.counters.received += 1;
        let known = self.peers.of_qp(qp);
        let peer = known.and_then(|key| self.peers.table.get_mut(key));
        let (Some(key), Some(peer)) = (known, peer) else {
            let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
            self.receives.replace(&mut *self.device, &device_cx);
            // On a region's queue pair there is nothing to be said.
            return self.regions.expel(&mut *self.device, cx, qp);
        };
        if !peer.allowance.note_received() {
            self.replace_for(cx, key);
            return self.expel(cx, key);
        }
        if peer.expelled {
            return self.replace_for(cx, key);
        }
        let Some(head) = wire::is_data(&message) else { return self.other(cx, key, message) };
        self.note_taken(key, head.taken);
        let Some(connection) = self.heard_on(key, &head, cost(message.len() - HEAD)) else {
            self.replace_for(cx, key);
            return self.expel(cx, key);
        };
        let len = message.len() - HEAD;
        self.counters.bytes_in += len as u64;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return };
        if conn.closing || conn.deaf || conn.said_close {
            if conn.deaf && !conn.closing {
                conn.recv.consumed = conn.recv.consumed.wrapping_add(cost(len));
                self.note_consumed(connection);
            }
            return self.put_back_for(cx, key, message);
        }
        let waited_for = conn.inbox.is_empty() && !conn.pops.is_empty();
        // What lies about takes no more than twice its size.
        let small = len <= COPIED.max(self.policy.receive_bytes as usize / 2);
        if !waited_for
            && small
            && let Ok(mut copy) = cx.heap.alloc(len)
        {
            copy.copy_from_slice(&message[HEAD..]);
            self.counters.copied_receives += 1;
            self.put_back_for(cx, key, message);
            return self.deliver(cx, connection, copy.freeze(), cost(len));
        }
        message.advance(HEAD);
        self.deliver(cx, connection, message, cost(len));
        self.replace_for(cx, key);
    }

    /// The connection that an element is for, if it may come there.
    #[inline]
    fn heard_on(&mut self, key: Key, head: &Head, cost: u32) -> Option<Key> {
        let connection = self.peers.table.get(key)?.find(head.to)?;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return None };
        let sound = !(conn.heard_end | conn.heard_close | conn.unanswered)
            && conn.opening.is_none()
            && conn.recv.note_used(cost);
        if !sound {
            return None;
        }
        if conn.send.note_granted(head.granted) && conn.stalled {
            self.unstall(connection);
        }
        Some(connection)
    }

    /// Puts another receive in the place of the one that a peer's message took.
    fn replace_for(&mut self, cx: &Cx<'_>, key: Key) {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let replaced = self.receives.replace(&mut *self.device, &device_cx);
        self.note_replaced(cx, key, replaced);
    }

    /// The same, with the message's own buffer.
    fn put_back_for(&mut self, cx: &Cx<'_>, key: Key, message: Buf) {
        match message.try_into_mut() {
            Ok(buf) => {
                let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
                let replaced = self.receives.put_back(&mut *self.device, &device_cx, buf);
                self.note_replaced(cx, key, replaced);
            }
            Err(_) => self.replace_for(cx, key),
        }
    }

    #[inline]
    fn note_replaced(&mut self, cx: &Cx<'_>, key: Key, replaced: bool) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        if replaced {
            peer.allowance.note_replaced();
            if peer.allowance.is_due() {
                self.peers.rouse(key);
            }
            return;
        }
        peer.owed += 1;
        self.counters.receives_owed += 1;
        if peer.owed == 1 {
            self.peers.owing.push(key);
            self.hurry(cx);
        }
    }

    /// Tries to replace what is owed.
    pub(crate) fn pay_debts(&mut self, cx: &Cx<'_>) -> usize {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let mut paid = 0;
        while let Some(key) = self.peers.owing.last().copied() {
            if !self.receives.replace(&mut *self.device, &device_cx) {
                break;
            }
            paid += 1;
            let Some(peer) = self.peers.table.get_mut(key) else { break };
            peer.owed -= 1;
            if peer.owed == 0 {
                self.peers.owing.pop();
            }
            self.note_replaced(cx, key, true);
        }
        // Messages of nobody who was promised anything have taken some as well.
        while self.receives.is_short() && self.receives.replace(&mut *self.device, &device_cx) {
            paid += 1;
        }
        paid
    }

    /// The peer says how many messages it has taken.
    #[inline]
    pub(crate) fn note_taken(&mut self, key: Key, taken: u32) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        if peer.allowance.note_taken(taken) && std::mem::take(&mut peer.starved) {
            self.peers.starved.retain(|other| *other != key);
            self.peers.rouse(key);
        }
    }

    /// A message that is not data.
    #[inline(never)]
    fn other(&mut self, cx: &mut Cx<'_>, key: Key, message: Buf) {
        let parsed = wire::parse(&message);
        self.put_back_for(cx, key, message);
        let sound = parsed.is_some_and(|(head, kind)| {
            self.note_taken(key, head.taken);
            self.heed(cx, key, head, kind).is_some()
        });
        if !sound {
            self.expel(cx, key);
        }
    }

    /// `None`: it breaks a rule.
    fn heed(&mut self, cx: &mut Cx<'_>, key: Key, head: Head, kind: Kind) -> Option<()> {
        let peer = self.peers.table.get(key)?;
        let is_name =
            |name: wire::Name| name.generation() != 0 && name.slot() < usize::from(peer.connections);
        if let Kind::Open { name, port, from, ip } = kind {
            if !is_name(name) {
                return None;
            }
            self.asked(cx, key, &Question { name, port, from, ip, granted: head.granted });
            return Some(());
        }
        let connection = peer.find(head.to)?;
        let named = !matches!(kind, Kind::Accept { name } if !is_name(name));
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return None };
        if conn.heard_close || conn.unanswered || !named {
            return None;
        }
        // Nothing but an answer comes before the answer, and nothing of the kind behind it.
        if conn.opening.is_some() != matches!(kind, Kind::Accept { .. } | Kind::Refuse(_)) {
            return None;
        }
        if matches!(kind, Kind::End | Kind::Grant | Kind::Blocked { .. })
            && conn.send.note_granted(head.granted)
            && conn.stalled
        {
            self.unstall(connection);
        }
        match kind {
            Kind::Accept { name } => self.accepted(cx, connection, name, head.granted),
            Kind::Refuse(why) => self.refused(cx, connection, why),
            Kind::End => {
                let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return None };
                if std::mem::replace(&mut conn.heard_end, true) {
                    return None;
                }
                self.serve_end(cx, connection);
            }
            Kind::Close { reset, used } => self.heard_close(cx, connection, reset, used),
            Kind::Offer { number, segments } => {
                self.heard_on(key, &head, OFFER_COST)?;
                let Some(Socket::Connection(conn)) = self.sockets.get_mut(connection) else { return None };
                // It is taken back when the Close is heard that was said, or will be.
                let ignored = conn.closing || conn.said_close;
                if !ignored && !self.offer(connection, number, segments) {
                    return None;
                }
            }
            Kind::Done { number, read } => {
                if !self.answered(cx, connection, number, read) {
                    return None;
                }
            }
            Kind::Grant => {}
            Kind::Blocked { granted } => self.blocked(connection, granted),
            Kind::Open { .. } | Kind::Data => return None,
        }
        Some(())
    }
}
