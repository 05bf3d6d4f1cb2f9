//! What is sent, and when: RFC 9293 §3.8.

use std::time::Duration;

use demi_api::memalloc::BufMut;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::time::Instant;

use super::Ecn;
use super::conn::{COPY_THRESHOLD, Connection, Fin, Io, LEAST_LOSS, LossTimer, State, Timer};
use super::flight::Sent;
use super::rack::{MAX_ACK_DELAY, probe_timeout};
use super::segment::{Flags, HEADER, Header, TIMESTAMPS};
use super::seq::SeqNum;
use crate::device::{Checksum, Frame};
use crate::ip::{Packet, checksum};

/// IP protocol number.
pub(crate) const PROTOCOL: u8 = 6;

/// ECN field of data packets: ECT(0).
const ECN_CAPABLE: u8 = 2;

/// What has waited for its time waits for as much longer, so that timers are fewer than segments where those are many.
const PACING_STEP: Duration = Duration::from_micros(125);

/// How long what could not be sent for want of memory waits for some. It is not lost, and tried no less often for it.
pub(super) const SCARCE: Duration = Duration::from_millis(50);

/// Nanoseconds' worth of data that may always go at once.
const LEAST_BURST: u64 = 250_000;

/// Segments of payload that a packet refers to, at the most: one of the frame's is its header.
const MAX_PIECES: usize = MAX_SEGMENTS - 1;

/// A window below which a receiver would advertise a silly one: RFC 9293 §3.8.6.2.2.
fn worth_offering(gain: u32, mss: u32, buffer: u32) -> bool {
    gain >= mss.min(buffer / 2)
}

impl Connection {
    /// Sends whatever may be sent now.
    #[inline]
    pub(crate) fn output(&mut self, io: &mut Io<'_, '_>) {
        if !self.state.may_send() {
            return;
        }
        if self.flight.has_lost() && !self.retransmit_lost(io) {
            return self.wait_for_memory(io);
        }
        while self.send.unsent() > 0 {
            let len = self.sendable();
            if len == 0 {
                break;
            }
            if self.paced > io.cx.now {
                io.counters.paced += u64::from(self.timer(Timer::Pace).is_none());
                self.set_timer(Timer::Pace, Some(self.paced + PACING_STEP));
                return;
            }
            if !self.send_new(io, len) {
                return self.wait_for_memory(io);
            }
        }
        if self.fin == Fin::Due && self.send.unsent() == 0 && !self.send_fin(io) {
            return self.wait_for_memory(io);
        }
        if self.send.unsent() > 0 && self.flight.is_empty() && self.timer(Timer::Persist).is_none() {
            // Nothing is under way whose acknowledgement could open the window.
            self.set_timer(Timer::Persist, Some(io.cx.now + self.rtt.rto()));
        }
    }

    /// What is due goes when there is memory for its headers. Where nothing is under way, the timer that then watches for
    /// a peer that is gone does it.
    #[cold]
    fn wait_for_memory(&mut self, io: &mut Io<'_, '_>) {
        let watched = self.flight.is_empty() && self.send.unsent() > 0;
        self.set_timer(if watched { Timer::Persist } else { Timer::Pace }, Some(io.cx.now + SCARCE));
    }

    /// How many bytes the next segment of new data may carry; 0: it has to wait.
    #[inline]
    fn sendable(&self) -> usize {
        let unsent = self.send.unsent().min(u64::from(u32::MAX)) as u32;
        let sent = self.nxt - self.una;
        let offered = self.window.saturating_sub(sent);
        // RFC 3042 §2: the first two duplicate acknowledgements let a new segment out each, and no more than that: what
        // is on the way exceeds the window by two segments at the most. Where the peer says what it has, that is no
        // longer taken to be under way, which comes to the same.
        let limited = if !self.sack && !self.is_recovering() && (1..3).contains(&self.duplicate_acks) {
            u32::from(self.duplicate_acks) * u32::from(self.mss)
        } else {
            0
        };
        let allowed = self.congestion.quota(self.flight.pipe().saturating_sub(limited));
        let mss = u32::from(self.mss);
        let len = unsent.min(mss).min(offered).min(allowed);
        // §3.8.6.2.1, sender's silly window avoidance, with Nagle's algorithm (§3.7.4).
        let all = len == unsent;
        let idle = sent == 0;
        let worth = len == mss
            || all && (idle || self.settings.no_delay || self.fin == Fin::Due)
            || len > 0 && len >= self.max_window / 2 && idle;
        if worth { len as usize } else { 0 }
    }

