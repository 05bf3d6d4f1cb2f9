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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MSS: u32 = 10;

    fn seq(number: u32) -> SeqNum {
        SeqNum(number)
    }

    fn board(una: u32, nxt: u32, blocks: &[(u32, u32)]) -> Scoreboard {
        let mut board = Scoreboard::new();
        for &(left, right) in blocks {
            board.update(&[(seq(left), seq(right))], seq(una), seq(nxt));
        }
        board
    }

    #[test]
    fn rfc2018_blocks_are_merged_and_counted_once() {
        let mut board = board(0, 1000, &[(100, 200), (300, 400)]);
        assert_eq!(board.update(&[(seq(150), seq(350)), (seq(100), seq(200))], seq(0), seq(1000)), 100);
        assert_eq!(board.ranges(), [(seq(100), seq(400))]);
        assert_eq!(board.update(&[(seq(400), seq(500))], seq(0), seq(1000)), 100);
        assert_eq!((board.sacked_bytes(), board.highest()), (400, Some(seq(500))));
        assert_eq!(board.ack_to(seq(600)), 400);
        assert!(board.is_empty());
    }

    #[test]
    fn rfc2018_5_holes_are_what_lies_between() {
        let board = board(0, 1000, &[(100, 200), (300, 400)]);
        assert_eq!(board.next_hole(seq(0), seq(400)), Some((seq(0), seq(100))));
        assert_eq!(board.next_hole(seq(100), seq(400)), Some((seq(200), seq(300))));
        assert_eq!(board.next_hole(seq(250), seq(260)), Some((seq(250), seq(260))));
        assert_eq!(board.next_hole(seq(300), seq(400)), None);
        assert_eq!(board.next_hole(seq(300), seq(500)), Some((seq(400), seq(500))));
        assert!(board.is_sacked(seq(120), seq(200)) && !board.is_sacked(seq(120), seq(201)));
        assert_eq!(board.sacked_in(seq(150), seq(350)), 100);
        assert_eq!(board.sacked_in(seq(350), seq(150)), 0);
    }

    #[test]
    fn rfc2018_8_what_cannot_be_true_is_not_believed() {
        let lies = [(50, 40), (40, 40), (990, 1001), (1 << 31, 7), (0, 10), (u32::MAX, 30), (10, 1 << 31)];
        assert!(board(0, 1000, &lies).is_empty());
        // Half of a range is acknowledged: the peer has dropped the other half, or never had it.
        let mut board = board(0, 1000, &[(100, 200), (300, 400)]);
        assert_eq!(board.ack_to(seq(150)), 50);
        assert_eq!((board.ranges(), board.sacked_bytes()), (&[(seq(300), seq(400))][..], 100));
        board.clear();
        assert!(board.is_empty());
    }

    #[test]
    fn a_full_board_takes_only_what_touches_it() {
        let blocks: Vec<_> = (0..100).map(|n| (10 + 20 * n, 20 + 20 * n)).collect();
        let mut board = board(0, 5000, &blocks);
        assert_eq!((board.ranges().len(), board.sacked_bytes()), (MAX_RANGES, 640));
        assert_eq!(board.update(&[(seq(3000), seq(3010)), (seq(20), seq(30))], seq(0), seq(5000)), 10);
        assert_eq!((board.ranges().len(), board.sacked_bytes()), (MAX_RANGES - 1, 650));
    }

    #[test]
    fn rfc6675_4_is_lost_by_three_ranges_or_by_bytes() {
        assert_eq!(board(0, 1000, &[(10, 11), (20, 21)]).lost_below(MSS), None);
        assert_eq!(board(0, 1000, &[(10, 11), (20, 21), (30, 31)]).lost_below(MSS), Some(seq(10)));
        assert_eq!(board(0, 1000, &[(10, 30)]).lost_below(MSS), None);
        assert_eq!(board(0, 1000, &[(10, 31)]).lost_below(MSS), Some(seq(10)));
        assert_eq!(board(0, 1000, &[(10, 20), (30, 31), (40, 60)]).lost_below(MSS), Some(seq(30)));
    }

    #[test]
    fn rfc6675_4_next_seg_prefers_what_is_lost_then_what_is_new() {
        let board = board(0, 1000, &[(100, 110), (200, 210), (300, 310)]);
        let next = |rxt, new| board.next_seg(seq(rxt), MSS, new);
        assert_eq!(next(0, true), Some(NextSeg::Lost(seq(0), seq(100))));
        assert_eq!(next(100, true), Some(NextSeg::New));
        assert_eq!(next(100, false), Some(NextSeg::Doubtful(seq(110), seq(200))));
        assert_eq!(next(310, false), None);
        assert_eq!(Scoreboard::new().next_seg(seq(0), MSS, false), None);
        assert_eq!(Scoreboard::new().next_seg(seq(0), MSS, true), Some(NextSeg::New));
    }

    /// The examples of RFC 2883 §4.1.1 to §4.2.3, and what is none.
    #[test]
    fn rfc2883_4_duplicates_are_told_from_news() {
        let dsack = |blocks: &[(u32, u32)], ack| {
            let blocks: Vec<_> = blocks.iter().map(|&(left, right)| (seq(left), seq(right))).collect();
            super::dsack(&blocks, seq(ack)).map(|(left, right)| (left.0, right.0))
        };
        assert_eq!(dsack(&[(3000, 3500)], 4000), Some((3000, 3500)));
        assert_eq!(dsack(&[(3000, 3500), (4500, 5000)], 4000), Some((3000, 3500)));
        assert_eq!(dsack(&[(5000, 5500), (4500, 6000)], 4000), Some((5000, 5500)));
        assert_eq!(dsack(&[(4500, 5000), (3000, 3500)], 4000), None);
        assert_eq!(dsack(&[(4500, 5000)], 4000), None);
        assert_eq!(dsack(&[(3500, 3000)], 4000), None);
        assert_eq!(dsack(&[], 4000), None);
    }

    /// One bit for each byte.
    #[derive(Clone)]
    struct Bits {
        bits: Vec<bool>,
        una: usize,
        nxt: usize,
    }

    impl Bits {
        fn runs(&self) -> Vec<(usize, usize)> {
            let mut runs: Vec<(usize, usize)> = Vec::new();
            for at in (0..self.bits.len()).filter(|&at| self.bits[at]) {
                match runs.last_mut() {
                    Some((_, end)) if *end == at => *end = at + 1,
                    _ => runs.push((at, at + 1)),
                }
            }
            runs
        }

        fn note(&mut self, left: usize, right: usize) -> u32 {
            if left <= self.una || left >= right || right > self.nxt {
                return 0;
            }
            let runs = self.runs();
            let touches = runs.iter().any(|&(begin, end)| begin <= right && left <= end);
            if !touches && runs.len() == MAX_RANGES {
                return 0;
            }
            (left..right).map(|at| u32::from(!std::mem::replace(&mut self.bits[at], true))).sum()
        }

        fn ack(&mut self, una: usize) -> u32 {
            let cut = self.bits[..una].iter().filter(|&&bit| bit).count();
            if let Some(&(_, end)) = self.runs().iter().find(|&&(begin, end)| begin <= una && una <= end) {
                self.bits[..end].fill(false);
            }
            self.bits[..una].fill(false);
            self.una = una;
            cut as u32
        }

        /// RFC 6675 §4, in its words.
        fn is_lost(&self, at: usize) -> bool {
            let above = self.runs().into_iter().filter(|&(begin, _)| begin > at);
            let bytes: usize = above.clone().map(|(begin, end)| end - begin).sum();
            above.count() >= 3 || bytes > 2 * MSS as usize
        }

        fn pipe(&self, rxt: usize) -> u32 {
            let open = (self.una..self.nxt).filter(|&at| !self.bits[at]);
            open.map(|at| u32::from(!self.is_lost(at)) + u32::from(at < rxt)).sum()
        }
    }

    const SPACE: usize = 300;

    fn blocks() -> impl Strategy<Value = Vec<(usize, usize)>> {
        let block = (0..SPACE, 0..16usize).prop_map(|(left, len)| (left, (left + len).min(SPACE - 1)));
        prop::collection::vec(prop_oneof![8 => block, 1 => (0..SPACE, 0..SPACE)], 0..5)
    }

    proptest! {
        /// The oracle is a bitmap.
        #[test]
        fn the_board_says_what_a_bitmap_does(
            base in any::<u32>(),
            steps in prop::collection::vec((blocks(), 0..30usize, 0..SPACE, 0..SPACE), 1..60),
        ) {
            let seq = |at: usize| SeqNum(base.wrapping_add(at as u32));
            let mut bits = Bits { bits: vec![false; SPACE], una: 0, nxt: SPACE - 10 };
            let mut board = Scoreboard::new();
            for (blocks, ack, a, b) in steps {
                let reported: Vec<_> = blocks.iter().map(|&(left, right)| (seq(left), seq(right))).collect();
                // Most of the time, nothing is acknowledged.
                let una = if ack < 3 { (bits.una + 7 * ack).min(bits.nxt) } else { bits.una };
                let mut ahead = bits.clone();
                prop_assert_eq!(board.ack_to(seq(una)), ahead.ack(una));
                bits = ahead;
                let newly: u32 = blocks.iter().map(|&(left, right)| bits.note(left, right)).sum();
                prop_assert_eq!(board.update(&reported, seq(una), seq(bits.nxt)), newly);
                let runs: Vec<_> = bits.runs().iter().map(|&(left, right)| (seq(left), seq(right))).collect();
                prop_assert_eq!(board.ranges(), &runs[..]);
                prop_assert_eq!(board.sacked_bytes() as usize, bits.bits.iter().filter(|&&bit| bit).count());
                let (from, upto) = (a.min(b).max(una), a.max(b).max(una));
                let within = &bits.bits[from..upto];
                prop_assert_eq!(board.sacked_in(seq(from), seq(upto)) as usize, within.iter().filter(|&&bit| bit).count());
                if from < upto {
                    prop_assert_eq!(board.is_sacked(seq(from), seq(upto)), within.iter().all(|&bit| bit));
                }
                let hole = within.iter().position(|&bit| !bit).map(|begin| {
                    let len = within[begin..].iter().position(|&bit| bit).unwrap_or(within.len() - begin);
                    (seq(from + begin), seq(from + begin + len))
                });
                prop_assert_eq!(board.next_hole(seq(from), seq(upto)), hole);
                if !bits.bits[from] {
                    prop_assert_eq!(board.is_lost(seq(from), MSS), bits.is_lost(from));
                }
                prop_assert_eq!(board.pipe(seq(una), seq(bits.nxt), seq(from), MSS), bits.pipe(from));
            }
        }

        #[test]
        fn any_blocks_are_borne(
            steps in prop::collection::vec(
                (prop::collection::vec(any::<(u32, u32)>(), 0..5), any::<u32>(), any::<u32>(), any::<u32>()), 0..50,
            ),
        ) {
            let mut board = Scoreboard::new();
            for (blocks, una, nxt, any) in steps {
                let blocks: Vec<_> = blocks.into_iter().map(|(left, right)| (seq(left), seq(right))).collect();
                board.update(&blocks, seq(una), seq(nxt));
                board.next_seg(seq(any), any, false);
                board.pipe(seq(una), seq(nxt), seq(any), any);
                board.sacked_in(seq(any), seq(nxt));
                prop_assert!(board.ranges().len() <= MAX_RANGES);
            }
        }
    }
}
