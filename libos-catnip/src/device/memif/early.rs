//! Frames sent before there is a link: an instance that has just started asks for its neighbour at once, and would
//! ask again only after a second.
//!
//! Invariant: at most [`MAX_FRAMES`] are kept, and none is given out after [`PERIOD`].

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::time::Instant;

use super::Frame;

const MAX_FRAMES: usize = 32;
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Early {
    frames: VecDeque<Frame>,
    until: Instant,
}

impl Early {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Keeps what there is room for. Returns how many frames were dropped, old and new.
    #[cold]
    pub(super) fn keep(&mut self, now: Instant, outbox: &mut VecDeque<Frame>) -> usize {
        let mut dropped = self.expire(now);
        if self.frames.is_empty() {
            self.until = now + PERIOD;
        }
        let room = MAX_FRAMES - self.frames.len();
        self.frames.extend(outbox.drain(..room.min(outbox.len())));
        dropped += outbox.len();
        outbox.clear();
        dropped
    }

    /// Drops what is too old. Returns how many frames that were.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        if now < self.until {
            return 0;
        }
        let dropped = self.frames.len();
        self.frames.clear();
        dropped
    }

    /// What was kept and not dropped, oldest first.
    #[cold]
    pub(super) fn take(&mut self) -> VecDeque<Frame> {
        std::mem::take(&mut self.frames)
    }
}
