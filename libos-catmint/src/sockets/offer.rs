//! Arrays too long for a message: offered by the one side, read by the other from where they lie.
//!
//! Invariants: what is offered is held until the peer has said that it reads no more, and then taken back before the push
//! completes. What is read is read once, into memory that was there before the first byte of it is asked for.

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::{Buf, BufMut, Heap};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::slab::Key;

use super::conn::{Element, Offer, Offered, Part, Posted, PushState};
use super::push::more;
use super::{Flight, Socket};
use crate::catmint::Catmint;
use crate::device::{DeviceCx, Remote};
use crate::peers::{Control, post};
use crate::wire::{Head, Kind, OFFER_COST};

/// What is read into pieces where there is no memory in one, is read into pieces of this.
const PIECE: usize = 256 << 10;

/// How often a device is asked to let a peer into memory before a push fails for that.
const GRANT_TRIES: u16 = 1000;

impl Catmint {
    /// Offers a connection's next push.
    pub(super) fn post_offer(&mut self, cx: &mut Cx<'_>, key: Key) -> Posted {
        let window = self.window;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return Posted::Last };
        let Some(peer) = self.peers.table.get_mut(conn.peer) else { return Posted::Last };
        let number = conn.first.wrapping_add(conn.next as u32);
        let Some(push) = conn.pushes.get_mut(conn.next) else { return Posted::Last };
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let parts = || push.sga.segments().iter().filter(|segment| !segment.is_empty());
        // All or nothing: grants that are taken back at once need room as well.
        if self.device.room(peer.qp) <= self.device.caps().grant * parts().count() {
            self.starve_connection(cx, key);
            return Posted::Aside;
        }
        let mut offered = Box::<Offered>::default();
        let mut segments = ArrayVec::new();
        let mut whole = true;
        for segment in parts() {
            let Ok((grant, place)) = self.device.grant(&device_cx, peer.qp, segment.clone()) else {
                whole = false;
                break;
            };
            offered.grants.push(grant);
            segments.push((place, segment.len() as u32));
        }
        let len = push.sga.len();
        let head = Head { to: conn.remote, taken: 0, granted: conn.recv.grant(window) };
        if !whole || !post(&mut *self.device, cx, peer, head, &Kind::Offer { number, segments }) {
            for grant in offered.grants {
                let cookie = self.flights.insert(Flight::Revoke(Key::NONE, 0)).to_u64();
                self.device.revoke(&device_cx, grant, cookie);
            }
            self.unflushed = true;
            if whole {
                return Posted::NoRoom;
            }
            conn.refused += 1;
            if conn.refused == GRANT_TRIES {
                conn.refused = 0;
                push.state = PushState::Failed(Error::NoBuffers);
                push.sga = SgArray::new();
                conn.next += 1;
                conn.complete(cx);
                return more(conn);
            }
            self.starve_connection(cx, key);
            return Posted::Aside;
        }
        conn.refused = 0;
        push.state = PushState::Offered(offered);
        push.sga = SgArray::new();
        conn.send.spent = conn.send.spent.wrapping_add(OFFER_COST);
        conn.next += 1;
        self.counters.sent += 1;
        self.counters.offered += 1;
        self.counters.bytes_out += len as u64;
        more(conn)
    }

    /// The peer has read what was offered, or will not. False: nothing of that number is offered.
    pub(crate) fn answered(&mut self, cx: &mut Cx<'_>, key: Key, number: u32, read: bool) -> bool {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return true };
        let Some(push) = conn.push_mut(number) else { return false };
        let PushState::Offered(offered) = &mut push.state else { return false };
        if offered.answered {
            return false;
        }
        offered.answered = true;
        offered.read = read;
        for grant in &offered.grants {
            let cookie = self.flights.insert(Flight::Revoke(key, number)).to_u64();
            self.device.revoke(&device_cx, *grant, cookie);
        }
        true
    }

    /// A part of what was offered can be read no more.
    pub(crate) fn revoked(&mut self, cx: &mut Cx<'_>, key: Key, number: u32) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let Some(push) = conn.push_mut(number) else { return };
        let PushState::Offered(offered) = &mut push.state else { return };
        offered.revoked += 1;
        if offered.revoked < offered.grants.len() {
            return;
        }
        push.state = if offered.read { PushState::Done } else { PushState::Failed(Error::ConnectionReset) };
        conn.complete(cx);
        self.settle_close(cx, key);
    }

    /// Something is offered. False: it is not what may be offered.
    pub(crate) fn offer(
        &mut self,
        key: Key,
        number: u32,
        segments: ArrayVec<(Remote, u32), MAX_SEGMENTS>,
    ) -> bool {
        let longest = self.policy.longest as usize;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return true };
        let len = segments.iter().map(|(_, len)| *len as usize).sum::<usize>();
        if len > longest {
            return false;
        }
        let offer = Offer { number, len, segments, parts: ArrayVec::new(), missing: 0 };
        conn.held += len;
        conn.inbox.push_back(Element::Offer(Box::new(offer)));
        conn.unread += 1;
        if conn.deaf {
            self.refuse_offers(key);
            self.note_consumed(key);
        } else {
            self.want_reads(key);
        }
        true
    }

    /// Nobody will want what is offered and not being read.
    pub(crate) fn refuse_offers(&mut self, key: Key) {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        let (peer, to) = (conn.peer, conn.remote);
        let mut numbers = Vec::new();
        conn.inbox.retain(|element| match element {
            Element::Offer(offer) if offer.parts.is_empty() => {
                numbers.push(offer.number);
                false
            }
            _ => true,
        });
        conn.held = conn.inbox.iter().map(Element::len).sum();
        conn.unread -= numbers.len() as u32;
        conn.recv.consumed = conn.recv.consumed.wrapping_add(OFFER_COST.wrapping_mul(numbers.len() as u32));
        conn.recv.unsaid = conn.recv.unsaid.wrapping_add(OFFER_COST.wrapping_mul(numbers.len() as u32));
        for number in numbers {
            self.peers.say(peer, Control::Done { of: key, to, number, read: false });
        }
    }

    /// Has the peer's memory read if there is something that should be.
    pub(crate) fn want_reads(&mut self, key: Key) {
        let window = self.window as usize;
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        if conn.unread == 0 || conn.reader_listed || conn.next_to_read(window).is_none() {
            return;
        }
        if let Some(peer) = self.peers.table.get_mut(conn.peer) {
            conn.reader_listed = true;
            peer.readers.push_back(key);
            self.peers.rouse(conn.peer);
        }
    }

    /// Posts the next read of the next connection that wants one.
    pub(crate) fn read_next(&mut self, cx: &mut Cx<'_>, peer: Key) -> Reading {
        let (window, limit) = (self.window as usize, self.reads);
        let Some(known) = self.peers.table.get_mut(peer) else { return Reading::Enough };
        // As many as the device has under way at a time: more would hold up what is posted behind them.
        if known.reading >= limit {
            return Reading::Enough;
        }
        let Some(key) = known.readers.pop_front() else { return Reading::Enough };
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return Reading::Posted };
        let Some(index) = conn.next_to_read(window).filter(|_| !conn.closing) else {
            conn.reader_listed = false;
            return Reading::Posted;
        };
        let Some(Element::Offer(offer)) = conn.inbox.get_mut(index) else { return Reading::Posted };
        if offer.parts.is_empty() && !offer.plan(cx.heap) {
            conn.reader_listed = false;
            self.starve_connection(cx, key);
            return Reading::Aside;
        }
        let planned = offer.parts.iter().position(|part| matches!(part, Part::Planned(..)));
        let Some(at) = planned else { return Reading::Posted };
        let Part::Planned(from, into) = std::mem::replace(&mut offer.parts[at], Part::Reading) else {
            return Reading::Posted;
        };
        let flight = Flight::Read { peer, connection: key, number: offer.number, part: at as u8 };
        let flight = self.flights.insert(flight);
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        match self.device.read(&device_cx, known.qp, from, into, flight.to_u64()) {
            Ok(()) => {
                conn.reads += 1;
                known.reading += 1;
                known.posted = cx.now;
                known.readers.push_back(key);
                self.counters.reads += 1;
                Reading::Posted
            }
            Err(into) => {
                offer.parts[at] = Part::Planned(from, into);
                self.flights.remove(flight);
                known.readers.push_front(key);
                Reading::Full
            }
        }
    }

    /// A read has ended.
    pub(crate) fn read_done(
        &mut self,
        cx: &mut Cx<'_>,
        peer: Key,
        key: Key,
        (number, part): (u32, u8),
        data: Option<Buf>,
    ) {
        if let Some(known) = self.peers.table.get_mut(peer) {
            known.reading -= 1;
            if !known.readers.is_empty() {
                self.peers.rouse(peer);
            }
        }
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else { return };
        conn.reads = conn.reads.saturating_sub(1);
        let found = conn
            .inbox
            .iter()
            .position(|element| matches!(element, Element::Offer(offer) if offer.number == number));
        if let (Some(index), Some(data)) = (found, data)
            && let Some(Element::Offer(offer)) = conn.inbox.get_mut(index)
            && let Some(slot) = offer.parts.get_mut(usize::from(part))
        {
            *slot = Part::Read(data);
            offer.missing -= 1;
            if offer.missing == 0 {
                self.counters.bytes_in += offer.len as u64;
                let sga = std::mem::take(&mut offer.parts).into_iter().filter_map(Part::into_buf).collect();
                conn.inbox[index] = Element::Whole(sga, OFFER_COST);
                conn.unread -= 1;
                let to = conn.remote;
                if conn.deaf {
                    conn.held -= conn.inbox.remove(index).map_or(0, |element| element.len());
                    conn.recv.consumed = conn.recv.consumed.wrapping_add(OFFER_COST);
                }
                if conn.peer != Key::NONE {
                    conn.recv.unsaid = conn.recv.unsaid.wrapping_add(OFFER_COST);
                    self.peers.say(peer, Control::Done { of: key, to, number, read: true });
                }
                self.serve_pops(cx, key);
            }
        }
        self.settle_close(cx, key);
    }
}

