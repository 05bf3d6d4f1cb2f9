//! What arrived out of order, and the SACK blocks that say so: RFC 2018, RFC 2883.
//!
//! Data lies in islands: runs of buffers without a gap, with gaps between them. An island is a SACK block.
//!
//! Invariants: islands are sorted, do not touch, and lie behind the last [`Reassembly::take_ready`]; no byte is held
//! twice, and the one that came first is kept. There are at most [`MAX_ISLANDS`] islands and [`MAX_PIECES`] buffers,
//! and a small segment is copied to the one before it, so that what is pinned is in proportion to what is held.
//! What does not fit is refused, and nothing is reported of it. While nothing is out of order, there is no memory.
//!
//! Not in here: the receive window. The caller offers only what lies within.

mod island;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use demi_api::memalloc::{Buf, Heap};
use demi_api::sga::SgArray;

use self::island::Island;
use super::segment::Block;
use super::seq::SeqNum;
use super::small;

/// Most runs of data, between which there are gaps.
pub(crate) const MAX_ISLANDS: usize = 64;

/// Most buffers. With whole segments of 1460 bytes, 5.7 MiB.
pub(crate) const MAX_PIECES: usize = 4096;

/// Furthest from the next expected number that data is taken.
const REACH: u32 = 1 << 30;

/// Data that is ahead of what is expected next.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    sea: Option<Box<Sea>>,
    /// The duplicate to be reported.
    dsack: Option<Block>,
}

const _: () = assert!(size_of::<Reassembly>() <= 24);

#[derive(Debug, Default)]
struct Sea {
    islands: Vec<Island>,
    pieces: usize,
    bytes: usize,
    /// Counts what arrives.
    clock: u64,
}

impl Reassembly {
    #[cfg(test)]
    pub(crate) fn new() -> Reassembly {
        Reassembly::default()
    }

    /// Whether nothing is held.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.sea.is_none()
    }

    /// Bytes that are held.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.sea.as_ref().map_or(0, |sea| sea.bytes)
    }

    /// Takes in data that begins at `at`, where `next` is the number that is expected next. Returns how many bytes of it
    /// are now held that were not before. Bytes that were held, or lie before `next`, are a duplicate to be reported.
    ///
    /// What lies at `next` itself is taken as well, for [`take_ready`](Reassembly::take_ready) to give out at once.
    pub(crate) fn insert(&mut self, heap: &Heap, next: SeqNum, at: SeqNum, mut data: SgArray) -> usize {
        let mut at = at;
        let mut stored = 0;
        data.drain_to(|piece| {
            let len = piece.len();
            if len > 0 {
                stored += self.insert_piece(heap, next, at, piece);
            }
            at += len as u32;
        });
        stored
    }

    fn insert_piece(&mut self, heap: &Heap, next: SeqNum, mut at: SeqNum, mut piece: Buf) -> usize {
        if piece.len() > REACH as usize {
            return 0;
        }
        let end = at + piece.len() as u32;
        if at < next {
            let old = end.min(next);
            self.note_duplicate(at, old);
            piece.advance((old - at) as usize);
            at = old;
        }
        if piece.is_empty() || end - next > REACH {
            return 0;
        }
        let sea = self.sea.get_or_insert_default();
        sea.forget(next);
        let (stored, duplicate) = sea.insert(heap, at, piece);
        if sea.islands.is_empty() {
            self.sea = None;
        }
        if let Some((left, right)) = duplicate {
            self.note_duplicate(left, right);
        }
        stored
    }

    /// Data from `left` to `right` has arrived once more: RFC 2883 §4. Of several that are not reported yet, the first is
    /// kept, grown by what continues it.
    pub(crate) fn note_duplicate(&mut self, left: SeqNum, right: SeqNum) {
        if left >= right {
            return;
        }
        match &mut self.dsack {
            Some((_, end)) if *end == left => *end = right,
            Some(_) => {}
            none => *none = Some((left, right)),
        }
    }

    /// Gives out, in order, what begins at `next`, and forgets what lies before. The caller has then received as many
    /// bytes more.
    #[inline]
    pub(crate) fn take_ready(&mut self, next: SeqNum) -> VecDeque<Buf> {
        let Some(sea) = &mut self.sea else { return VecDeque::new() };
        let ready = sea.take_ready(next);
        if sea.islands.is_empty() {
            self.sea = None;
        }
        ready
    }

    /// The blocks of the next acknowledgment. First the duplicate, which is reported once (RFC 2883 §4), then the island
    /// that grew last, and then the others as they were reported before (RFC 2018 §4).
    pub(crate) fn sack_blocks(&mut self) -> ArrayVec<Block, 4> {
        let mut blocks: ArrayVec<Block, 4> = self.dsack.take().into_iter().collect();
        let Some(sea) = &self.sea else { return blocks };
        let mut before = u64::MAX;
        while !blocks.is_full()
            && let Some(island) = sea
                .islands
                .iter()
                .filter(|island| island.touched < before)
                .max_by_key(|island| island.touched)
        {
            before = island.touched;
            blocks.push((island.begin, island.end));
        }
        blocks
    }

    /// Whether [`sack_blocks`](Reassembly::sack_blocks) has something to say.
    #[inline]
    pub(crate) fn has_blocks(&self) -> bool {
        self.sea.is_some() || self.dsack.is_some()
    }

    /// Lets go of everything, as RFC 2018 §8 allows when memory is short. What was reported will be sent again.
    #[cfg(test)]
    pub(crate) fn clear(&mut self) {
        *self = Reassembly::default();
    }
}

