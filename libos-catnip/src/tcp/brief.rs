//! A small array pushed on a quiet connection, which nearly every question and answer is: one segment, at once. Those
//! that follow it in the same round are gathered.
//!
//! Invariant: what is done here is what [`Connection::push`] does with the same array; whatever could hold a segment up,
//! or add to it, is left to that.

use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::Ecn;
use super::conn::{COPY_THRESHOLD, Connection, Fin, Io, LEAST_LOSS, LossTimer, State, Timer};
use super::output::frame_of;
use super::segment::{Flags, Plain};
use crate::device::{DeviceCx, Queue as Device, transmit};

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

    /// Sends the array as one segment, if nothing is in its way: true, and [`note_brief`](Connection::note_brief) is to
    /// follow once the segment is with the device, which `device` is. False: nothing was done.
    #[inline(never)]
    pub(super) fn push_brief(&mut self, io: &mut Io<'_, '_>, device: &mut dyn Device, sga: &SgArray) -> bool {
        let len = sga.len();
        if !self.is_free_for(len, io.cx.done.round()) {
            return false;
        }
        let header = Plain {
            from: self.local_port,
            to: self.remote_port,
            seq: self.nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK.with(Flags::PSH),
            window: self.take_window(),
            timestamps: self.timestamps.map(|ours| (super::clock(io.cx.now, ours.offset), ours.recent)),
        };
        let (headroom, header_len) = (self.path.headroom(), header.len());
        let Ok(mut head) = io.cx.heap.alloc(headroom + header_len + len) else { return false };
        let (fixed, payload) = head[headroom..].split_at_mut(header_len);
        header.write(fixed);
        sga.copy_to(payload);
        let device_cx = DeviceCx { heap: io.cx.heap, now: io.cx.now };
        let frame = frame_of(io, &mut self.path, head, 0);
        transmit(device, &device_cx, &mut io.ip.outbox, frame);
        true
    }

    /// Whether so many bytes may go at once, and by themselves.
    #[inline]
    fn is_free_for(&self, len: usize, round: u32) -> bool {
        let sent = self.nxt - self.una;
        (1..=COPY_THRESHOLD.min(self.mss.into())).contains(&len)
            && self.round != round
            && self.state == State::Established
            && self.fin == Fin::No
            && self.ecn == Ecn::Off
            && !self.congestion.is_paced()
            && self.send.unsent() == 0
            && !self.send.has_pushes()
            && (sent == 0 || self.settings.no_delay)
            && sent + len as u32 <= self.window
            && self.is_whole()
            && self.congestion.quota(sent) >= len as u32
            && self.send.len() + len as u64 <= self.send_room()
    }

    /// Notes what was sent, while the peer is at work on it already.
    #[inline(never)]
    pub(super) fn note_brief(&mut self, io: &mut Io<'_, '_>, sga: &mut SgArray) {
        let (len, now) = (sga.len(), io.cx.now);
        let idle = self.nxt == self.una;
        if idle {
            self.note_idle(now);
        }
        io.counters.copied_bytes += len as u64;
        self.send.append_sent(io.cx.heap, sga, len);
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
    }

    /// Nothing is missing either way, so that there is nothing to repeat and nothing to report.
    #[inline]
    fn is_whole(&self) -> bool {
        !self.flight.is_holed()
            && self.congestion.is_open()
            && self.duplicate_acks == 0
            && !self.reassembly.has_blocks()
    }
}
