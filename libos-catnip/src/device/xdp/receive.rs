//! The receiving side of one queue: chunks to the kernel, frames back.
//!
//! Invariants: at most `target` chunks are lent, and the application never brings it below half of that, for then
//! frames are copied out and their chunks lent again at once. So what acknowledges or resets is received though there is no
//! memory for anything else. A frame is handed on when its last piece is here, or not at all. A call does bounded work:
//! [`BURST`] frames.

use arrayvec::ArrayVec;
use demi_api::memalloc::{Buf, Heap};
use demi_api::sga::{MAX_SEGMENTS, SgArray};

use super::counters::Counters;
use super::raw::Desc;
use super::ring::{Consumer, Producer};
use super::socket::Socket;
use super::umem::{Received, Umem};
use crate::device::passing::copy_of_passing;
use crate::device::{BURST, Frame};

/// `XDP_PKT_CONTD`: the frame goes on in the next descriptor.
pub(super) const CONTINUED: u32 = 1;

/// Most pieces of a frame: what the kernel's buffers have, and some.
const MAX_PIECES: usize = 20;

/// Bytes that the first segment of a frame must have, if the frame has as many.
const HEAD: u16 = 128;

/// One queue's receiving side.
pub(super) struct Receiver {
    pub(super) socket: Socket,
    pub(super) queue: u32,
    fill: Producer<u64>,
    rx: Consumer<Desc>,
    target: u32,
    lent: u32,
    /// Chunks that are lent, but for which the fill ring had no room.
    again: Vec<u64>,
    /// The pieces so far of the frame that is being received.
    pieces: ArrayVec<Received, MAX_PIECES>,
    /// That frame cannot be handed on.
    spoiled: bool,
}

impl Receiver {
    pub(super) fn new(
        socket: Socket,
        queue: u32,
        rings: (Producer<u64>, Consumer<Desc>),
        target: u32,
    ) -> Receiver {
        Receiver {
            socket,
            queue,
            fill: rings.0,
            rx: rings.1,
            target,
            lent: 0,
            again: Vec::with_capacity(target as usize),
            pieces: ArrayVec::new(),
            spoiled: false,
        }
    }

    /// Appends frames to `inbox`, `limit` at the most.
    pub(super) fn burst(
        &mut self,
        umem: &mut Umem,
        heap: &Heap,
        inbox: &mut Vec<Frame>,
        limit: usize,
        counters: &mut Counters,
    ) -> usize {
        let before = inbox.len();
        let mut descriptors = 0;
        while inbox.len() - before < limit && descriptors < limit * MAX_PIECES {
            let Some(desc) = self.rx.take() else { break };
            descriptors += 1;
            self.take_piece(umem, &desc, counters);
            if desc.options & CONTINUED == 0
                && let Some(data) = self.take_frame(umem, heap, counters)
            {
                counters.rx_frames += 1;
                inbox.push(Frame::new(data));
            }
        }
        if descriptors > 0 {
            self.rx.release();
        }
        // In bulk, and also when nothing came: the pool may have been empty before.
        if (self.target - self.lent) as usize + self.again.len() >= BURST {
            self.refill(umem);
        }
        inbox.len() - before
    }

    /// Takes all that has come, before the queue is given up.
    pub(super) fn empty(
        &mut self,
        umem: &mut Umem,
        heap: &Heap,
        inbox: &mut Vec<Frame>,
        counters: &mut Counters,
    ) {
        // No more than the ring holds: whoever sends does not stop.
        for _ in 0..=self.target as usize / BURST {
            if self.burst(umem, heap, inbox, BURST, counters) == 0 {
                break;
            }
        }
    }

    fn take_piece(&mut self, umem: &Umem, desc: &Desc, counters: &mut Counters) {
        let Some(piece) = umem.received(desc) else {
            counters.rx_invalid += 1;
            self.spoiled = true;
            return;
        };
        if self.pieces.try_push(piece).is_err() {
            self.spoiled = true;
            self.again.extend(umem.again(&piece));
        }
    }

    fn take_frame(&mut self, umem: &mut Umem, heap: &Heap, counters: &mut Counters) -> Option<SgArray> {
        let low = self.lent <= self.target / 2;
        if let [only] = self.pieces[..]
            && !low
            && !self.spoiled
        {
            self.pieces.clear();
            return self.hand_out(umem, &only).map(SgArray::from);
        }
        let pieces = std::mem::take(&mut self.pieces);
        if std::mem::take(&mut self.spoiled) || pieces.is_empty() {
            self.again.extend(pieces.iter().filter_map(|piece| umem.again(piece)));
            counters.rx_dropped += 1;
            return None;
        }
        let fits = pieces.len() <= MAX_SEGMENTS && (pieces.len() == 1 || pieces[0].len >= HEAD);
        if fits && !low {
            return Some(pieces.iter().filter_map(|piece| self.hand_out(umem, piece)).collect());
        }
        let copy = copy_out(umem, heap, &pieces);
        self.again.extend(pieces.iter().filter_map(|piece| umem.again(piece)));
        *(if copy.is_some() { &mut counters.rx_copied } else { &mut counters.rx_dropped }) += 1;
        copy
    }

    fn hand_out(&mut self, umem: &mut Umem, piece: &Received) -> Option<Buf> {
        let buf = umem.hand_out(piece)?;
        self.lent -= 1;
        Some(buf)
    }

    /// Lends the kernel what is missing, as far as there is something to lend.
    pub(super) fn refill(&mut self, umem: &mut Umem) {
        let mut put = 0;
        let mut room = self.fill.room_for(self.target);
        while room > 0 {
            let Some(addr) = self.again.pop().or_else(|| self.lend(umem)) else { break };
            self.fill.put(addr);
            room -= 1;
            put += 1;
        }
        if put > 0 {
            self.fill.publish();
            self.wake_driver();
        }
    }

    fn lend(&mut self, umem: &mut Umem) -> Option<u64> {
        if self.lent == self.target {
            return None;
        }
        let addr = umem.lend(self.queue)?;
        self.lent += 1;
        Some(addr)
    }

    /// Tells a driver that has stopped for want of buffers that there are some.
    fn wake_driver(&mut self) {
        if self.fill.needs_wakeup() {
            self.socket.kick_rx();
        }
    }

    /// Gets ready for sleep. False: frames are here already.
    pub(super) fn arm(&mut self, umem: &mut Umem) -> bool {
        self.refill(umem);
        self.wake_driver();
        self.rx.ready() == 0
    }
}

/// The pieces in one buffer of their size. `None`: the heap has none.
fn copy_out(umem: &Umem, heap: &Heap, pieces: &[Received]) -> Option<SgArray> {
    let len = pieces.iter().map(|piece| usize::from(piece.len)).sum();
    let fill = |copy: &mut [u8]| collect(umem, pieces, copy).is_some();
    let Ok(mut copy) = heap.alloc(len) else { return copy_of_passing(heap, len, fill).map(SgArray::from) };
    fill(&mut copy).then(|| copy.into())
}

/// Fills a buffer with the pieces. `None`: it is shorter than they are.
fn collect(umem: &Umem, pieces: &[Received], mut rest: &mut [u8]) -> Option<()> {
    for piece in pieces {
        let bytes = umem.bytes(piece);
        let (front, back) = rest.split_at_mut_checked(bytes.len())?;
        front.copy_from_slice(bytes);
        rest = back;
    }
    Some(())
}
