//! What the peer has acknowledged out of order: RFC 2018, and what RFC 6675 makes of it.
//!
//! Invariants: the ranges are sorted, do not touch, lie behind the cumulative acknowledgment and not beyond what was sent,
//! and are at most [`MAX_RANGES`]. While there is none, there is no memory either.
//!
//! What a peer reports is believed only where it can be true: a block that reaches beyond what was sent is ignored, and
//! so is one that begins at or before the cumulative acknowledgment, as what it reports would have been acknowledged with
//! it. When the board is full, a range that touches no other is not noted: at worst its bytes are sent once more.
//! A peer that goes back on what it reported (RFC 2018 §8) is met by the retransmission timer, with
//! [`Scoreboard::clear`].

use arrayvec::ArrayVec;

use super::rack::DUP_THRESH;
use super::seq::SeqNum;

/// A range of sequence numbers, as in a SACK option: the first, and the one behind the last.
pub(crate) type Block = (SeqNum, SeqNum);

/// Most ranges that are noted.
pub(crate) const MAX_RANGES: usize = 64;

/// The ranges that the peer holds beyond the cumulative acknowledgment.
#[derive(Debug, Default)]
pub(crate) struct Scoreboard {
    board: Option<Box<Board>>,
}

const _: () = assert!(size_of::<Scoreboard>() == 8);

#[derive(Debug)]
struct Board {
    ranges: ArrayVec<Block, MAX_RANGES>,
    /// Bytes in all of them.
    bytes: u32,
}

/// What RFC 6675 §4, NextSeg, has to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NextSeg {
    /// Rule 1: lost, to be retransmitted.
    Lost(SeqNum, SeqNum),
    /// Rule 2: what was not sent yet.
    New,
    /// Rule 3: not lost for sure.
    Doubtful(SeqNum, SeqNum),
}

impl Scoreboard {
    pub(crate) fn new() -> Scoreboard {
        Scoreboard::default()
    }

    /// Whether the peer holds nothing out of order, as far as is known.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.board.is_none()
    }

    /// Takes in the blocks of an acknowledgment of `una`, where `nxt` is the highest that was sent. Returns how many
    /// bytes it newly reports.
    #[inline]
    pub(crate) fn update(&mut self, blocks: &[Block], una: SeqNum, nxt: SeqNum) -> u32 {
        self.ack_to(una);
        let mut newly = 0;
        for &(left, right) in blocks {
            // Distances are below 2^31 once the block is known to lie in (una, nxt].
            let sent = nxt - una;
            let (from, to) = (left - una, right - una);
            if 0 < from && from < to && to <= sent && sent <= i32::MAX as u32 {
                newly += self.board.get_or_insert_with(Board::new).note(left, right);
            }
        }
        newly
    }

    /// The cumulative acknowledgment has come to `una`. Returns how many bytes before it had been reported.
    #[inline]
    pub(crate) fn ack_to(&mut self, una: SeqNum) -> u32 {
        let Some(board) = &mut self.board else { return 0 };
        let cut = board.ack_to(una);
        if board.ranges.is_empty() {
            self.board = None;
        }
        cut
    }

    /// Forgets everything: RFC 2018 §8, when the retransmission timer expires.
    pub(crate) fn clear(&mut self) {
        self.board = None;
    }

    /// The ranges, in order.
    #[inline]
    pub(crate) fn ranges(&self) -> &[Block] {
        self.board.as_ref().map_or(&[], |board| &board.ranges)
    }

    /// Bytes in all ranges.
    #[inline]
    pub(crate) fn sacked_bytes(&self) -> u32 {
        self.board.as_ref().map_or(0, |board| board.bytes)
    }

    /// Bytes in all ranges that lie in `from..upto`.
    pub(crate) fn sacked_in(&self, from: SeqNum, upto: SeqNum) -> u32 {
        if from >= upto {
            return 0;
        }
        let ranges = self.ranges();
        let first = ranges.partition_point(|&(_, right)| right <= from);
        let within = ranges[first..].iter().take_while(|&&(left, _)| left < upto);
        within.map(|&(left, right)| right.min(upto) - left.max(from)).sum()
    }

    /// The number behind the highest range.
    #[inline]
    pub(crate) fn highest(&self) -> Option<SeqNum> {
        self.ranges().last().map(|&(_, right)| right)
    }

    /// Whether the peer holds all of `from..upto`.
    #[inline]
    pub(crate) fn is_sacked(&self, from: SeqNum, upto: SeqNum) -> bool {
        let ranges = self.ranges();
        let at = ranges.partition_point(|&(_, right)| right <= from);
        ranges.get(at).is_some_and(|&(left, right)| left <= from && upto <= right)
    }

    /// The first range in `from..upto` that the peer does not hold.
    #[inline]
    pub(crate) fn next_hole(&self, mut from: SeqNum, upto: SeqNum) -> Option<(SeqNum, SeqNum)> {
        let ranges = self.ranges();
        let mut at = ranges.partition_point(|&(_, right)| right <= from);
        if let Some(&(left, right)) = ranges.get(at)
            && left <= from
        {
            from = right;
            at += 1;
        }
        let end = ranges.get(at).map_or(upto, |&(left, _)| left.min(upto));
        (from < upto).then_some((from, end))
    }

    /// RFC 6675 §4, IsLost: below this number, whatever is not acknowledged is lost. Three ranges lie above it, or more
    /// than two segments' worth of bytes.
    pub(crate) fn lost_below(&self, mss: u32) -> Option<SeqNum> {
        let enough = (DUP_THRESH - 1).saturating_mul(mss);
        let (mut ranges, mut bytes) = (0, 0);
        self.ranges().iter().rev().find_map(|&(left, right)| {
            ranges += 1;
            bytes += right - left;
            (ranges >= DUP_THRESH || bytes > enough).then_some(left)
        })
    }

    /// RFC 6675 §4, IsLost, of a byte that is not acknowledged.
    pub(crate) fn is_lost(&self, seq: SeqNum, mss: u32) -> bool {
        self.lost_below(mss).is_some_and(|edge| seq < edge)
    }

    /// RFC 6675 §4, SetPipe: bytes taken to be on the way. What lies before `rxt` was retransmitted: HighRxt + 1.
    pub(crate) fn pipe(&self, una: SeqNum, nxt: SeqNum, rxt: SeqNum, mss: u32) -> u32 {
        let open = |from: SeqNum, upto: SeqNum| {
            if from < upto { upto - from - self.sacked_in(from, upto) } else { 0 }
        };
        let lost = self.lost_below(mss).unwrap_or(una).max(una);
        open(lost, nxt).saturating_add(open(una, rxt.min(nxt)))
    }

    /// RFC 6675 §4, NextSeg, rules 1 to 3. What lies before `rxt` was retransmitted: HighRxt + 1, no less than the
    /// cumulative acknowledgment; `new` says whether there is more to be sent, and that the window allows it.
    pub(crate) fn next_seg(&self, rxt: SeqNum, mss: u32, new: bool) -> Option<NextSeg> {
        let hole = self.highest().and_then(|highest| self.next_hole(rxt, highest));
        match hole {
            Some((from, upto)) if self.is_lost(from, mss) => Some(NextSeg::Lost(from, upto)),
            _ if new => Some(NextSeg::New),
            hole => hole.map(|(from, upto)| NextSeg::Doubtful(from, upto)),
        }
    }
}

