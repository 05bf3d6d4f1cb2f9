//! A small array pushed on a quiet connection, which nearly every question and answer is: one segment, at once. Those
//! that follow it in the same round are gathered.
//!
//! Invariant: what is done here is what [`Connection::push`] does with the same array; whatever could hold a segment up,
//! or add to it, is left to that. Most of it is known from [`Connection::note_calm`], which everything is followed by that
//! is not itself such a short way.

use demi_api::memalloc::OutOfMemory;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::Ecn;
use super::conn::{COPY_THRESHOLD, Connection, Fin, Io, LEAST_LOSS, LossTimer, State, Timer};
use super::output::frame_of;
use super::plain::HEADS;
use super::segment::{Flags, HEADER, Plain, TIMESTAMPS};
use crate::device::{DeviceCx, Frame, Queue as Device, transmit};
use crate::ip::behind_headers;

impl Connection {
    /// Keeps the array for the next turn, if it follows another of its round: what an application pushes without a look
    /// at what became of it goes together, in as few segments as it fits. False: nothing was done.
    #[inline]
    pub(super) fn push_gathered(&mut self, io: &mut Io<'_, '_>, sga: &mut SgArray, len: usize) -> bool {
        let follows = self.round == io.cx.done.round()
            && (1..=COPY_THRESHOLD).contains(&len)
            && self.state == State::Established
            && self.fin == Fin::No
            && !self.send.has_pushes()
            && self.send.len() + len as u64 <= self.send_room();
        if !follows {
            return false;
        }
        self.send.append_small(io.cx.heap, sga);
        if self.send.unsent() >= u64::from(self.mss) {
            self.output(io);
        } else {
            self.gathered = true;
        }
        true
    }

    /// Sends the array as one segment, if nothing is in its way, and notes it once the device has it, while the peer is
    /// at work on it already. False: nothing was done.
    #[inline(never)]
    pub(super) fn push_brief(
        &mut self,
        io: &mut Io<'_, '_>,
        device: &mut dyn Device,
        sga: &mut SgArray,
    ) -> bool {
        let len = sga.len();
        if !self.is_free_for(len, io.cx.done.round()) {
            return false;
        }
        let now = io.cx.now;
        if self.send_brief(io, device, sga).is_none() {
            let Ok(frame) = self.frame_any(io, sga) else { return false };
            transmit(device, &DeviceCx { heap: io.cx.heap, now }, &mut io.ip.outbox, frame);
        }
        io.counters.sent += 1;
        io.counters.gaps.push(now);
        io.counters.copied_bytes += len as u64;
        let idle = self.nxt == self.una;
        if idle {
            self.note_idle(now);
        }
        self.send.append_sent(io.cx.heap, sga);
        let at = self.nxt;
        self.nxt += len as u32;
        self.flight.push(at, self.nxt, now);
        if idle {
            self.loss_timer = LossTimer::Undecided;
            self.set_timer(Timer::Loss, Some(Instant::from_nanos(now.as_nanos() + LEAST_LOSS)));
        } else {
            self.arm_loss_timer_on_send(now);
        }
        self.acked_to = self.rcv_nxt;
        self.ack_soon = false;
        self.set_timer(Timer::DelayedAck, None);
        self.round = io.cx.done.round();
        true
    }

    /// Gives the device a frame with the array as the next segment, of one buffer, over IPv4 and with timestamps, to a
    /// neighbour that is known. All that varies in its headers is written once, and added to the checksum on the way.
    /// `None`: it is not such a one, or there is no memory; nothing was done.
    #[inline(never)]
    fn send_brief(&mut self, io: &mut Io<'_, '_>, device: &mut dyn Device, sga: &SgArray) -> Option<()> {
        let (text, ours) = (sga.single()?, self.timestamps?);
        let len = HEADER + TIMESTAMPS + text.len();
        let clear = io.ip.is_clear(io.cx.now, &self.path, len)?;
        let (mut head, text) = behind_headers::<HEADS>(io.cx.heap, text)?;
        let checksum = self.fill_plain(io, &mut head, (clear, ours), (self.nxt, Flags::PSH), (len, text))?;
        let device_cx = DeviceCx { heap: io.cx.heap, now: io.cx.now };
        transmit(device, &device_cx, &mut io.ip.outbox, Some(Frame { data: head.into(), checksum }));
        Some(())
    }

    /// The frame for the device, whatever the array and the connection are like. `Ok(None)`: it has found its way to the
    /// outbox already.
    #[cold]
    #[inline(never)]
    fn frame_any(&mut self, io: &mut Io<'_, '_>, sga: &SgArray) -> Result<Option<Frame>, OutOfMemory> {
        let mut header = Plain {
            from: self.local_port,
            to: self.remote_port,
            seq: self.nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK.with(Flags::PSH),
            window: 0,
            timestamps: self.timestamps.map(|ours| (super::clock(io.cx.now, ours.offset), ours.recent)),
        };
        let (headroom, header_len) = (self.path.headroom(), header.len());
        let mut head = io.cx.heap.alloc(headroom + header_len + sga.len())?;
        // Only what is sent promises a window.
        header.window = self.take_window();
        let (fixed, payload) = head[headroom..].split_at_mut(header_len);
        header.write(fixed);
        sga.copy_to(payload);
        Ok(frame_of(io, &mut self.path, head, 0))
    }

    /// Whether so many bytes may go at once, and by themselves.
    #[inline]
    fn is_free_for(&self, len: usize, round: u32) -> bool {
        debug_assert!(!self.free || self.is_free(), "whoever changes that says so: {self:?}");
        debug_assert!(self.congestion.cwnd() >= self.mss.into() && self.send_room() >= COPY_THRESHOLD as u64);
        let sent = self.nxt - self.una;
        (1..=COPY_THRESHOLD.min(self.mss.into())).contains(&len)
            && self.round != round
            && self.free
            && !self.congestion.is_paced()
            && sent + len as u32 <= self.window
            // Where nothing is under way, there is room for a segment.
            && (sent == 0 || self.is_free_beside(sent, len))
    }

    /// Whether there is room for so many bytes beside what is under way, and they need not wait for it.
    #[inline]
    fn is_free_beside(&self, sent: u32, len: usize) -> bool {
        self.settings.no_delay
            && self.congestion.quota(sent) >= len as u32
            && self.send.len() + len as u64 <= self.send_room()
    }

    /// Notes whether the short ways are open, after anything was done that they do not know of.
    #[inline]
    pub(super) fn note_calm(&mut self) {
        self.calm = self.is_calm();
        self.free = self.is_free();
    }

    /// Nothing waits to be sent, nothing is missing either way, and there is nothing to report: what is pushed may go.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.send.unsent() == 0
            && !self.send.has_pushes()
            && self.ecn == Ecn::Off
            && !self.reassembly.has_blocks()
            && self.is_calm()
    }
}
