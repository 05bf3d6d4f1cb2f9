//! What comes from the network finds the socket that it is for: RFC 9293 §3.10.7, RFC 5927.

use demi_api::error::Error;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::conn::{Io, State};
use super::demux::Ends;
use super::output::{PROTOCOL, send_header};
use super::segment::{Flags, Header, Segment};
use super::seq::SeqNum;
use super::sockets::{Env, Socket, Tcp};
use super::time_wait::gives_way;
use crate::device::Checksum;
use crate::ip::{About, Cast, Problem, ProblemKind, checksum, pseudo_sum};

impl Tcp {
    /// A segment arrives.
    #[inline]
    pub(crate) fn receive(&mut self, env: &mut Env<'_, '_>, about: About, data: &mut SgArray) {
        self.counters.received += 1;
        // MUST-57: nothing that was sent to several is answered.
        if about.cast != Cast::Unicast {
            return;
        }
        if about.checksum == Checksum::Unknown {
            let pseudo = pseudo_sum(about.local, about.remote, PROTOCOL, data.len());
            if !checksum::verify(pseudo, data) {
                self.counters.bad_checksum += 1;
                return;
            }
        }
        let Some(segment) = Segment::parse(data) else {
            self.counters.malformed += 1;
            return;
        };
        let ends = Ends {
            local: about.local,
            remote: about.remote,
            local_port: segment.to,
            remote_port: segment.from,
        };
        if let Some(key) = self.demux.find(&ends) {
            let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else {
                if self.receive_in_time_wait(env, key, &segment) {
                    self.receive_for_nobody(env, ends, segment, about.ecn);
                }
                return;
            };
            if entry.conn.state == State::SynReceived {
                return self.receive_in_handshake(env, key, segment, about.ecn);
            }
            if !gives_way(&entry.conn, &segment) {
                let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
                entry.conn.receive(&mut io, segment, about.ecn);
                if !entry.settle(env.cx.now, key, &mut self.soon, &mut self.wheel) {
                    self.settle(env, key);
                }
                return;
            }
            // RFC 9293 §3.6.1, MAY-2, and RFC 6191: a new incarnation of a connection in TIME-WAIT.
            entry.conn.state = State::Closed;
            self.settle(env, key);
        }
        self.receive_for_nobody(env, ends, segment, about.ecn);
    }

    /// Whether a segment is for a connection or a listener of this instance, so that no sibling need be asked; one that is
    /// malformed is for nobody else.
    pub(crate) fn has_use_for(&self, now: Instant, about: &About, data: &SgArray) -> bool {
        let mut data = data.clone();
        let Some(segment) = Segment::parse(&mut data) else { return true };
        let ends = Ends {
            local: about.local,
            remote: about.remote,
            local_port: segment.to,
            remote_port: segment.from,
        };
        let flags = segment.flags;
        if let Some(key) = self.demux.find(&ends) {
            // A SYN that was sent again may have reached a sibling as well, whose answer it is that the peer takes.
            return !matches!(self.sockets.get(key), Some(Socket::Connection(entry))
                if entry.conn.state == State::SynReceived && flags.has(Flags::ACK) && segment.ack != entry.conn.nxt);
        }
        let Some(listener) = self.listener(&ends).filter(|_| !flags.has(Flags::RST)) else { return false };
        match (flags.has(Flags::SYN), flags.has(Flags::ACK)) {
            (true, ack) => !ack,
            (false, true) => self.is_cookie(now, listener, &ends, &segment),
            (false, false) => false,
        }
    }

    /// RFC 9293 §3.10.7.1 and §3.10.7.2: a segment for no connection.
    fn receive_for_nobody(&mut self, env: &mut Env<'_, '_>, ends: Ends, mut segment: Segment<'_>, ecn: u8) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        if let Some(listener) = self.listener(&ends) {
            match (segment.flags.has(Flags::SYN), segment.flags.has(Flags::ACK)) {
                (true, false) => return self.receive_syn(env, listener, ends, &segment),
                // §3.10.7.2, fourth: without SYN, it means nothing here.
                (false, false) => return,
                (false, true) => match self.receive_cookie(env, listener, ends, segment, ecn) {
                    Some(stray) => segment = stray,
                    None => return,
                },
                (true, true) => {}
            }
        }
        self.send_reset(env, &ends, &segment);
    }

    fn send_reset(&mut self, env: &mut Env<'_, '_>, ends: &Ends, segment: &Segment<'_>) {
        if env.ip.is_congested() {
            return;
        }
        let Ok(mut path) = env.ip.path(env.cx, Some(ends.local), ends.remote) else { return };
        let (seq, ack, flags) = if segment.flags.has(Flags::ACK) {
            (segment.ack, SeqNum(0), Flags::RST)
        } else {
            (SeqNum(0), segment.seq + segment.space(), Flags::RST.with(Flags::ACK))
        };
        let header = Header::bare(ends.local_port, ends.remote_port, seq, ack, flags);
        self.counters.resets_sent += 1;
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        send_header(&mut io, &mut path, &header);
    }

    /// An ICMP error about a segment of ours.
    pub(crate) fn problem(&mut self, env: &mut Env<'_, '_>, problem: &Problem) {
        let quoted = problem.quoted;
        let ends = Ends {
            local: problem.local,
            remote: problem.remote,
            local_port: u16::from_be_bytes([quoted[0], quoted[1]]),
            remote_port: u16::from_be_bytes([quoted[2], quoted[3]]),
        };
        let seq = SeqNum(u32::from_be_bytes([quoted[4], quoted[5], quoted[6], quoted[7]]));
        let Some(key) = self.demux.find(&ends) else { return };
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return };
        let conn = &mut entry.conn;
        // RFC 5927 §4.1: about something that is under way, or whoever sent it is guessing.
        if seq - conn.una >= conn.nxt - conn.una {
            return;
        }
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        match problem.kind {
            ProblemKind::TooBig(_) => {
                io.ip.learn_mtu(io.cx.now, problem);
                let _ = io.ip.refresh(io.cx, &mut conn.path);
                conn.path_narrowed(&mut io);
            }
            // RFC 9293 §3.9.2.2: soft errors but for a connection that has not begun (RFC 5461 §4).
            ProblemKind::Unreachable(_) | ProblemKind::TimeExceeded => {
                if conn.state == State::SynSent {
                    let error =
                        if problem.is_refusal() { Error::ConnectionRefused } else { Error::Unreachable };
                    conn.end(&mut io, error);
                }
            }
        }
        self.settle(env, key);
    }
}
