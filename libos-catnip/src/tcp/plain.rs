//! Segments over IPv4 that acknowledge, have a text and timestamps, and say nothing else, as nearly all do: all that varies
//! in their headers is written once, and added to the checksum on the way.
//!
//! Invariant: they are what [`Connection::emit`] would have made; whatever there could be a question about is left to that.

use demi_api::sga::SgArray;

use super::Ecn;
use super::conn::{COPY_THRESHOLD, Connection, Io, Timer, Timestamps};
use super::known::{ALIGNED, PLAIN};
use super::output::PROTOCOL;
use super::segment::{Flags, HEADER, TIMESTAMPS};
use super::seq::SeqNum;
use crate::device::{Checksum, Frame};
use crate::ip::checksum::{self, Raw};
use crate::ip::{Clear, HEADERS};

/// Bytes of all headers, with timestamps and no other option.
pub(super) const HEADS: usize = HEADERS + HEADER + TIMESTAMPS;

/// What a device completes of a segment over IPv4.
const PARTIAL: Checksum = Checksum::Partial { start: HEADERS as u16, at: HEADERS as u16 + 16 };

impl Connection {
    /// Sends a segment of new text, as [`Connection::emit`] would, if it lies in one buffer that is worth referring to, and
    /// nothing is to be said besides. `None`: it is not such a one, or there is no memory; nothing was done.
    #[inline(never)]
    pub(super) fn send_referring(
        &mut self,
        io: &mut Io<'_, '_>,
        (seq, flags): (SeqNum, Flags),
        (from, len): (u64, usize),
    ) -> Option<()> {
        let plain = len > COPY_THRESHOLD
            && flags.0 & !Flags::PSH.0 == Flags::ACK.0
            && self.ecn == Ecn::Off
            && !self.reassembly.has_blocks();
        let (true, Some(ours)) = (plain, self.timestamps) else { return None };
        let text = self.send.range(from, len).single()?;
        let len = HEADER + TIMESTAMPS + len;
        let clear = io.ip.is_clear_for_two(io.cx.now, &self.path, len)?;
        let mut head = io.cx.heap.alloc(HEADS).ok()?;
        let sum = if io.ip.completes_checksums() { Raw::ZERO } else { Raw::of(&text) };
        let checksum = self.fill_plain(io, &mut head, (clear, ours), (seq, flags), (len, sum))?;
        io.counters.sent += 1;
        self.acked_to = self.rcv_nxt;
        self.ack_soon = false;
        self.set_timer(Timer::DelayedAck, None);
        let data = SgArray::pair(head.freeze(), text);
        io.ip.outbox.push_back(Frame { data, checksum });
        Some(())
    }

    /// Fills in the headers of a segment that acknowledges, with timestamps, over IPv4, in front of a text with that sum.
    #[inline(always)]
    pub(super) fn fill_plain(
        &mut self,
        io: &mut Io<'_, '_>,
        head: &mut [u8],
        (clear, ours): (Clear, Timestamps),
        (seq, flags): (SeqNum, Flags),
        (len, text): (usize, Raw),
    ) -> Option<Checksum> {
        let (headers, fixed) = head.first_chunk_mut::<HEADS>()?.split_first_chunk_mut()?;
        io.ip.fill_clear(clear, &self.path, headers, len, PROTOCOL, true);
        let words = [
            u32::from(self.local_port) << 16 | u32::from(self.remote_port),
            seq.0,
            self.rcv_nxt.0,
            u32::from(PLAIN | u16::from(flags.0)) << 16 | u32::from(self.take_window()),
            0,
            ALIGNED,
            super::clock(io.cx.now, ours.offset),
            ours.recent,
        ];
        let pseudo = self.path.pseudo_sum(PROTOCOL, len);
        let mut sum = 0;
        for (place, word) in fixed.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_be_bytes();
            sum += u64::from(u32::from_ne_bytes(*place));
        }
        let (sum, checksum) = if io.ip.completes_checksums() {
            (checksum::fold(pseudo).to_be_bytes(), PARTIAL)
        } else {
            ((!text.and_word(sum).and(pseudo).fold()).to_ne_bytes(), Checksum::Unknown)
        };
        fixed.get_mut(16..18)?.copy_from_slice(&sum);
        Some(checksum)
    }
}
