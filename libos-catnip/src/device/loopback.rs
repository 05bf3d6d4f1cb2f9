//! Wires in memory: what one end transmits, the others of the same wire receive.
//!
//! For tests, and for instances that talk to themselves. Several queues may hang on one wire, each with its own Ethernet
//! address; a frame goes to the one that it names, or to all others. They must share one heap or one thread: buffers
//! are handed over as they are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use demi_api::fd::Fd;
use rustix::event::{EventfdFlags, eventfd};

use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// Frames that wait at one end, at the most; more are dropped, as a NIC does.
const DEPTH: usize = 1024;

/// A medium in memory.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    ends: Rc<RefCell<Vec<End>>>,
}

#[derive(Debug)]
struct End {
    mac: [u8; 6],
    arrived: Vec<Frame>,
    dropped: u64,
}

impl Wire {
    /// A wire with no ends.
    pub fn new() -> Wire {
        Wire::default()
    }

    /// A new end of the wire. Fails if the system has no descriptor left.
    pub fn plug(&self, mac: [u8; 6], mtu: usize) -> rustix::io::Result<Loopback> {
        let mut ends = self.ends.borrow_mut();
        ends.push(End { mac, arrived: Vec::new(), dropped: 0 });
        let caps = Caps {
            mac,
            mtu,
            max_segs: demi_api::sga::MAX_SEGMENTS,
            max_seg_len: usize::MAX,
            tx_checksum: false,
            zero_copy: true,
        };
        Ok(Loopback {
            wire: self.clone(),
            place: ends.len() - 1,
            caps,
            // Never readable: the other end is in the same thread, so whoever could write is not asleep.
            quiet: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?.into(),
        })
    }

    /// Frames that wait somewhere on the wire.
    pub fn waiting(&self) -> usize {
        self.ends.borrow().iter().map(|end| end.arrived.len()).sum()
    }
}

/// One end of a [`Wire`].
#[derive(Debug)]
pub struct Loopback {
    wire: Wire,
    place: usize,
    caps: Caps,
    quiet: Fd,
}

impl Queue for Loopback {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, _cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let mut ends = self.wire.ends.borrow_mut();
        let Some(End { arrived, .. }) = ends.get_mut(self.place) else { return 0 };
        let count = arrived.len().min(BURST);
        if count == arrived.len() && inbox.is_empty() {
            // All of it changes hands, and so does the memory.
            std::mem::swap(arrived, inbox);
        } else {
            inbox.extend(arrived.drain(..count));
        }
        count
    }

    fn tx_burst(&mut self, _cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let mut ends = self.wire.ends.borrow_mut();
        let mut count = 0;
        while let Some(next) = outbox.front() {
            let to = next.data.segments().first().and_then(|head| head.first_chunk::<6>());
            let end = to.and_then(|to| ends.iter_mut().find(|end| end.mac == *to));
            let Some(frame) = outbox.pop_front() else { break };
            match end {
                Some(end) => arrive(end, frame),
                None => spread(&mut ends, self.place, frame),
            }
            count += 1;
        }
        count
    }

    fn tx_next(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>, next: Frame) -> usize {
        if !outbox.is_empty() {
            outbox.push_back(next);
            return self.tx_burst(cx, outbox);
        }
        let mut ends = self.wire.ends.borrow_mut();
        let to = next.data.segments().first().and_then(|head| head.first_chunk::<6>());
        let Some(end) = to.and_then(|to| ends.iter_mut().find(|end| end.mac == *to)) else {
            spread(&mut ends, self.place, next);
            return 1;
        };
        if end.arrived.len() == DEPTH {
            end.dropped += 1;
            return 1;
        }
        end.arrived.push(next);
        1
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.quiet.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        self.wire.ends.borrow()[self.place].arrived.is_empty()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("loopback_dropped", self.wire.ends.borrow()[self.place].dropped);
    }
}

/// Gives a frame that names none of the ends to all others, if it is for a group.
#[cold]
#[inline(never)]
fn spread(ends: &mut [End], from: usize, frame: Frame) {
    let first = frame.data.segments().first().and_then(|head| head.first_chunk::<6>());
    if first.is_none_or(|to| to[0] & 1 == 0) {
        return;
    }
    let others = ends.iter_mut().enumerate().filter(|(place, _)| *place != from);
    for (_, end) in others {
        arrive(end, Frame { data: frame.data.clone(), checksum: frame.checksum });
    }
}

#[inline]
fn arrive(end: &mut End, frame: Frame) {
    if end.arrived.len() == DEPTH {
        end.dropped += 1;
        return;
    }
    end.arrived.push(frame);
}
