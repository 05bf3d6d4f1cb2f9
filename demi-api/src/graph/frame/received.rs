//! The bytes of a message that is not whole yet.
//!
//! Invariant: a piece is kept where it was received only if it is a fair part of its buffer; a small one is copied
//! behind the others, into memory that grows with the message. So what an idle connection keeps is to size, and a
//! peer that sends byte by byte cannot make it hoard buffers.

use std::collections::VecDeque;

use demi_memalloc::{Buf, BufMut, Heap};

use crate::error::Error;
use crate::sga::{MAX_SEGMENTS, SgArray};

/// A piece this small is copied whatever it lies in.
const SMALL: usize = 256;

/// A piece that is less than this part of its buffer is copied.
const FAIR_PART: usize = 4;

/// Room for small pieces grows up to this much at once.
const LARGEST_ROOM: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Received {
    /// Oldest first.
    pieces: VecDeque<Buf>,
    /// Small pieces copied together, behind `pieces`: so many bytes of this buffer.
    gathered: Option<(BufMut, usize)>,
    len: usize,
}

impl Received {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes in the next piece, of a message that goes on.
    pub(super) fn add(&mut self, heap: &Heap, piece: Buf) {
        let is_small = piece.len() < SMALL
            || heap.find(piece.as_ptr()).is_some_and(|object| piece.len() * FAIR_PART < object.capacity);
        if !is_small || !self.gather(heap, &piece) {
            self.finish(piece);
        } else {
            self.len += piece.len();
        }
    }

    /// Takes in a piece where it lies: the last one, for instance.
    pub(super) fn finish(&mut self, piece: Buf) {
        self.close_gathered();
        self.len += piece.len();
        self.pieces.push_back(piece);
    }

    /// The whole of it as one array, less so many bytes before and behind. On `Err` nothing has changed.
    pub(super) fn take(&mut self, heap: &Heap, head: usize, tail: usize) -> Result<SgArray, Error> {
        self.close_gathered();
        let len = self.len - head - tail;
        let mut sga: SgArray = if self.pieces.len() <= MAX_SEGMENTS {
            let mut sga: SgArray = self.pieces.drain(..).collect();
            sga.advance(head);
            sga
        } else {
            let mut one = heap.join(self.pieces.iter())?;
            self.pieces.clear();
            one.advance(head);
            one.into()
        };
        self.len = 0;
        if self.pieces.capacity() > MAX_SEGMENTS {
            self.pieces = VecDeque::new();
        }
        Ok(sga.split_to(len))
    }

    /// Copies a piece behind the others. False: there is no memory, and nothing has changed.
    fn gather(&mut self, heap: &Heap, piece: &[u8]) -> bool {
        let room = self.gathered.as_ref().map_or(0, |(buffer, filled)| buffer.len() - filled);
        let (first, rest) = piece.split_at(room.min(piece.len()));
        let mut fresh = None;
        if !rest.is_empty() {
            let Ok(mut buffer) = heap.alloc(rest.len().max(self.len.min(LARGEST_ROOM))) else { return false };
            buffer.set_len(buffer.capacity());
            buffer[..rest.len()].copy_from_slice(rest);
            fresh = Some((buffer, rest.len()));
        }
        if let Some((buffer, filled)) = &mut self.gathered {
            buffer[*filled..*filled + first.len()].copy_from_slice(first);
            *filled += first.len();
        }
        if fresh.is_some() {
            self.close_gathered();
            self.gathered = fresh;
        }
        true
    }

    fn close_gathered(&mut self) {
        if let Some((mut buffer, filled)) = self.gathered.take() {
            buffer.truncate(filled);
            self.pieces.push_back(buffer.freeze());
        }
    }
}