impl Sea {
    /// Fills the gaps that `piece` lies over. Returns how many bytes that took, and the first run of bytes that had been
    /// there.
    fn insert(&mut self, heap: &Heap, mut at: SeqNum, mut piece: Buf) -> (usize, Option<Block>) {
        self.clock += 1;
        let (mut stored, mut duplicate) = (0, None);
        // The first island that ends behind the data's begin, or there.
        let index = self.islands.partition_point(|island| island.end < at);
        while !piece.is_empty() {
            let end = at + piece.len() as u32;
            let Some(island) = self.islands.get_mut(index) else {
                stored += self.found(index, at, piece);
                break;
            };
            if end < island.begin {
                stored += self.found(index, at, piece);
                break;
            }
            if at < island.begin {
                // Up to the island, which grows towards its front.
                let gap = (island.begin - at) as usize;
                let part = piece.split_to(gap);
                let Some(more) = island.prepend(heap, part, self.pieces) else { break };
                island.touched = self.clock;
                self.pieces += more;
                stored += gap;
                at = island.begin + gap as u32;
                continue;
            }
            if at < island.end {
                let held = end.min(island.end);
                duplicate = duplicate.or(Some((at, held)));
                island.touched = self.clock;
                piece.advance((held - at) as usize);
                at = held;
                continue;
            }
            // Behind the island: up to the next one, which it then touches.
            let limit = self.islands.get(index + 1).map_or(end, |after| after.begin.min(end));
            let part = piece.split_to((limit - at) as usize);
            let len = part.len();
            let island = &mut self.islands[index];
            if !part.is_empty() {
                let Some(more) = island.append(heap, part, self.pieces) else { break };
                island.touched = self.clock;
                self.pieces += more;
                stored += len;
                at = limit;
            }
            if self.islands.get(index + 1).is_some_and(|after| after.begin == limit) {
                self.join(heap, index);
            } else {
                break;
            }
        }
        self.bytes += stored;
        (stored, duplicate)
    }

    /// An island of its own, if there may be one more.
    fn found(&mut self, index: usize, at: SeqNum, piece: Buf) -> usize {
        if self.islands.len() == MAX_ISLANDS || self.pieces == MAX_PIECES {
            return 0;
        }
        let len = piece.len();
        let mut pieces = VecDeque::with_capacity(8);
        pieces.push_back(piece);
        let island = Island { begin: at, end: at + len as u32, pieces, touched: self.clock };
        self.islands.insert(index, island);
        self.pieces += 1;
        len
    }

    /// Joins an island and the next one, between which there is no gap any more.
    fn join(&mut self, heap: &Heap, index: usize) {
        let mut after = self.islands.remove(index + 1);
        let island = &mut self.islands[index];
        if let (Some(last), Some(first)) = (island.pieces.back_mut(), after.pieces.front())
            && let Some(both) = small::join(heap, last, first)
        {
            *last = both;
            after.pieces.pop_front();
            self.pieces -= 1;
        }
        island.end = after.end;
        island.touched = island.touched.max(after.touched);
        // The fewer buffers move.
        if island.pieces.len() >= after.pieces.len() {
            island.pieces.append(&mut after.pieces);
        } else {
            island.pieces.drain(..).rev().for_each(|piece| after.pieces.push_front(piece));
            island.pieces = after.pieces;
        }
    }

    fn take_ready(&mut self, next: SeqNum) -> VecDeque<Buf> {
        self.forget(next);
        if self.islands.first().is_none_or(|island| island.begin > next) {
            return VecDeque::new();
        }
        let Island { begin, end, mut pieces, .. } = self.islands.remove(0);
        self.bytes -= (end - begin) as usize;
        self.pieces -= pieces.len();
        let mut old = (next - begin) as usize;
        while let Some(first) = pieces.front_mut()
            && old > 0
        {
            if first.len() > old {
                first.advance(old);
                break;
            }
            old -= first.len();
            pieces.pop_front();
        }
        pieces
    }

    /// Drops the islands that end at `next` or before.
    fn forget(&mut self, next: SeqNum) {
        let passed = self.islands.partition_point(|island| island.end <= next);
        for island in self.islands.drain(..passed) {
            self.bytes -= (island.end - island.begin) as usize;
            self.pieces -= island.pieces.len();
        }
    }
}
