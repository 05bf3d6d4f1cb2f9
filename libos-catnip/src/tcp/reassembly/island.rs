//! A run of data without a gap.
//!
//! Invariant: the lengths of its buffers add up to `end - begin`. Of two neighbours one is not small, or together they
//! are long, as far as there was memory to copy them.

use std::collections::VecDeque;

use demi_api::memalloc::{Buf, Heap};

use super::super::seq::SeqNum;
use super::super::small::is_copied;
use super::MAX_PIECES;

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
