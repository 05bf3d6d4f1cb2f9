//! One connection: RFC 9293 §3.3.
//!
//! ```text
//!            connect                                        a SYN at a listener
//!               │                                                  │
//!           SynSent ──── SYN, ACK ────► Established ◄──── ACK ── SynReceived
//!               └──── SYN (simultaneous) ─────────────────────────►─┘
//!
//!   Established ── FIN sent ──► FinWait1 ── ACK ──► FinWait2 ── FIN ──► TimeWait ──► gone
//!        │                         └── FIN ──► Closing ── ACK ────────────┘
//!        └── FIN received ──► CloseWait ── FIN sent ──► LastAck ── ACK ──► gone
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `conn` | the state, and what the application does to it |
//! | `input` | a segment arrives: §3.10.7 |
//! | `output` | what is sent, and when |
//! | `timeout` | a timer fires: §3.10.8 |
//!
//! Invariants: `una <= nxt`, and `flight` covers exactly what lies between. Everything the application waits for is
//! posted exactly once; a connection that has ended has nothing pending.

use std::collections::VecDeque;
use std::num::NonZero;
use std::rc::Rc;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::{Buf, Heap};
use demi_api::op::Done;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::time::Instant;
use demi_api::token::QToken;

use super::Ecn;
use super::congestion::Congestion;
use super::demux::Ends;
use super::flight::Flight;
use super::rack::{MAX_ACK_DELAY, Rack};
use super::reassembly::Reassembly;
use super::rtt::{MIN_RTO, Rtt};
use super::segment::Segment;
use super::send::SendBuffer;
use super::seq::SeqNum;
use super::small::{self, FEW};
use crate::ip::{Ip, Path};
use crate::line::Line;

/// What a connection's code works with.
pub(crate) struct Io<'a, 'b> {
    pub(crate) cx: &'a mut Cx<'b>,
    pub(crate) ip: &'a mut Ip,
    pub(crate) counters: &'a mut super::Counters,
}

/// What an application may set, inherited from the listener.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) no_delay: bool,
    pub(crate) keep_alive: bool,
    pub(crate) keep_idle: Duration,
    pub(crate) keep_interval: Duration,
    pub(crate) keep_count: u32,
    pub(crate) user_timeout: Duration,
    pub(crate) linger: Option<Duration>,
    pub(crate) send_buffer: u32,
    pub(crate) recv_buffer: u32,
    pub(crate) max_segment: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    /// Nothing is left but to forget it.
    Closed,
}

impl State {
    /// Whether both SYNs are acknowledged.
    pub(crate) fn is_synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynReceived | State::Closed)
    }

    /// Whether the peer may still send data.
    pub(crate) fn may_receive(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Whether data, and the FIN behind it, may still be sent.
    pub(crate) fn may_send(self) -> bool {
        matches!(
            self,
            State::Established | State::CloseWait | State::FinWait1 | State::Closing | State::LastAck
        )
    }
}

/// The end of what is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fin {
    No,
    /// Once all data is sent.
    Due,
    /// With this sequence number.
    Sent(SeqNum),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Retransmission, tail loss probe, or reordering window, whichever it stands for.
    Loss,
    /// The peer's window is closed.
    Persist,
    DelayedAck,
    KeepAlive,
    /// TimeWait, FinWait2 or linger is over.
    Linger,
    /// What was sent ahead of its time is due, and more may go.
    Pace,
}

pub(crate) const TIMERS: usize = 6;

/// How long nothing comes before a connection gives its queues' memory back.
pub(crate) const REST: Duration = Duration::from_millis(500);

/// Of a timer that is not set.
pub(crate) const NEVER: Instant = Instant::from_nanos(u64::MAX);

/// Neither a retransmission nor a probe of a single segment comes sooner after it was sent. In nanoseconds.
pub(super) const LEAST_LOSS: u64 = MIN_RTO.as_nanos() as u64;

const _: () = assert!(LEAST_LOSS <= MAX_ACK_DELAY);

/// What the loss timer stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LossTimer {
    Retransmission,
    /// RFC 8985 §7.
    Probe,
    /// RFC 8985 §6.2 step 5.
    Reordering,
    /// A retransmission or a probe, after [`LEAST_LOSS`] or later: what was sent to an idle peer is mostly acknowledged
    /// before it matters which, and when. [`Connection::decide_loss_timer`].
    Undecided,
}