/// What posting a read came to.
pub(crate) enum Reading {
    /// It was posted, or is not to be: on to the next.
    Posted,
    /// The connection waits for memory.
    Aside,
    /// The send queue is full.
    Full,
    /// As many are under way as the device has at a time.
    Enough,
}

impl super::Conn {
    /// The first offer that is not read and should be: somebody waits for it, or it fits what may be kept. One that is begun is
    /// read to its end, as the peer waits for the answer.
    fn next_to_read(&self, window: usize) -> Option<usize> {
        let mut before = 0;
        for (index, element) in self.inbox.iter().enumerate() {
            if let Element::Offer(offer) = element
                && (offer.parts.is_empty()
                    || offer.parts.iter().any(|part| matches!(part, Part::Planned(..))))
            {
                let begun = !offer.parts.is_empty();
                let fits = index < self.pops.len() || before + offer.len <= window;
                let wanted = begun || (fits && !self.deaf);
                return (wanted && !self.closing).then_some(index);
            }
            before += element.len();
        }
        None
    }
}

impl Offer {
    /// Finds memory for all of it. False: there is none now.
    fn plan(&mut self, heap: &Heap) -> bool {
        let parts = self.allocate(heap, usize::MAX).or_else(|| self.allocate(heap, PIECE));
        let Some(parts) = parts else { return false };
        self.missing = parts.len();
        self.parts = parts;
        true
    }

    /// Memory in pieces of at most so many bytes.
    fn allocate(&self, heap: &Heap, most: usize) -> Option<ArrayVec<Part, MAX_SEGMENTS>> {
        let mut parts = ArrayVec::new();
        for (place, len) in &self.segments {
            let (mut addr, mut left) = (place.addr, *len as usize);
            while left > 0 {
                let into: BufMut = heap.alloc(left.min(most)).ok()?;
                let piece = into.len();
                parts.try_push(Part::Planned(Remote { addr, key: place.key }, into)).ok()?;
                addr = addr.wrapping_add(piece as u64);
                left -= piece;
            }
        }
        Some(parts)
    }
}

impl Part {
    fn into_buf(self) -> Option<Buf> {
        match self {
            Part::Read(buf) => Some(buf),
            Part::Planned(..) | Part::Reading => None,
        }
    }
}
