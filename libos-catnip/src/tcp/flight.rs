//! Segments that were sent and are not acknowledged, in the order of their sequence numbers, each with what is known of
//! it: when it was last sent, whether the peer has it (RFC 2018), whether it is taken for lost (RFC 8985).
//!
//! Invariants: the segments are adjacent, from `SND.UNA` to `SND.NXT`; `outstanding`, `sacked` and `lost` are the sums over
//! them.

use std::collections::VecDeque;

use demi_api::time::Instant;

use super::segment::Block;
use super::seq::SeqNum;

/// A segment as it was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) start: SeqNum,
    pub(crate) end: SeqNum,
    /// When it was last sent.
    pub(crate) at: Instant,
    pub(crate) sacked: bool,
    pub(crate) lost: bool,
    pub(crate) retransmitted: bool,
    /// It was sent at `at` at the latest.
    pub(crate) late: bool,
}

impl Sent {
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.end - self.start
    }
}

#[derive(Debug, Default)]
pub(crate) struct Flight {
    segments: VecDeque<Sent>,
    outstanding: u32,
    sacked: u32,
    lost: u32,
}

impl Flight {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether it keeps memory, whatever for.
    #[inline]
    pub(crate) fn has_slack(&self) -> bool {
        self.segments.capacity() > 0
    }

    /// Keeps no more memory than it needs.
    pub(crate) fn rest(&mut self) {
        self.segments.shrink_to_fit();
    }

    /// Sequence numbers thought to be in the network: RFC 6675's `pipe`.
    #[inline]
    pub(crate) fn pipe(&self) -> u32 {
        self.outstanding - self.sacked - self.lost
    }

    /// Whether anything in it is taken for lost, or was acknowledged ahead of what comes before.
    #[inline]
    pub(crate) fn is_holed(&self) -> bool {
        self.lost | self.sacked != 0
    }

    #[inline]
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    #[inline]
    pub(crate) fn has_sacked(&self) -> bool {
        self.sacked > 0
    }

    /// How many segments there are.
    pub(crate) fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Bytes taken for lost.
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    pub(crate) fn sacked(&self) -> u32 {
        self.sacked
    }

    /// The first segment.
    #[inline]
    pub(crate) fn first(&self) -> Option<&Sent> {
        self.segments.front()
    }

    /// The last segment.
    pub(crate) fn last(&self) -> Option<&Sent> {
        self.segments.back()
    }

    /// Notes a segment that was sent for the first time, behind all others.
    #[inline]
    pub(crate) fn push(&mut self, start: SeqNum, end: SeqNum, at: Instant) {
        debug_assert!(self.segments.back().is_none_or(|last| last.end == start), "segments are adjacent");
        self.outstanding += end - start;
        self.segments.push_back(Sent {
            start,
            end,
            at,
            sacked: false,
            lost: false,
            retransmitted: false,
            late: false,
        });
    }

    /// The peer has everything below `una`. If that is the first segment and nothing else, and it was sent once, it is
    /// given out; `None`: nothing was done.
    #[inline(always)]
    pub(crate) fn ack_first(&mut self, una: SeqNum) -> Option<Sent> {
        let first = *self.segments.front()?;
        if first.end != una || first.retransmitted | first.sacked | first.lost {
            return None;
        }
        if self.segments.len() == 1 {
            self.segments.clear();
        } else {
            self.segments.pop_front();
        }
        self.outstanding -= first.len();
        Some(first)
    }

    /// The peer has everything below `una`; `delivered` is told of what it was not known to have.
    #[inline]
    pub(crate) fn ack(&mut self, una: SeqNum, mut delivered: impl FnMut(&Sent)) {
        while let Some(first) = self.segments.front_mut() {
            if first.start >= una {
                break;
            }
            let part = Sent { end: first.end.min(una), ..*first };
            self.outstanding -= part.len();
            if part.sacked {
                self.sacked -= part.len();
            } else {
                delivered(&part);
            }
            if part.lost {
                self.lost -= part.len();
            }
            if part.end < first.end {
                first.start = una;
                break;
            }
            self.segments.pop_front();
        }
    }

    /// The peer has these blocks: those that are not within what was sent are ignored. `delivered` is told of what it was
    /// not known to have.
    pub(crate) fn sack(&mut self, blocks: &[Block], mut delivered: impl FnMut(&Sent)) {
        let (Some(first), Some(last)) = (self.segments.front(), self.segments.back()) else { return };
        let (una, nxt) = (first.start, last.end);
        for (left, right) in blocks.iter().copied() {
            if left >= right || left < una || right > nxt {
                continue;
            }
            let begin = self.segments.partition_point(|sent| sent.start < left);
            for place in begin..self.segments.len() {
                let sent = &mut self.segments[place];
                if sent.end > right {
                    break;
                }
                if sent.sacked {
                    continue;
                }
                if sent.lost {
                    self.lost -= sent.len();
                }
                (sent.sacked, sent.lost) = (true, false);
                self.sacked += sent.len();
                delivered(sent);
            }
        }
    }

    /// Asks of each segment that the peer is not known to have, nor known to have lost, whether it is lost. `judge` is
    /// told when it was last sent and where it ends; segments that were sent once are asked in the order of sending,
    /// until one is answered `None`: it, and what was sent behind it, is too recent to tell. Returns whether any was.
    pub(crate) fn judge(&mut self, mut judge: impl FnMut(&Sent) -> Option<bool>) -> bool {
        let mut found = false;
        for sent in &mut self.segments {
            if sent.sacked || sent.lost {
                continue;
            }
            match judge(sent) {
                Some(true) => {
                    sent.lost = true;
                    self.lost += sent.end - sent.start;
                    found = true;
                }
                Some(false) => {}
                None if sent.retransmitted => {}
                None => break,
            }
        }
        found
    }

    /// What bears the time `at` was sent by `end`.
    pub(crate) fn postdate(&mut self, at: Instant, end: Instant) {
        for sent in self.segments.iter_mut().filter(|sent| sent.at == at && !sent.late) {
            (sent.at, sent.late) = (end, true);
        }
    }

    /// Takes the first segment for lost, whatever is known of it; after a timeout, all of them.
    pub(crate) fn lose(&mut self, all: bool) {
        for sent in &mut self.segments {
            if !sent.lost && !sent.sacked {
                sent.lost = true;
                self.lost += sent.end - sent.start;
            }
            if !all {
                break;
            }
        }
    }

    /// The peer may have dropped what it had acknowledged selectively: RFC 2018 §8.
    pub(crate) fn forget_sacks(&mut self) {
        for sent in &mut self.segments {
            sent.sacked = false;
        }
        self.sacked = 0;
    }

    /// The first lost segment.
    pub(crate) fn first_lost(&self) -> Option<Sent> {
        if self.lost == 0 {
            return None;
        }
        self.segments.iter().find(|sent| sent.lost).copied()
    }

    /// Notes that the first `len` sequence numbers of the segment at `start` were sent again; what is left of it is a
    /// segment of its own.
    pub(crate) fn retransmitted(&mut self, start: SeqNum, len: u32, at: Instant) {
        let place = self.segments.partition_point(|sent| sent.start < start);
        let Some(sent) = self.segments.get_mut(place).filter(|sent| sent.start == start) else { return };
        let rest = Sent { start: start + len, ..*sent };
        if sent.lost {
            self.lost -= len.min(sent.len());
        }
        (sent.lost, sent.retransmitted, sent.at) = (false, true, at);
        if len < sent.len() {
            sent.end = start + len;
            self.segments.insert(place + 1, rest);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Flight::default();
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
