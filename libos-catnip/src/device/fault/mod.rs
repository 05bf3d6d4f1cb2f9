//! A device with faults, seeded: loss, duplication, corruption, reordering, delay, a rate.
//!
//! Invariants: what becomes of the n-th frame of a direction depends on the seed, n, the frame and the time of the calls
//! alone, so a run on a clock of its own repeats exactly. A frame that is neither lost nor refused for want of room
//! comes out once for each of its copies, not before it is due, and those that are due come out in the order of their
//! times. The bytes of a frame are never written: what is corrupted is a copy. Memory is bounded by
//! [`Faults::held`] and by [`BURST`].
//!
//! Nothing here has a timer: delayed frames leave in [`Queue::rx_burst`] and [`Queue::tx_burst`], and
//! [`Queue::next_deadline`] says when the next is due. [`Pcap`](super::pcap::Pcap) outside of a `Fault` records what the
//! stack sees, inside of it what the wire sees.
//!
//! | file | what it holds |
//! |---|---|
//! | `lane` | one direction: fates, and the frames that are held |
//! | `corrupt` | copies with a bit turned |

mod corrupt;
mod lane;
#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_api::time::Instant;

use self::lane::Lane;
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// When to try again to hand frames to a device that had no room.
const RETRY: Duration = Duration::from_micros(50);

/// What goes wrong in one direction. Probabilities are from 0 (never) to 1 (always); all faults are off by default.
///
/// They strike in the order of the fields. Frames without a fault and without delay pass at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// These frames are lost, whatever the chances: numbers in this direction, from 0, of all frames since the start.
    pub drop: Vec<u64>,
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Probability that a frame comes twice. The copies are then treated as two frames.
    pub duplicate: f64,
    /// Probability that one random bit of a frame is turned. A checksum that was left to a device is put in first, and
    /// one that was verified is no longer held to be: so the stack has the chance to notice.
    pub corrupt: f64,
    /// Bytes per second that pass, headers included; 0 (default): any number. Frames wait for their turn in a queue.
    pub rate: u64,
    /// Bytes that wait for their turn at the most, the frame under way included; default 256 KiB. A frame that finds
    /// more there already is dropped, as at the tail of a router's queue.
    pub queue: usize,
    /// Time that each frame takes.
    pub delay: Duration,
    /// Most additional time, random for each frame. It changes distances between frames, not their order.
    pub jitter: Duration,
    /// Probability that a frame leaves the order: it is held for up to `reorder_by` more, while others pass it.
    pub reorder: f64,
    /// Most time that such a frame is held; default 1 ms.
    pub reorder_by: Duration,
    /// Most frames held at once; default 65536. More are dropped.
    pub held: usize,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            drop: Vec::new(),
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: 0,
            queue: 256 << 10,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            held: 65536,
        }
    }
}

/// The faults of both directions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultConfig {
    /// What chance grows from. The directions do not influence each other's.
    pub seed: u64,
    /// Of what is received.
    pub rx: Faults,
    /// Of what is transmitted.
    pub tx: Faults,
}

/// A device of type `D` with faults.
#[derive(Debug)]
pub struct Fault<D> {
    device: D,
    rx: Lane,
    tx: Lane,
    /// Received from the device, on the way into `rx`; empty between calls.
    arrived: Vec<Frame>,
    /// Out of `tx`, on the way into the device; frames are left here only when it had no room.
    leaving: VecDeque<Frame>,
    /// When to try again, if frames were left in `leaving`.
    retry: Option<Instant>,
}

impl<D: Queue> Fault<D> {
    /// Puts faults before a device.
    pub fn new(device: D, config: FaultConfig) -> Fault<D> {
        let mut seeds = fastrand::Rng::with_seed(config.seed);
        Fault {
            device,
            rx: Lane::new(config.rx, seeds.u64(..)),
            tx: Lane::new(config.tx, seeds.u64(..)),
            arrived: Vec::with_capacity(BURST),
            leaving: VecDeque::with_capacity(BURST),
            retry: None,
        }
    }

    /// The faults of what is received, to be changed on the way. Frames that are held stay as they are.
    pub fn rx_faults(&mut self) -> &mut Faults {
        &mut self.rx.faults
    }

    /// The faults of what is transmitted.
    pub fn tx_faults(&mut self) -> &mut Faults {
        &mut self.tx.faults
    }

    /// Frames that are held, in both directions.
    pub fn held(&self) -> usize {
        self.rx.len() + self.tx.len() + self.leaving.len()
    }

    /// The device without faults. Frames that are held are lost.
    pub fn into_inner(self) -> D {
        self.device
    }

    /// Hands the device what is due; whether it had room for all of it.
    fn flush(&mut self, cx: &DeviceCx<'_>) -> bool {
        loop {
            while self.leaving.len() < BURST
                && let Some(frame) = self.tx.pop_due(cx.now)
            {
                self.leaving.push_back(frame);
            }
            if self.leaving.is_empty() {
                self.retry = None;
                return true;
            }
            self.device.tx_burst(cx, &mut self.leaving);
            if !self.leaving.is_empty() {
                self.retry = Some(cx.now + RETRY);
                return false;
            }
        }
    }
}

impl<D: Queue> Queue for Fault<D> {
    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        self.flush(cx);
        // What has arrived enters before anything leaves, so that a frame due in between is not passed by.
        self.device.rx_burst(cx, &mut self.arrived);
        for frame in self.arrived.drain(..) {
            self.rx.admit(cx, frame);
        }
        let before = inbox.len();
        inbox.extend((0..BURST).map_while(|_| self.rx.pop_due(cx.now)));
        inbox.len() - before
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let before = outbox.len();
        while self.flush(cx) && !outbox.is_empty() {
            for frame in outbox.drain(..outbox.len().min(BURST)) {
                self.tx.admit(cx, frame);
            }
        }
        before - outbox.len()
    }

    fn reclaim(&mut self) -> usize {
        self.device.reclaim()
    }

    fn next_deadline(&self) -> Option<Instant> {
        // While the device has no room, frames that are due wait for the next attempt, not for their time.
        let tx = self.retry.or_else(|| self.tx.next_due());
        [self.device.next_deadline(), self.rx.next_due(), tx].into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.flush(cx);
        self.rx.next_due().is_none_or(|due| due > cx.now) && self.device.arm(cx)
    }

    fn serve(&mut self, cx: &DeviceCx<'_>, queues: &[u32], inbox: &mut Vec<Frame>) -> bool {
        self.device.serve(cx, queues, inbox)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.rx.counters.visit(&lane::RX_NAMES, visit);
        self.tx.counters.visit(&lane::TX_NAMES, visit);
        self.device.counters(visit);
    }
}