/// RFC 7323 §3 to §5.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamps {
    /// Added to the clock, so that it tells nobody for how long this machine has been up.
    pub(crate) offset: u32,
    /// TS.Recent, and when it was taken.
    pub(crate) recent: u32,
    pub(crate) recent_at: Instant,
}

#[derive(Debug)]
struct Pop {
    token: QToken,
    limit: NonZero<usize>,
}

/// Data that has arrived in order and waits for a pop.
#[derive(Debug, Default)]
pub(crate) struct Received {
    ready: VecDeque<Buf>,
    /// Bytes in `ready`.
    pub(crate) bytes: u32,
    pops: Line<Pop>,
    /// Nothing more will arrive: the peer's FIN came, or the application wants no more.
    pub(crate) ended: bool,
}

impl Received {
    /// The pop that takes `len` bytes as a whole as soon as they arrive, if there is one.
    #[inline]
    pub(crate) fn whole_pop(&mut self, len: usize) -> Option<QToken> {
        if self.bytes > 0 || self.pops.front()?.limit.get() < len {
            return None;
        }
        self.pops.pop_front().map(|pop| pop.token)
    }
}

/// One connection. A million may be idle at a time, so what only data under way needs lies in queues of their own, which
/// [`Connection::rest`] gives back.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) path: Path,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) state: State,

    pub(crate) iss: SeqNum,
    pub(crate) una: SeqNum,
    pub(crate) nxt: SeqNum,
    /// SND.WND, in bytes, and what it was at most.
    pub(crate) window: u32,
    pub(crate) max_window: u32,
    pub(crate) wl1: SeqNum,
    pub(crate) wl2: SeqNum,
    /// Shift of windows that come, and of those that go: RFC 7323 §2.
    pub(crate) send_shift: u8,
    pub(crate) recv_shift: u8,
    /// Most bytes of payload in one segment, options accounted for.
    pub(crate) mss: u16,
    pub(crate) send: SendBuffer,
    pub(crate) flight: Flight,
    pub(crate) fin: Fin,

    pub(crate) rcv_nxt: SeqNum,
    /// The right edge of the window that was last advertised.
    pub(crate) rcv_right: SeqNum,
    /// The last acknowledgement that was sent: Last.ACK.sent.
    pub(crate) acked_to: SeqNum,
    /// Bytes that the peer may send ahead of the application, for now: at most as many as the settings allow.
    pub(crate) recv_limit: u32,
    /// What was received when the round began in which it is seen what the application takes, and when that is over.
    pub(crate) round_from: SeqNum,
    pub(crate) round_end: Instant,
    pub(crate) received: Received,
    pub(crate) reassembly: Reassembly,
    /// Where the peer's FIN stands, once it was seen.
    pub(crate) peer_fin: Option<SeqNum>,
    /// An acknowledgement is to be sent at the end of this burst.
    pub(crate) ack_soon: bool,
    /// Pushes of this round are waiting for the next turn, to go in one segment.
    pub(crate) gathered: bool,
    /// What [`is_calm`](Connection::is_calm) and [`is_free`](Connection::is_free) said, where they were asked last; both
    /// are still true then.
    pub(crate) calm: bool,
    pub(crate) free: bool,
    /// The round in which the last small push was sent: see [`Completions::round`](demi_api::token::Completions::round).
    pub(crate) round: u32,
    /// Segments that are acknowledged without delay, as the peer is starting.
    pub(crate) quick_acks: u8,

    pub(crate) timestamps: Option<Timestamps>,
    pub(crate) sack: bool,
    pub(super) ecn: Ecn,
    /// ECE is echoed until the peer says CWR: RFC 3168 §6.1.3.
    pub(crate) ece_due: bool,
    pub(crate) cwr_due: bool,

    pub(crate) congestion: Congestion,
    /// New data has to wait until then.
    pub(crate) paced: Instant,
    pub(crate) rtt: Rtt,
    pub(crate) rack: Rack,
    pub(crate) duplicate_acks: u8,
    pub(crate) retries: u8,
    /// A timeout has found no memory to send again what it took for lost.
    pub(crate) starved: bool,
    /// Keep-alive probes since the peer was heard.
    pub(crate) keep_probes: u8,
    /// When the peer last acknowledged anything new, or there was nothing to acknowledge.
    pub(crate) progress_at: Instant,
    pub(crate) heard_at: Instant,

    /// [`NEVER`]: not set.
    pub(crate) timers: [Instant; TIMERS],
    /// None of them is due before this.
    pub(crate) earliest: Instant,
    pub(crate) loss_timer: LossTimer,

    pub(crate) settings: Rc<Settings>,
    /// The handshake was completed once.
    pub(crate) established: bool,
    /// Who waits for the handshake.
    pub(crate) connecting: Option<QToken>,
    /// The application has closed its descriptor.
    pub(crate) detached: bool,
    /// The application wants no more data.
    pub(crate) read_shut: bool,
    /// Why it ended, if not in order.
    pub(crate) error: Option<Error>,
}

