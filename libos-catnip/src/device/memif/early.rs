//! Frames sent before there is a link: an instance that has just started asks for its neighbour at once, and would
//! ask again only after a second.
//!
//! Invariant: at most [`MAX_FRAMES`] are kept, none for longer than [`PERIOD`].

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
        let mut dropped = 0;
        if now >= self.until {
            dropped = self.frames.len();
            self.frames.clear();
            self.until = now + PERIOD;
        }
        let room = MAX_FRAMES - self.frames.len();
        self.frames.extend(outbox.drain(..room.min(outbox.len())));
        dropped += outbox.len();
        outbox.clear();
        dropped
    }

    /// What was kept, unless that is too old, oldest first.
    #[cold]
    pub(super) fn take(&mut self, now: Instant) -> VecDeque<Frame> {
        let frames = std::mem::take(&mut self.frames);
        if now < self.until { frames } else { VecDeque::new() }
    }
}