    /// False: there is no memory, and nothing was done.
    #[inline]
    pub(crate) fn send_new(&mut self, io: &mut Io<'_, '_>, len: usize) -> bool {
        let at = self.nxt;
        let last = self.send.unsent() == len as u64;
        let with_fin = last && self.fin == Fin::Due;
        let from = self.send.len() - self.send.unsent();
        let flags = Flags::ACK.with_if(last, Flags::PSH).with_if(with_fin, Flags::FIN);
        let sent = self.send_referring(io, (at, flags), (from, len)).is_some();
        if !sent && !self.emit(io, at, flags, from, len) {
            return false;
        }
        self.send.note_sent(len);
        self.congestion.on_sent(len as u32);
        self.nxt += len as u32;
        if with_fin {
            self.fin = Fin::Sent(self.nxt);
            self.nxt += 1;
        }
        self.flight.push(at, self.nxt, io.cx.now);
        self.arm_loss_timer_on_send(io.cx.now);
        if self.congestion.is_paced() {
            self.pace(io.cx.now, len as u32);
        }
        true
    }

    /// A bucket that holds a burst, and is filled at the pacing rate.
    fn pace(&mut self, now: Instant, len: u32) {
        let burst = self.congestion.pacing_time(self.congestion.burst()).max(LEAST_BURST);
        let full = Instant::from_nanos(now.as_nanos().saturating_sub(burst));
        self.paced = self.paced.max(full) + Duration::from_nanos(self.congestion.pacing_time(len));
    }

    fn send_fin(&mut self, io: &mut Io<'_, '_>) -> bool {
        let at = self.nxt;
        if !self.emit(io, at, Flags::ACK.with(Flags::FIN), 0, 0) {
            return false;
        }
        self.fin = Fin::Sent(at);
        self.nxt += 1;
        self.flight.push(at, self.nxt, io.cx.now);
        self.arm_loss_timer_on_send(io.cx.now);
        true
    }

    fn retransmit_lost(&mut self, io: &mut Io<'_, '_>) -> bool {
        while let Some(sent) = self.flight.first_lost() {
            let quota = self.congestion.quota(self.flight.pipe());
            // RFC 6675 §5 (4.3): the first retransmission goes whatever the window.
            let first = sent.start == self.una && !sent.retransmitted;
            if quota < sent.len().min(self.mss.into()) && !first && self.flight.pipe() > 0 {
                break;
            }
            if !self.retransmit(io, sent) {
                return false;
            }
        }
        true
    }

    /// Sends a segment again, or as much of it as goes into one now. False: there is no memory, and nothing was done.
    pub(crate) fn retransmit(&mut self, io: &mut Io<'_, '_>, sent: Sent) -> bool {
        let fin = matches!(self.fin, Fin::Sent(fin) if sent.end == fin + 1);
        let data = (sent.len() - u32::from(fin)) as usize;
        let len = data.min(self.mss.into());
        let with_fin = fin && len == data;
        let base = sent.start - self.una;
        let flags = Flags::ACK.with(Flags::PSH).with_if(with_fin, Flags::FIN);
        if !self.emit(io, sent.start, flags, base.into(), len) {
            return false;
        }
        self.starved = false;
        io.counters.retransmitted += 1;
        self.flight.retransmitted(sent.start, len as u32 + u32::from(with_fin), io.cx.now);
        self.congestion.on_retransmit(len as u32);
        true
    }