impl Board {
    #[cold]
    fn new() -> Box<Board> {
        Box::new(Board { ranges: ArrayVec::new(), bytes: 0 })
    }

    /// Adds a range, merged with those that it overlaps or touches; returns how many bytes are new.
    fn note(&mut self, left: SeqNum, right: SeqNum) -> u32 {
        let first = self.ranges.partition_point(|&(_, end)| end < left);
        let behind = first + self.ranges[first..].partition_point(|&(begin, _)| begin <= right);
        if first == behind {
            if self.ranges.try_insert(first, (left, right)).is_err() {
                return 0;
            }
            self.bytes += right - left;
            return right - left;
        }
        let touched = &self.ranges[first..behind];
        let held: u32 = touched.iter().map(|&(left, right)| right - left).sum();
        let merged = (left.min(touched[0].0), right.max(touched[touched.len() - 1].1));
        self.ranges[first] = merged;
        self.ranges.drain(first + 1..behind);
        let newly = merged.1 - merged.0 - held;
        self.bytes += newly;
        newly
    }

    fn ack_to(&mut self, una: SeqNum) -> u32 {
        let before = self.bytes;
        let whole = self.ranges.partition_point(|&(_, right)| right <= una);
        for (left, right) in self.ranges.drain(..whole) {
            self.bytes -= right - left;
        }
        // Such a range is cut only when the peer acknowledges half of what it has: the rest is not believed either.
        if let Some(&(left, right)) = self.ranges.first()
            && left <= una
        {
            self.bytes -= right - left;
            self.ranges.remove(0);
            return before - self.bytes - (right - una);
        }
        before - self.bytes
    }
}

/// The duplicate that an acknowledgment reports, RFC 2883 §4: its first block, if that lies below the cumulative
/// acknowledgment or within the second block.
#[inline]
pub(crate) fn dsack(blocks: &[Block], ack: SeqNum) -> Option<Block> {
    let (&(left, right), others) = blocks.split_first()?;
    // A block that ends before it begins reports nothing.
    if left >= right {
        return None;
    }
    let within = others.first().is_some_and(|other| other.0 <= left && right <= other.1);
    (right <= ack || within).then_some((left, right))
}
