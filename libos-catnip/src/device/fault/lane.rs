//! One direction: what becomes of each frame, and those that are held until they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use demi_api::time::Instant;

use super::super::{DeviceCx, Frame};
use super::Faults;
use super::corrupt::corrupted;

/// Frames in one direction.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) faults: Faults,
    rng: fastrand::Rng,
    /// Frames that have come, which is the next one's number.
    seen: u64,
    /// Copies that have been held, which puts those that are due at the same time in order.
    entered: u64,
    /// When the link is done with all frames that wait for their turn.
    link_free: Instant,
    /// When the last frame that keeps to the order is due.
    last_due: Instant,
    held: BinaryHeap<Reverse<Held>>,
    pub(super) counters: Counters,
}

/// What has become of the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct Counters {
    frames: u64,
    picked: u64,
    lost: u64,
    duplicated: u64,
    corrupted: u64,
    not_corrupted: u64,
    rate_dropped: u64,
    reordered: u64,
    held_dropped: u64,
}

pub(super) type Names = [&'static str; 9];

pub(super) const RX_NAMES: Names = [
    "fault_rx_frames",
    "fault_rx_picked",
    "fault_rx_lost",
    "fault_rx_duplicated",
    "fault_rx_corrupted",
    "fault_rx_not_corrupted_for_memory",
    "fault_rx_rate_dropped",
    "fault_rx_reordered",
    "fault_rx_held_dropped",
];

pub(super) const TX_NAMES: Names = [
    "fault_tx_frames",
    "fault_tx_picked",
    "fault_tx_lost",
    "fault_tx_duplicated",
    "fault_tx_corrupted",
    "fault_tx_not_corrupted_for_memory",
    "fault_tx_rate_dropped",
    "fault_tx_reordered",
    "fault_tx_held_dropped",
];

impl Counters {
    pub(super) fn visit(&self, names: &Names, visit: &mut dyn FnMut(&'static str, u64)) {
        let values = [
            self.frames,
            self.picked,
            self.lost,
            self.duplicated,
            self.corrupted,
            self.not_corrupted,
            self.rate_dropped,
            self.reordered,
            self.held_dropped,
        ];
        names.iter().zip(values).for_each(|(name, value)| visit(name, value));
    }
}

impl Lane {
    pub(super) fn new(faults: Faults, seed: u64) -> Lane {
        Lane {
            faults,
            rng: fastrand::Rng::with_seed(seed),
            seen: 0,
            entered: 0,
            link_free: Instant::default(),
            last_due: Instant::default(),
            held: BinaryHeap::new(),
            counters: Counters::default(),
        }
    }

    /// Decides on a frame; what is left of it is held until it is due, which may be now.
    pub(super) fn admit(&mut self, cx: &DeviceCx<'_>, frame: Frame) {
        let number = self.seen;
        self.seen += 1;
        self.counters.frames += 1;
        // A generator for each frame: how many numbers one takes does not change what becomes of the next.
        let mut dice = fastrand::Rng::with_seed(self.rng.u64(..));
        if self.faults.drop.contains(&number) {
            self.counters.picked += 1;
            return;
        }
        if dice.f64() < self.faults.loss {
            self.counters.lost += 1;
            return;
        }
        if dice.f64() < self.faults.duplicate {
            self.counters.duplicated += 1;
            self.hold(cx, Frame { data: frame.data.clone(), checksum: frame.checksum }, &mut dice);
        }
        self.hold(cx, frame, &mut dice);
    }

    fn hold(&mut self, cx: &DeviceCx<'_>, mut frame: Frame, dice: &mut fastrand::Rng) {
        if self.held.len() >= self.faults.held {
            self.counters.held_dropped += 1;
            return;
        }
        if dice.f64() < self.faults.corrupt {
            match corrupted(cx.heap, &frame, dice) {
                Some(copy) => {
                    self.counters.corrupted += 1;
                    frame = copy;
                }
                None => self.counters.not_corrupted += 1,
            }
        }
        let Some(sent) = self.pass_link(cx.now, frame.data.len()) else {
            self.counters.rate_dropped += 1;
            return;
        };
        let mut due = sent + self.faults.delay + self.faults.jitter.mul_f64(dice.f64());
        // The order of frames that keep to it outlives changes of the delay.
        due = due.max(self.last_due);
        if dice.f64() < self.faults.reorder {
            self.counters.reordered += 1;
            due = due + self.faults.reorder_by.mul_f64(dice.f64());
        } else {
            self.last_due = due;
        }
        self.held.push(Reverse(Held { due, number: self.entered, frame }));
        self.entered += 1;
    }

    /// When a frame of `len` bytes that comes now has passed the link. `None`: too many wait before it.
    fn pass_link(&mut self, now: Instant, len: usize) -> Option<Instant> {
        if self.faults.rate == 0 {
            return Some(now);
        }
        let time = |bytes: usize| {
            let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.faults.rate);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        if self.link_free - now > time(self.faults.queue) {
            return None;
        }
        self.link_free = self.link_free.max(now) + time(len);
        Some(self.link_free)
    }

    /// The frame that was due first, if one is.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Frame> {
        let Reverse(first) = self.held.peek()?;
        if first.due > now {
            return None;
        }
        self.held.pop().map(|Reverse(held)| held.frame)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse(first)| first.due)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

/// A frame that is not due yet.
#[derive(Debug)]
struct Held {
    due: Instant,
    number: u64,
    frame: Frame,
}

impl Held {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