    /// Builds and sends one segment: `len` bytes from `from` behind the first unacknowledged one. False: there is no memory
    /// for its headers, and none was sent.
    #[inline]
    fn emit(&mut self, io: &mut Io<'_, '_>, seq: SeqNum, mut flags: Flags, from: u64, len: usize) -> bool {
        let window = self.take_window();
        // Data comes first: an option takes what it leaves of the segment.
        let room = (usize::from(self.mss).saturating_sub(len + 4)) / 8;
        let blocks = if room > 0 && self.sack && self.reassembly.has_blocks() {
            self.reassembly.sack_blocks()
        } else {
            Default::default()
        };
        let mut ecn = 0;
        if self.ecn != Ecn::Off {
            flags = flags.with_if(self.ece_due, Flags::ECE);
            // RFC 3168 §6.1.4 to §6.1.6: neither acknowledgements nor probes nor what is sent again.
            if self.ecn == Ecn::On && len > 0 && seq == self.nxt && self.window > 0 {
                flags = flags.with_if(std::mem::take(&mut self.cwr_due), Flags::CWR);
                ecn = ECN_CAPABLE;
            }
        }
        let header = Header {
            from: self.local_port,
            to: self.remote_port,
            seq,
            ack: self.rcv_nxt,
            flags,
            window,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            timestamps: self.timestamps.map(|ours| (super::clock(io.cx.now, ours.offset), ours.recent)),
            sacks: &blocks[..blocks.len().min(room)],
        };
        let header_len = header.len();
        let range = self.send.range(from, len);
        let mut copied = if len <= COPY_THRESHOLD || range.pieces() > MAX_PIECES { len } else { 0 };
        let headroom = self.path.headroom();
        let head = io.cx.heap.alloc_urgent(headroom + header_len + copied).or_else(|none| {
            // What is too much to be copied may still be referred to.
            let few = range.pieces() <= MAX_PIECES;
            copied = if few { 0 } else { copied };
            if few { io.cx.heap.alloc_urgent(headroom + header_len) } else { Err(none) }
        });
        let Ok(mut head) = head else {
            self.note_scarcity(io);
            return false;
        };
        let transport = &mut head[headroom..];
        header.write(transport);
        let body = if copied > 0 {
            range.copy_to(&mut transport[header_len..]);
            SgArray::new()
        } else if len > 0 {
            range.share()
        } else {
            SgArray::new()
        };
        io.counters.copied_bytes += copied as u64;
        if copied > COPY_THRESHOLD {
            io.counters.copied_large_bytes += copied as u64;
        }
        self.acked_to = self.rcv_nxt;
        self.ack_soon = false;
        self.set_timer(Timer::DelayedAck, None);
        send(io, &mut self.path, head, body, ecn);
        true
    }

    /// No segment could be sent. An acknowledgement that it was to carry is due still.
    #[cold]
    fn note_scarcity(&mut self, io: &mut Io<'_, '_>) {
        io.counters.no_memory += 1;
        if self.acked_to != self.rcv_nxt {
            self.set_timer(Timer::DelayedAck, Some(io.cx.now + SCARCE));
        }
    }

    /// SEG.WND for what is sent now, and the promise that it is.
    ///
    /// The promise is the furthest right edge that was ever offered, and never moves back (§3.8.6). A new one lies a
    /// multiple of the unit of windows ahead. Later windows cut off what is no whole unit, so the peer may see an edge
    /// that is up to one unit less, but what it has sent by an earlier one is still taken (RFC 7323 §2.4).
    #[inline]
    pub(super) fn take_window(&mut self) -> u16 {
        let free = self.recv_limit.saturating_sub(self.received.bytes);
        let right = self.rcv_nxt + free;
        let scaled = |edge: SeqNum| ((edge - self.rcv_nxt) >> self.recv_shift).min(u16::MAX.into());
        // The right edge never moves back (§3.8.6), and forward only by what is worth it.
        let edge = self.rcv_right;
        if right <= edge || !worth_offering(right - edge, self.mss.into(), self.recv_limit) {
            return scaled(edge) as u16;
        }
        let scaled = scaled(right);
        // RFC 7323 §2.4: what the shift cuts off is not promised, but what was promised before holds.
        self.rcv_right = self.rcv_right.max(self.rcv_nxt + (scaled << self.recv_shift));
        scaled as u16
    }

    /// SEG.WND of what was sent last.
    pub(super) fn advertised(&self) -> u16 {
        ((self.rcv_right - self.rcv_nxt) >> self.recv_shift).min(u16::MAX.into()) as u16
    }

    /// After the application has taken data: tells a peer that was held up.
    #[inline]
    pub(crate) fn offer_window(&mut self, io: &mut Io<'_, '_>) {
        if !self.state.may_receive() {
            return;
        }
        // No more than the header can say.
        let most = u32::from(u16::MAX) << self.recv_shift;
        let free = self.recv_limit.saturating_sub(self.received.bytes).min(most);
        let now = self.rcv_right - self.rcv_nxt;
        // Not for every pop: when it lets the peer go on, or has doubled what it was told.
        if free > now
            && worth_offering(free - now, 2 * u32::from(self.mss), self.recv_limit)
            && now < free / 2
        {
            self.send_ack(io);
        }
    }

