//! Listeners: handshakes that others begin, and the connections that wait to be accepted.
//!
//! Invariants: at most `half_open` handshakes of a listener are kept, and at most its backlog of connections that nobody
//! has accepted; what is beyond the first is answered with cookies, and what is beyond the second not at all, so that the
//! peer tries again. A connection is counted in exactly one of the two until it is accepted or has ended.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use demi_api::error::Error;
use demi_api::op::Done;
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::time::Instant;
use demi_api::token::QToken;

use super::conn::{Io, Settings, State};
use super::cookies::{About, Extras, LIFETIME};
use super::demux::Ends;
use super::output::{own_mss, send_header};
use super::segment::{Flags, Header, Options, Segment};
use super::sockets::{Env, Socket, Tcp, peer};
use super::{Ecn, SynCookies, recv_shift};
use crate::catnip::Queue;

/// Connections that may wait to be accepted, whatever the application asks for.
const MOST_WAITING: u32 = 65_535;

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) local: SocketAddr,
    pub(super) settings: Rc<Settings>,
    /// Others that say so as well may have the same address.
    pub(super) reuse_port: bool,
    pub(super) backlog: usize,
    /// Handshakes that are under way.
    half_open: usize,
    /// Connections that wait to be accepted.
    pub(super) ready: VecDeque<Key>,
    pub(super) accepts: VecDeque<QToken>,
    /// When the last cookie was given out.
    cookie_at: Option<Instant>,
}

impl Listener {
    fn is_full(&self) -> bool {
        self.ready.len() >= self.backlog
    }

    /// Forgets a connection that has ended before it was accepted. False: it waits, to be handed out with what it has
    /// received.
    pub(super) fn forget(&mut self, queued: bool) -> bool {
        self.half_open -= usize::from(!queued);
        !queued
    }
}

impl Tcp {
    pub(crate) fn listen(&mut self, key: Key, backlog: u32) -> Result<(), Error> {
        let backlog = backlog.clamp(1, MOST_WAITING) as usize;
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match socket {
            Socket::Fresh(fresh) => {
                let listener = Listener {
                    local: fresh.local.ok_or(Error::Invalid("listen needs a bound socket"))?,
                    settings: fresh.settings.clone(),
                    reuse_port: fresh.reuse_port,
                    backlog,
                    half_open: 0,
                    ready: VecDeque::new(),
                    accepts: VecDeque::new(),
                    cookie_at: None,
                };
                *socket = Socket::Listener(Box::new(listener));
                Ok(())
            }
            Socket::Listener(listener) => {
                listener.backlog = backlog;
                Ok(())
            }
            Socket::Connection(_) => Err(Error::AlreadyConnected),
            Socket::TimeWait(_) => Err(Error::BadDescriptor),
        }
    }