/// Payloads up to this many bytes are copied next to their header, and their pushes complete at once.
pub(crate) const COPY_THRESHOLD: usize = 512;

/// What either buffer begins with, in bytes, if it may be larger. That of sending follows the congestion window, that of
/// receiving what the application takes.
pub(super) const BUFFER_START: u32 = 1 << 17;

/// Rounds in which it is seen what the application takes are as long as a round trip, but not shorter than this.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);

impl Connection {
    /// What its segments are told from others by.
    #[inline]
    pub(crate) fn ends(&self) -> Ends {
        let (local, remote) = (self.path.local(), self.path.remote());
        Ends { local, remote, local_port: self.local_port, remote_port: self.remote_port }
    }

    /// Whether it has memory that it would not need if it were idle.
    #[inline]
    pub(crate) fn has_slack(&self) -> bool {
        self.flight.has_slack() || self.send.has_slack() || self.received.ready.capacity() > 0
    }

    /// Nothing is under way, and nothing has come for a while.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.flight.is_empty()
            && self.send.len() == 0
            && self.received.ready.is_empty()
            && now - self.heard_at >= REST
    }

    /// Gives back the memory of what is not under way. The next data takes some again, so this is not for a connection that
    /// is busy.
    pub(crate) fn rest(&mut self) {
        self.flight.rest();
        self.send.rest();
        self.received.ready.shrink_to_fit();
        self.received.pops.rest();
    }

    /// The right time for the next look at its timers.
    pub(crate) fn next_timer(&mut self) -> Option<Instant> {
        let [a, b, c, d, e, f] = self.timers;
        self.earliest = a.min(b).min(c.min(d)).min(e.min(f));
        Some(self.earliest).filter(|at| *at != NEVER)
    }

    #[inline]
    pub(crate) fn set_timer(&mut self, timer: Timer, at: Option<Instant>) {
        let at = at.unwrap_or(NEVER);
        self.timers[timer as usize] = at;
        self.earliest = self.earliest.min(at);
    }

    #[inline]
    pub(crate) fn timer(&self, timer: Timer) -> Option<Instant> {
        Some(self.timers[timer as usize]).filter(|at| *at != NEVER)
    }

    /// The receive buffer follows what the application takes in a round trip: the peer may send twice as much in the next
    /// one, and must have heard of it by then.
    #[cold]
    pub(super) fn tune(&mut self, now: Instant) {
        let most = self.settings.recv_buffer;
        let arrived = self.rcv_nxt - std::mem::replace(&mut self.round_from, self.rcv_nxt);
        let taken = arrived.saturating_sub(self.received.bytes);
        self.recv_limit = self.recv_limit.max(taken.saturating_mul(4)).min(most);
        self.round_end = if self.recv_limit < most {
            now + self.rtt.srtt().unwrap_or(SHORTEST_ROUND).max(SHORTEST_ROUND)
        } else {
            Instant::from_nanos(u64::MAX)
        };
    }

    /// After options of it were set.
    pub(super) fn adopt_settings(&mut self, now: Instant) {
        self.round_end = now;
        self.recv_limit = self.recv_limit.min(self.settings.recv_buffer);
        self.keep_probes = 0;
        let on = self.settings.keep_alive && self.state.is_synchronized() && self.state != State::TimeWait;
        self.set_timer(Timer::KeepAlive, on.then_some(self.heard_at + self.settings.keep_idle));
    }

    /// Takes up a handshake that a cookie has kept. The SYN of ours was sent, but when is not known.
    pub(crate) fn resume(&mut self, io: &mut Io<'_, '_>, iss: SeqNum, syn: &Segment<'_>) {
        (self.iss, self.una, self.nxt) = (iss, iss, iss + 1);
        self.flight.push(iss, iss + 1, io.cx.now);
        self.flight.retransmitted(iss, 1, io.cx.now);
        self.state = State::SynReceived;
        self.adopt_options(io, syn);
        self.rcv_right = self.rcv_nxt + self.settings.recv_buffer.min(u16::MAX.into());
        self.acked_to = self.rcv_nxt;
    }

    // --- what the application does

    /// Takes a push in. `Some`: it is done.
    #[inline]
    pub(crate) fn push(
        &mut self,
        io: &mut Io<'_, '_>,
        token: QToken,
        sga: &mut SgArray,
    ) -> Result<Option<Result<(), Error>>, Error> {
        let len = sga.len();
        if self.push_gathered(io, sga, len) {
            return Ok(Some(Ok(())));
        }
        if let Some(error) = &self.error {
            return Ok(Some(Err(error.clone())));
        }
        match self.state {
            State::Established | State::CloseWait if self.fin == Fin::No => {}
            State::SynSent | State::SynReceived => return Err(Error::NotConnected),
            _ => return Err(Error::Closed),
        }
        if len == 0 && !self.send.has_pushes() {
            return Ok(Some(Ok(())));
        }
        let at_once = len <= COPY_THRESHOLD
            && !self.send.has_pushes()
            && self.send.len() + len as u64 <= self.send_room();
        if self.flight.is_empty() && self.send.unsent() == 0 {
            self.note_idle(io.cx.now);
        }
        if at_once {
            self.send.append_small(io.cx.heap, sga);
        } else {
            self.send.append(sga, token);
        }
        self.output(io);
        Ok(at_once.then_some(Ok(())))
    }

    /// Bytes of pushes that are taken over at once: by what the path has carried, within what the application allows.
    #[inline]
    pub(super) fn send_room(&self) -> u64 {
        self.settings.send_buffer.min(self.congestion.cwnd().max(BUFFER_START / 2) * 2).into()
    }

    /// Something is to be sent after everything was acknowledged.
    #[inline]
    pub(super) fn note_idle(&mut self, now: Instant) {
        self.progress_at = now;
        let rtt = &self.rtt;
        self.congestion.idle_restart(now, || rtt.rto_nanos());
    }

    /// Begins a pop. `Some`: it is done.
    #[inline]
    pub(crate) fn pop(
        &mut self,
        io: &mut Io<'_, '_>,
        token: QToken,
        limit: usize,
    ) -> Result<Option<Result<SgArray, Error>>, Error> {
        let Some(most) = NonZero::new(limit) else {
            return Err(Error::Invalid("a pop of at most no bytes"));
        };
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return Err(Error::NotConnected);
        }
        if !self.has_to_wait()
            && self.received.pops.is_empty()
            && let Some(result) = self.take(limit)
        {
            self.offer_window(io);
            return Ok(Some(result));
        }
        self.received.pops.push_back(Pop { token, limit: most });
        Ok(None)
    }

    /// Begins a pop that has to wait. False: it has not, or there is a question about it; nothing was done.
    #[inline(always)]
    pub(crate) fn pop_later(&mut self, token: QToken, limit: usize) -> bool {
        let Some(limit) = NonZero::new(limit) else { return false };
        let waits = self.state == State::Established && self.has_to_wait();
        if waits {
            self.received.pops.push_back(Pop { token, limit });
        }
        waits
    }

    #[inline]
    fn has_to_wait(&self) -> bool {
        self.received.bytes == 0 && !self.received.ended && !self.read_shut && self.error.is_none()
    }

    /// What a pop yields now, if anything.
    fn take(&mut self, limit: usize) -> Option<Result<SgArray, Error>> {
        let received = &mut self.received;
        if self.read_shut {
            return Some(Ok(SgArray::new()));
        }
        if received.bytes == 0 {
            return match &self.error {
                Some(error) => Some(Err(error.clone())),
                None => received.ended.then(|| Ok(SgArray::new())),
            };
        }
        let mut sga = SgArray::new();
        let mut left = limit;
        while left > 0
            && sga.segments().len() < MAX_SEGMENTS
            && let Some(first) = received.ready.front_mut()
        {
            let part = if first.len() <= left {
                let Some(whole) = received.ready.pop_front() else { break };
                whole
            } else {
                first.split_to(left)
            };
            left -= part.len();
            received.bytes -= part.len() as u32;
            if sga.push(part).is_err() {
                break;
            }
        }
        Some(Ok(sga))
    }

    /// Takes in data that has arrived in order.
    #[inline]
    pub(crate) fn deliver(&mut self, heap: &Heap, payload: &mut SgArray) {
        let received = &mut self.received;
        payload.drain_to(|buf| {
            if !buf.is_empty() {
                received.bytes += buf.len() as u32;
                if received.ready.len() >= FEW
                    && let Some(last) = received.ready.back_mut()
                    && let Some(both) = small::join(heap, last, &buf)
                {
                    *last = both;
                } else {
                    received.ready.push_back(buf);
                }
            }
        });
    }

    /// Serves the pops that wait.
    #[inline]
    pub(crate) fn serve_pops(&mut self, io: &mut Io<'_, '_>) {
        while let Some(Pop { token, limit }) = self.received.pops.front() {
            let (token, limit) = (*token, limit.get());
            let Some(result) = self.take(limit) else { break };
            self.received.pops.pop_front();
            io.cx.done.post(token, result.map(Done::Popped));
        }
    }

    /// Recalls an operation. False: it is too far under way.
    pub(crate) fn cancel(&mut self, token: QToken) -> bool {
        if self.received.pops.remove(|pop| pop.token == token).is_some() {
            return true;
        }
        self.send.recall(token)
    }

    pub(crate) fn cancel_pops(&mut self, io: &mut Io<'_, '_>) {
        for pop in self.received.pops.drain() {
            io.cx.done.post(pop.token, Err(Error::Cancelled));
        }
    }

    /// No more pops: what arrives is thrown away.
    pub(crate) fn shut_read(&mut self, io: &mut Io<'_, '_>) {
        self.read_shut = true;
        self.drop_received();
        self.serve_pops(io);
        self.offer_window(io);
    }

    fn drop_received(&mut self) {
        self.received.ready.clear();
        self.received.bytes = 0;
    }

    /// No more pushes: RFC 9293 §3.10.4.
    pub(crate) fn shut_write(&mut self, io: &mut Io<'_, '_>) {
        if self.fin != Fin::No {
            return;
        }
        if self.flight.is_empty() && self.send.unsent() == 0 {
            // RFC 5482 §3: the time counts from when something was not acknowledged, not from when something last was.
            self.progress_at = io.cx.now;
        }
        self.fin = Fin::Due;
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            // The FIN follows the handshake.
            other => other,
        };
        self.output(io);
    }

    /// The descriptor is gone. False: so is the connection.
    pub(crate) fn close(&mut self, io: &mut Io<'_, '_>, linger: Duration) -> bool {
        self.detached = true;
        self.cancel_pops(io);
        let linger = self.settings.linger.unwrap_or(linger);
        if self.error.is_some() || self.state == State::Closed {
            return false;
        }
        if matches!(self.state, State::SynSent) {
            return false;
        }
        // RFC 2525 §2.17: what was received and is not wanted was not delivered, and the peer should know.
        if linger.is_zero() || self.received.bytes > 0 {
            self.abort(io, &Error::ConnectionAborted);
            return false;
        }
        self.read_shut = true;
        self.shut_write(io);
        if self.state != State::TimeWait {
            self.set_timer(Timer::Linger, Some(io.cx.now + linger));
        }
        true
    }

    /// Ends the connection with a RST: RFC 9293 §3.10.5.
    pub(crate) fn abort(&mut self, io: &mut Io<'_, '_>, error: &Error) {
        if !matches!(self.state, State::SynSent | State::TimeWait | State::Closed) {
            self.send_reset(io);
        }
        self.end(io, error.clone());
    }

    /// The connection has ended: nobody is left waiting.
    pub(crate) fn end(&mut self, io: &mut Io<'_, '_>, error: Error) {
        self.state = State::Closed;
        self.send.fail(io.cx, &error);
        self.flight.clear();
        self.reassembly = Reassembly::default();
        self.timers = [NEVER; TIMERS];
        if let Some(token) = self.connecting.take() {
            io.cx.done.post(token, Err(error.clone()));
        }
        self.error.get_or_insert(error);
        self.received.ended = true;
        // Those that find nothing more to take learn why.
        self.serve_pops(io);
    }

    /// Everything was delivered both ways, and it is over.
    pub(crate) fn end_in_order(&mut self, io: &mut Io<'_, '_>) {
        self.send.fail(io.cx, &Error::Closed);
        self.timers = [NEVER; TIMERS];
        self.received.ended = true;
        self.serve_pops(io);
        if let Some(token) = self.connecting.take() {
            io.cx.done.post(token, Err(Error::Cancelled));
        }
    }

    /// Both directions are closed and acknowledged.
    pub(crate) fn enter_time_wait(&mut self, now: Instant, time_wait: Duration) {
        self.state = State::TimeWait;
        self.timers = [NEVER; TIMERS];
        self.set_timer(Timer::Linger, Some(now + time_wait));
    }
}