    /// The sequence number of a segment without text. Behind the window, where a probe has gone, the peer would drop it,
    /// acknowledgement and all. A window may be short by less than its unit, which is no reason to go back.
    #[inline]
    fn acceptable_seq(&self) -> SeqNum {
        let beyond = (self.nxt - self.una).saturating_sub(self.window);
        let short = self.window > 0 && beyond < 1 << self.send_shift;
        if short { self.nxt } else { self.nxt - beyond }
    }

    pub(crate) fn send_ack(&mut self, io: &mut Io<'_, '_>) {
        self.acknowledge(io);
    }

    /// The same; false if there is no memory for it, and a timer is set instead.
    pub(crate) fn acknowledge(&mut self, io: &mut Io<'_, '_>) -> bool {
        match self.state {
            State::Closed | State::SynSent => true,
            State::SynReceived => self.send_syn(io),
            _ => self.emit(io, self.acceptable_seq(), Flags::ACK, 0, 0),
        }
    }

    /// RFC 5961 §7: an acknowledgement that makes the peer say something that only it can know, at a limited rate.
    pub(crate) fn challenge(&mut self, io: &mut Io<'_, '_>) {
        if io.counters.may_challenge(io.cx) {
            self.send_ack(io);
        }
    }

    /// The SYN, or the SYN that acknowledges the peer's; also again. False: there is no memory for it, and it will be tried
    /// again soon.
    pub(crate) fn send_syn(&mut self, io: &mut Io<'_, '_>) -> bool {
        let acknowledges = self.state == State::SynReceived;
        if acknowledges {
            self.rcv_right = self.rcv_nxt + self.settings.recv_buffer.min(u16::MAX.into());
            self.acked_to = self.rcv_nxt;
        }
        let flags = Flags::SYN.with_if(acknowledges, Flags::ACK);
        let flags = match (self.ecn, acknowledges) {
            // RFC 3168 §6.1.1.
            (Ecn::On, false) => flags.with(Flags::ECE).with(Flags::CWR),
            (Ecn::On | Ecn::Echo, true) => flags.with(Flags::ECE),
            (Ecn::Off, _) | (Ecn::Echo, false) => flags,
        };
        let (offer_shift, recent) = if acknowledges {
            (self.send_shift > 0 || self.recv_shift > 0, self.timestamps.map_or(0, |ours| ours.recent))
        } else {
            (true, 0)
        };
        let header = Header {
            from: self.local_port,
            to: self.remote_port,
            seq: self.iss,
            ack: if acknowledges { self.rcv_nxt } else { SeqNum(0) },
            flags,
            window: self.settings.recv_buffer.min(u16::MAX.into()) as u16,
            mss: Some(self.own_mss()),
            window_scale: offer_shift.then_some(self.recv_shift),
            sack_permitted: self.sack,
            timestamps: self.timestamps.map(|ours| (super::clock(io.cx.now, ours.offset), recent)),
            sacks: &[],
        };
        let sent = send_header(io, &mut self.path, &header);
        let now = io.cx.now;
        if self.flight.is_empty() {
            self.nxt = self.iss + 1;
            self.flight.push(self.iss, self.nxt, now);
        } else {
            self.flight.retransmitted(self.iss, 1, now);
        }
        self.loss_timer = LossTimer::Retransmission;
        self.set_timer(Timer::Loss, Some(now + if sent { self.rtt.rto() } else { SCARCE }));
        sent
    }

    pub(crate) fn send_reset(&mut self, io: &mut Io<'_, '_>) {
        self.send_plain(io, self.nxt, Flags::RST.with(Flags::ACK));
    }

    /// §3.10.7.3 and §3.10.7.4: the RST that a bad acknowledgement gets.
    pub(crate) fn send_reset_at(&mut self, io: &mut Io<'_, '_>, seq: SeqNum) {
        self.send_plain(io, seq, Flags::RST);
    }

    fn send_plain(&mut self, io: &mut Io<'_, '_>, seq: SeqNum, flags: Flags) {
        let ack = if flags.has(Flags::ACK) { self.rcv_nxt } else { SeqNum(0) };
        let header = Header::bare(self.local_port, self.remote_port, seq, ack, flags);
        send_header(io, &mut self.path, &header);
    }