    /// RFC 9293 §3.10.7.2, third.
    pub(super) fn receive_syn(&mut self, env: &mut Env<'_, '_>, key: Key, ends: Ends, segment: &Segment<'_>) {
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) else { return };
        // Whoever cannot be accepted need not begin.
        if listener.is_full() {
            self.counters.backlog_full += 1;
            return;
        }
        let full = listener.half_open >= self.half_open;
        match self.syn_cookies {
            SynCookies::Always => return self.send_cookie(env, key, ends, segment),
            SynCookies::Auto if full => return self.send_cookie(env, key, ends, segment),
            SynCookies::Off if full => {
                self.counters.backlog_full += 1;
                return;
            }
            SynCookies::Auto | SynCookies::Off => {}
        }
        let settings = listener.settings.clone();
        let Ok(path) = env.ip.path(env.cx, Some(ends.local), ends.remote) else { return };
        listener.half_open += 1;
        let mut entry = self.connection(env.cx, path, ends, settings, Some(key));
        let conn = &mut entry.conn;
        conn.state = State::SynReceived;
        conn.ecn = self.agrees_to_ecn(segment);
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        conn.adopt_options(&mut io, segment);
        conn.send_syn(&mut io);
        let child = self.sockets.insert(Socket::Connection(entry));
        self.demux.insert(ends, child);
        self.settle(env, child);
    }

    /// RFC 3168 §6.1.1: an ECN-setup SYN.
    fn agrees_to_ecn(&self, segment: &Segment<'_>) -> Ecn {
        let asks = segment.flags.has(Flags::ECE.with(Flags::CWR));
        if asks { self.ecn.accepting() } else { Ecn::Off }
    }

    /// Answers a SYN and keeps nothing of it.
    fn send_cookie(&mut self, env: &mut Env<'_, '_>, key: Key, ends: Ends, segment: &Segment<'_>) {
        if env.ip.is_congested() {
            return;
        }
        let Ok(mut path) = env.ip.path(env.cx, Some(ends.local), ends.remote) else { return };
        let ecn = self.agrees_to_ecn(segment) != Ecn::Off;
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) else { return };
        let (now, settings, options) = (env.cx.now, &listener.settings, &segment.options);
        listener.cookie_at = Some(now);
        let own_shift = recv_shift(settings.recv_buffer);
        // Without timestamps there is no room for what is agreed upon by them, and so no agreement.
        let extras = options.timestamps.map(|_| Extras {
            window_scale: options.window_scale,
            sack: options.sack_permitted,
            ecn,
        });
        let mss = options.mss.unwrap_or(super::default_mss(ends.remote));
        let about = About { ends: &ends, irs: segment.seq, recv_shift: own_shift };
        let seq = self.cookies.make(about, mss, extras, now);
        let clock = super::clock(now, self.demux.timestamp_offset(&ends));
        let flags = Flags::SYN.with(Flags::ACK).with_if(extras.is_some_and(|extras| extras.ecn), Flags::ECE);
        let header = Header {
            from: ends.local_port,
            to: ends.remote_port,
            seq,
            ack: segment.seq + 1,
            flags,
            window: settings.recv_buffer.min(u16::MAX.into()) as u16,
            mss: Some(own_mss(&path, settings.max_segment)),
            window_scale: extras.and_then(|extras| extras.window_scale).map(|_| own_shift),
            sack_permitted: extras.is_some_and(|extras| extras.sack),
            timestamps: options
                .timestamps
                .zip(extras)
                .map(|((value, _), extras)| (extras.stamp(clock), value)),
            sacks: &[],
        };
        self.counters.cookies_sent += 1;
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        send_header(&mut io, &mut path, &header);
    }

    /// Whether a segment acknowledges a cookie of a listener's.
    pub(super) fn is_cookie(&self, now: Instant, key: Key, ends: &Ends, segment: &Segment<'_>) -> bool {
        matches!(self.open_cookie(now, key, ends, segment), Some(Some(_)))
    }

    /// What the SYN said whose cookie a segment acknowledges. `None`: the listener has sent none of late, and without a
    /// flood there is nothing to guess.
    fn open_cookie(
        &self,
        now: Instant,
        key: Key,
        ends: &Ends,
        segment: &Segment<'_>,
    ) -> Option<Option<(u16, Option<Extras>)>> {
        let Some(Socket::Listener(listener)) = self.sockets.get(key) else { return None };
        if listener.cookie_at.is_none_or(|at| now - at >= LIFETIME) {
            return None;
        }
        let about =
            About { ends, irs: segment.seq - 1, recv_shift: recv_shift(listener.settings.recv_buffer) };
        let echo = segment.options.timestamps.map(|(_, echo)| echo);
        Some(self.cookies.open(about, segment.ack - 1, echo, now))
    }

    /// A segment for no connection acknowledges something of a listener's: perhaps a cookie. Gives it back if it does not.
    pub(super) fn receive_cookie<'a>(
        &mut self,
        env: &mut Env<'_, '_>,
        key: Key,
        ends: Ends,
        segment: Segment<'a>,
        ecn: u8,
    ) -> Option<Segment<'a>> {
        let Some(opened) = self.open_cookie(env.cx.now, key, &ends, &segment) else { return Some(segment) };
        let (irs, cookie) = (segment.seq - 1, segment.ack - 1);
        let stamps = segment.options.timestamps;
        let Some((mss, extras)) = opened else {
            self.counters.cookies_refused += 1;
            return Some(segment);
        };
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) else { return Some(segment) };
        if listener.is_full() {
            // The peer sends it again, or what comes next, and may find room then.
            self.counters.backlog_full += 1;
            return None;
        }
        let settings = listener.settings.clone();
        let Ok(path) = env.ip.path(env.cx, Some(ends.local), ends.remote) else { return None };
        listener.half_open += 1;
        self.counters.cookies_accepted += 1;
        let mut entry = self.connection(env.cx, path, ends, settings, Some(key));
        let conn = &mut entry.conn;
        let options = Options {
            mss: Some(mss),
            window_scale: extras.and_then(|extras| extras.window_scale),
            sack_permitted: extras.is_some_and(|extras| extras.sack),
            timestamps: stamps,
            ..Options::default()
        };
        if extras.is_some_and(|extras| extras.ecn) {
            conn.ecn = self.ecn.accepting();
        }
        let syn = Segment {
            from: segment.from,
            to: segment.to,
            seq: irs,
            ack: segment.ack,
            flags: Flags::SYN,
            window: segment.window,
            options,
            payload: &mut SgArray::new(),
            len: 0,
        };
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        conn.resume(&mut io, cookie, &syn);
        let child = self.sockets.insert(Socket::Connection(entry));
        self.demux.insert(ends, child);
        self.receive_in_handshake(env, child, segment, ecn);
        None
    }

    /// A segment for a connection whose handshake is not over.
    #[cold]
    pub(super) fn receive_in_handshake(
        &mut self,
        env: &mut Env<'_, '_>,
        child: Key,
        segment: Segment<'_>,
        ecn: u8,
    ) {
        let Some(Socket::Connection(entry)) = self.sockets.get(child) else { return };
        if let Some(Socket::Listener(listener)) = entry.listener.and_then(|key| self.sockets.get(key))
            && listener.is_full()
            && segment.flags.has(Flags::ACK)
            && !segment.flags.has(Flags::RST)
        {
            // As if it had been lost: the SYN is acknowledged again until there is room.
            self.counters.backlog_full += 1;
            return;
        }
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(child) else { return };
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        entry.conn.receive(&mut io, segment, ecn);
        if entry.conn.state.is_synchronized() {
            self.handshake_over(env, child);
        }
        self.settle(env, child);
    }

    /// A connection that came to a listener is established.
    fn handshake_over(&mut self, env: &mut Env<'_, '_>, child: Key) {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(child) else { return };
        let Some(key) = entry.listener else { return };
        entry.queued = true;
        match self.sockets.get_mut(key) {
            Some(Socket::Listener(listener)) => {
                listener.half_open -= 1;
                listener.ready.push_back(child);
                self.serve_accepts(env, key);
            }
            _ => self.abort(env, child),
        }
    }

    pub(super) fn serve_accepts(&mut self, env: &mut Env<'_, '_>, key: Key) {
        while let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) {
            let (Some(child), Some(token)) =
                (listener.ready.front().copied(), listener.accepts.front().copied())
            else {
                return;
            };
            // One that has ended meanwhile is still handed out: what it received can be popped.
            let Some(Socket::Connection(entry)) = self.sockets.get_mut(child) else {
                self.drop_first_ready(key);
                continue;
            };
            let done = match env.queues.insert(Queue::Stream(child)) {
                Ok(qd) => {
                    entry.listener = None;
                    Ok(Done::Accepted { qd, peer: peer(&entry.conn.ends()) })
                }
                Err(error) => Err(error),
            };
            let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) else { return };
            listener.accepts.pop_front();
            if done.is_ok() {
                listener.ready.pop_front();
            }
            env.cx.done.post(token, done);
        }
    }

    fn drop_first_ready(&mut self, key: Key) {
        if let Some(Socket::Listener(listener)) = self.sockets.get_mut(key) {
            listener.ready.pop_front();
        }
    }
}
