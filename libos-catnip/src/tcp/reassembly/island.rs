//! A run of data without a gap.
//!
//! Invariant: the lengths of its buffers add up to `end - begin`. Of two neighbours one is not small, or together they
//! are long, unless two runs met between them.

use std::collections::VecDeque;

use demi_api::memalloc::{Buf, Heap};

use super::super::seq::SeqNum;
use super::MAX_PIECES;

/// A buffer shorter than this is copied to its neighbour,
const SMALL: usize = 512;

/// unless together they would be longer than this.
const COPIED: usize = 2048;

#[derive(Debug)]
pub(super) struct Island {
    pub(super) begin: SeqNum,
    pub(super) end: SeqNum,
    /// Its bytes, in order.
    pub(super) pieces: VecDeque<Buf>,
    /// When the last of them arrived, or was offered again.
    pub(super) touched: u64,
}

impl Island {
    /// Adds what follows; returns how many buffers more there are. `None`: there is no room.
    pub(super) fn append(&mut self, heap: &Heap, part: Buf, pieces: usize) -> Option<usize> {
        let len = part.len() as u32;
        let more = match self.pieces.back_mut() {
            Some(last) if is_copied(last, &part) => {
                *last = heap.join([&*last, &part].into_iter()).ok()?.freeze();
                0
            }
            _ if pieces < MAX_PIECES => {
                self.pieces.push_back(part);
                1
            }
            _ => return None,
        };
        self.end += len;
        Some(more)
    }

    /// Adds what comes before; as [`append`](Island::append).
    pub(super) fn prepend(&mut self, heap: &Heap, part: Buf, pieces: usize) -> Option<usize> {
        let len = part.len() as u32;
        let more = match self.pieces.front_mut() {
            Some(first) if is_copied(&part, first) => {
                *first = heap.join([&part, &*first].into_iter()).ok()?.freeze();
                0
            }
            _ if pieces < MAX_PIECES => {
                self.pieces.push_front(part);
                1
            }
            _ => return None,
        };
        self.begin = self.begin - len;
        Some(more)
    }
}

/// Whether two neighbours become one buffer, so that a small one does not pin a whole frame.
fn is_copied(one: &Buf, other: &Buf) -> bool {
    one.len().min(other.len()) < SMALL && one.len() + other.len() <= COPIED
}
