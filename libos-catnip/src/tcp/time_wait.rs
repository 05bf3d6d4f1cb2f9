//! TIME-WAIT: RFC 9293 §3.6.1 and §3.10.7.4. What is left of a connection that nobody holds any more.
//!
//! Invariant: it answers as the connection would, from what it has kept, and takes no more than its place in the table
//! of sockets.

use std::time::Duration;

use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;

use super::conn::{Connection, Io, State};
use super::demux::Ends;
use super::output::send_header;
use super::segment::{Flags, Header, Segment};
use super::seq::SeqNum;
use super::sockets::{Env, Socket, Tcp};
use crate::timer::TimerId;

/// A call may take the ports of a connection that has been closed for so long, if timestamps tell its segments from
/// those of the old one: twice what the clock of timestamps needs to have moved on.
const REUSE_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct TimeWait {
    ends: Ends,
    nxt: SeqNum,
    rcv_nxt: SeqNum,
    /// As it stood in the last segment.
    window: u16,
    /// TS.Recent.
    recent: Option<u32>,
    since: Instant,
    timer: TimerId,
}

const _: () = assert!(size_of::<TimeWait>() <= 80);

impl Tcp {
    /// After a connection has come to its end, or to TIME-WAIT without anybody who holds it. False: it stays.
    #[cold]
    pub(super) fn wind_up(&mut self, env: &mut Env<'_, '_>, key: Key) -> bool {
        let Some(Socket::Connection(entry)) = self.sockets.get(key) else { return false };
        if entry.conn.state == State::Closed {
            self.ended(env, key);
            return true;
        }
        if !entry.conn.detached {
            return false;
        }
        let conn = &entry.conn;
        if let Some((timer, _)) = entry.wheel {
            self.wheel.cancel(timer);
        }
        let record = TimeWait {
            ends: entry.conn.ends(),
            nxt: conn.nxt,
            rcv_nxt: conn.rcv_nxt,
            window: conn.advertised(),
            recent: conn.timestamps.map(|ours| ours.recent),
            since: env.cx.now,
            timer: self.wheel.insert(env.cx.now + self.counters.time_wait, key),
        };
        if let Some(socket) = self.sockets.get_mut(key) {
            *socket = Socket::TimeWait(Box::new(record));
        }
        true
    }

    /// A segment for a connection in TIME-WAIT. True: it begins a new one.
    #[cold]
    pub(super) fn receive_in_time_wait(
        &mut self,
        env: &mut Env<'_, '_>,
        key: Key,
        segment: &Segment<'_>,
    ) -> bool {
        let Some(Socket::TimeWait(record)) = self.sockets.get_mut(key) else { return false };
        if may_reuse(record.rcv_nxt, record.recent, segment) {
            self.forget_time_wait(key);
            return true;
        }
        let end = segment.seq + segment.space();
        if segment.flags.has(Flags::RST) {
            if segment.seq == record.rcv_nxt {
                self.counters.resets_received += 1;
                self.forget_time_wait(key);
            }
            return false;
        }
        if !segment.flags.has(Flags::ACK) && !segment.flags.has(Flags::SYN) {
            return false;
        }
        let expected = segment.seq == record.rcv_nxt && segment.space() == 0;
        if expected && segment.ack == record.nxt {
            return false;
        }
        // The peer did not get the acknowledgement of its FIN.
        if segment.flags.has(Flags::FIN) && end == record.rcv_nxt {
            let until = env.cx.now + self.counters.time_wait;
            self.wheel.rearm(record.timer, until);
            record.since = env.cx.now;
        } else if !self.counters.may_challenge(env.cx) {
            return false;
        }
        let (ends, nxt, rcv_nxt) = (record.ends, record.nxt, record.rcv_nxt);
        let (window, recent) = (record.window, record.recent);
        let clock = super::clock(env.cx.now, self.demux.timestamp_offset(&ends));
        let timestamps = recent.map(|recent| (clock, recent));
        let header = Header::bare(ends.local_port, ends.remote_port, nxt, rcv_nxt, Flags::ACK);
        let header = Header { window, timestamps, ..header };
        if let Ok(mut path) = env.ip.path(env.cx, Some(ends.local), ends.remote) {
            let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
            send_header(&mut io, &mut path, &header);
        }
        false
    }

    /// It is over, or its ports are for another.
    pub(super) fn forget_time_wait(&mut self, key: Key) {
        if let Some(Socket::TimeWait(record)) = self.sockets.get(key) {
            let (ends, timer) = (record.ends, record.timer);
            self.demux.remove(&ends, key);
            self.wheel.cancel(timer);
            self.sockets.remove(key);
        }
    }
}

/// Whether a new connection may take ends that an old one has still, and behind which sequence number it must begin then:
/// RFC 9293 §3.4.3, RFC 6191.
pub(super) fn taken_over(sockets: &Slab<Socket>, key: Key, now: Instant) -> Option<SeqNum> {
    match sockets.get(key) {
        Some(Socket::TimeWait(old)) if old.recent.is_some() && now - old.since > REUSE_AFTER => {
            Some(old.nxt + u32::from(u16::MAX))
        }
        _ => None,
    }
}

/// Whether a connection is in TIME-WAIT, though its descriptor is still open, and gives way to this segment.
#[inline]
pub(super) fn gives_way(conn: &Connection, segment: &Segment<'_>) -> bool {
    conn.state == State::TimeWait && may_reuse(conn.rcv_nxt, conn.timestamps.map(|ours| ours.recent), segment)
}

/// The SYN is certainly newer than all that the old connection sent: RFC 6191 §2, RFC 9293 §3.6.1, MAY-2.
fn may_reuse(rcv_nxt: SeqNum, recent: Option<u32>, segment: &Segment<'_>) -> bool {
    if !segment.flags.has(Flags::SYN) || segment.flags.has(Flags::ACK) {
        return false;
    }
    match (recent, segment.options.timestamps) {
        (Some(recent), Some((value, _))) if value != recent => value.wrapping_sub(recent).cast_signed() > 0,
        _ => segment.seq > rcv_nxt,
    }
}