    /// One byte into a closed window: §3.8.6.1. False: there is no memory for it.
    pub(crate) fn probe_window(&mut self, io: &mut Io<'_, '_>) -> bool {
        let open = u64::from(self.window.saturating_sub(self.nxt - self.una)).min(self.send.unsent());
        if open > 0 {
            // §3.8.6.2.1: a window that was too small to be worth a segment is used once this timer overrides it.
            return self.send_new(io, open.min(self.mss.into()) as usize);
        }
        io.counters.window_probes += 1;
        if self.send.unsent() > 0 && self.flight.is_empty() {
            return self.send_new(io, 1);
        }
        match self.flight.first().copied() {
            Some(first) => self.retransmit(io, first),
            None => self.emit(io, self.nxt - 1, Flags::ACK, 0, 0),
        }
    }

    /// A segment below the window, which the peer answers: §3.8.4. False: there is no memory for it.
    pub(crate) fn probe_peer(&mut self, io: &mut Io<'_, '_>) -> bool {
        let sent = self.emit(io, self.nxt - 1, Flags::ACK, 0, 0);
        io.counters.keepalive_probes += u64::from(sent);
        sent
    }

    // --- timers of what is sent

    /// RFC 6298 §5.1, RFC 8985 §7.2: something was sent for the first time. The retransmission timer goes on; a probe is
    /// put off.
    #[inline(always)]
    pub(super) fn arm_loss_timer_on_send(&mut self, now: Instant) {
        if self.loss_timer == LossTimer::Undecided {
            self.decide_loss_timer();
        }
        match (self.timer(Timer::Loss), self.loss_timer) {
            (Some(_), LossTimer::Reordering) => {}
            (Some(due), LossTimer::Retransmission) => {
                if let Some(after) = self.probe_after()
                    && now.as_nanos() + after < due.as_nanos()
                {
                    self.loss_timer = LossTimer::Probe;
                    self.set_timer(Timer::Loss, Some(Instant::from_nanos(now.as_nanos() + after)));
                }
            }
            _ => self.arm_loss_timer(now),
        }
    }

    /// Finds out what the loss timer stands for, and when it is due.
    #[inline(never)]
    pub(super) fn decide_loss_timer(&mut self) {
        self.loss_timer = LossTimer::Retransmission;
        if let Some(at) = self.timer(Timer::Loss) {
            self.arm_loss_timer(Instant::from_nanos(at.as_nanos() - LEAST_LOSS));
        }
    }

    /// RFC 6298 §5 and RFC 8985 §7.2: from what was just sent or acknowledged on.
    #[inline]
    pub(crate) fn arm_loss_timer(&mut self, now: Instant) {
        if self.flight.is_empty() {
            self.set_timer(Timer::Loss, None);
            return;
        }
        if self.loss_timer == LossTimer::Reordering && self.timer(Timer::Loss).is_some() {
            return;
        }
        let rto = self.rtt.rto_nanos();
        let (kind, after) = match self.probe_after() {
            // RFC 8985 §7.2: a probe goes when the retransmission timer would expire, if not before.
            Some(after) => (LossTimer::Probe, after.min(rto)),
            None => (LossTimer::Retransmission, rto),
        };
        self.loss_timer = kind;
        self.set_timer(Timer::Loss, Some(Instant::from_nanos(now.as_nanos() + after)));
    }

    /// After how many nanoseconds to probe for a lost tail, if that is to be done at all.
    #[inline]
    fn probe_after(&self) -> Option<u64> {
        let may_probe = self.sack
            && self.window > 0
            && !self.is_recovering()
            && self.rack.may_probe()
            && !self.flight.has_sacked()
            && self.state.is_synchronized();
        may_probe.then(|| {
            // Peers acknowledge two full segments at once, and less than that when it suits them.
            let single = self.flight.pipe() < 2 * u32::from(self.mss);
            probe_timeout(self.rtt.srtt_nanos(), single, MAX_ACK_DELAY)
        })
    }

    // --- sizes

    /// The MSS option that we send: what the link carries, without IP and TCP headers (RFC 6691).
    fn own_mss(&self) -> u16 {
        own_mss(&self.path, self.settings.max_segment)
    }

    /// What fits along the path, as far as is known.
    fn path_mss(&self) -> u16 {
        most_behind_headers(&self.path, self.path.mtu()).min(self.settings.max_segment)
    }

    /// Takes the peer's MSS, or less where the path takes less, less the options in every segment.
    pub(crate) fn set_mss(&mut self, theirs: u16) {
        let options = if self.timestamps.is_some() { TIMESTAMPS as u16 } else { 0 };
        // A peer that says next to nothing would have us send next to nothing but headers.
        self.mss = theirs.max(super::LEAST_MSS).min(self.path_mss()) - options;
        self.congestion.set_mss(self.mss.into());
    }

    /// The path has become narrower: RFC 1191, RFC 8201.
    pub(crate) fn path_narrowed(&mut self, io: &mut Io<'_, '_>) {
        let options = if self.timestamps.is_some() { TIMESTAMPS as u16 } else { 0 };
        let most = self.path_mss().saturating_sub(options);
        if most < self.mss {
            self.mss = most.max(super::LEAST_MSS - options);
            self.congestion.set_mss(self.mss.into());
            // What was small enough is still on its way.
            self.flight.judge(|sent| Some(sent.len() > most.into()));
            self.output(io);
        }
    }
}

/// The MSS option for a path, unless the application wants less.
pub(super) fn own_mss(path: &crate::ip::Path, max_segment: u16) -> u16 {
    most_behind_headers(path, path.link_mtu()).min(max_segment)
}

fn most_behind_headers(path: &crate::ip::Path, mtu: usize) -> u16 {
    let ip = if path.local().is_ipv4() { 20 } else { 40 };
    mtu.saturating_sub(ip + HEADER).min(u16::MAX.into()) as u16
}

/// Sends a segment without payload that needs no connection's state. False: there is no memory for it.
pub(crate) fn send_header(io: &mut Io<'_, '_>, path: &mut crate::ip::Path, header: &Header<'_>) -> bool {
    let headroom = path.headroom();
    let Ok(mut head) = io.cx.heap.alloc_urgent(headroom + header.len()) else {
        io.counters.no_memory += 1;
        return false;
    };
    header.write(&mut head[headroom..]);
    send_one(io, path, head, 0);
    true
}

/// Sends a segment that is all in one buffer, behind room for the headers of the layers below.
#[inline]
fn send_one(io: &mut Io<'_, '_>, path: &mut crate::ip::Path, head: BufMut, ecn: u8) {
    io.counters.sent += 1;
    let frame = frame_of(io, path, head, ecn);
    io.ip.outbox.extend(frame);
}

/// The same, but what may go at once comes back, as a frame for the device.
#[inline(always)]
pub(super) fn frame_of(
    io: &mut Io<'_, '_>,
    path: &mut crate::ip::Path,
    mut head: BufMut,
    ecn: u8,
) -> Option<Frame> {
    let headroom = path.headroom();
    let segment = &mut head[headroom..];
    let pseudo = path.pseudo_sum(PROTOCOL, segment.len());
    let (sum, checksum) = if io.ip.completes_checksums() {
        let at = headroom as u16 + 16;
        (checksum::fold(pseudo), Checksum::Partial { start: headroom as u16, at })
    } else {
        (!checksum::fold(checksum::sum(segment) + pseudo), Checksum::Unknown)
    };
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    io.ip.send_small(io.cx, path, head, PROTOCOL, ecn, true, checksum)
}

#[inline]
fn send(io: &mut Io<'_, '_>, path: &mut crate::ip::Path, mut head: BufMut, body: SgArray, ecn: u8) {
    if body.segments().is_empty() {
        return send_one(io, path, head, ecn);
    }
    io.counters.sent += 1;
    let headroom = path.headroom();
    let len = head.len() - headroom + body.len();
    let pseudo = path.pseudo_sum(PROTOCOL, len);
    let checksum = if io.ip.completes_checksums() {
        head[headroom + 16..headroom + 18].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        Checksum::Partial { start: headroom as u16, at: headroom as u16 + 16 }
    } else {
        // What is in `head` is of an even length if anything follows it.
        let sum = checksum::sum(&head[headroom..]) + pseudo + checksum::sum_array(&body);
        head[headroom + 16..headroom + 18].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        Checksum::Unknown
    };
    let packet = Packet { head, body, protocol: PROTOCOL, ecn, dont_fragment: true, checksum };
    io.ip.send(io.cx, path, packet);
}

/// Time to wait between probes of a closed window: RFC 9293 §3.8.6.1, doubled each time.
pub(crate) fn persist_interval(rto: Duration, tries: u8) -> Duration {
    rto.saturating_mul(1 << tries.min(16)).min(Duration::from_secs(60))
}
