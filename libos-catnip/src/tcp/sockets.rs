//! What the application holds: sockets, and what is done to them in time.
//!
//! Invariants: a connection is in the table of ends from its first SYN until it is closed. One that came to a listener is
//! the listener's (`listen`) until it is accepted; it goes with it. What has a deadline is in the wheel, no later than that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use demi_api::addr::{Addr, Domain};
use demi_api::desc::QueueTable;
use demi_api::error::Error;
use demi_api::libos::{Cx, Shutdown};
use demi_api::op::{Op, Step};
use demi_api::sga::SgArray;
use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;
use demi_api::token::QToken;

use super::congestion::{Algorithm, Congestion};
use super::conn::{
    BUFFER_START, Connection, Fin, Io, LossTimer, NEVER, REST, Received, Settings, State, TIMERS, Timestamps,
};
use super::cookies::Cookies;
use super::counters::Counters;
use super::demux::{Demux, Ends, pick_port};
use super::flight::Flight;
use super::listen::Listener;
use super::rack::Rack;
use super::reassembly::Reassembly;
use super::rtt::Rtt;
use super::send::SendBuffer;
use super::seq::SeqNum;
use super::time_wait::{TimeWait, taken_over};
use super::{Ecn, EcnPolicy, Policy, SynCookies, recv_shift};
use crate::catnip::Queue;
use crate::device::Queue as Device;
use crate::flow::Flows;
use crate::ip::{Ip, Path};
use crate::ports::{PortClass, Ports, share};
use crate::timer::{TimerId, Wheel};

/// What a call into TCP works with.
pub(crate) struct Env<'a, 'b> {
    pub(crate) cx: &'a mut Cx<'b>,
    pub(crate) ip: &'a mut Ip,
    pub(crate) queues: &'a mut QueueTable<Queue>,
}

#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) domain: Domain,
    pub(super) local: Option<SocketAddr>,
    pub(super) settings: Rc<Settings>,
    pub(super) reuse_port: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) conn: Connection,
    /// Where it came from, until it is accepted.
    pub(super) listener: Option<Key>,
    /// Its place in the wheel, and when that is due.
    pub(super) wheel: Option<(TimerId, Instant)>,
    /// It is in the list of those that acknowledge at the next turn.
    listed: bool,
    /// It waits in its listener's queue.
    pub(super) queued: bool,
}

impl Entry {
    /// After anything was done to the connection: its timers and its acknowledgements. False: it has ended, or is about
    /// to, and there is more to be done.
    #[inline]
    pub(super) fn settle(
        &mut self,
        now: Instant,
        key: Key,
        soon: &mut Vec<Key>,
        wheel: &mut Wheel<Key>,
    ) -> bool {
        self.conn.note_calm();
        let goes_on = self.conn.state < State::TimeWait;
        if goes_on {
            self.settle_timers(now, key, soon, wheel);
        }
        goes_on
    }

    #[inline(always)]
    pub(super) fn settle_timers(
        &mut self,
        now: Instant,
        key: Key,
        soon: &mut Vec<Key>,
        wheel: &mut Wheel<Key>,
    ) {
        if (self.conn.ack_soon | self.conn.gathered) && !std::mem::replace(&mut self.listed, true) {
            soon.push(key);
        }
        // The wheel may call too early, which costs little, but never too late.
        match self.wheel {
            Some((_, set)) if set <= self.conn.earliest => {}
            _ => self.set_wheel(now, key, wheel),
        }
    }

    #[inline(never)]
    fn set_wheel(&mut self, now: Instant, key: Key, wheel: &mut Wheel<Key>) {
        let Some(at) = self.conn.next_timer() else {
            // Once in a while, not for every message: whether it is idle by now.
            if self.wheel.is_none() && self.conn.has_slack() {
                let at = now + 2 * REST;
                self.wheel = Some((wheel.insert(at, key), at));
            }
            return;
        };
        match self.wheel {
            Some((_, set)) if set <= at => {}
            Some((id, _)) if wheel.rearm(id, at) => self.wheel = Some((id, at)),
            _ => self.wheel = Some((wheel.insert(at, key), at)),
        }
    }
}

#[derive(Debug)]
pub(super) enum Socket {
    Fresh(Box<Fresh>),
    Listener(Box<Listener>),
    Connection(Box<Entry>),
    /// No descriptor names it.
    TimeWait(Box<TimeWait>),
}

// Of the kibibyte that an idle connection may take, the rest is for the tables that it is in.
const _: () = assert!(size_of::<Entry>() <= 880 && size_of::<Socket>() <= 16);

/// All of TCP.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(super) sockets: Slab<Socket>,
    pub(super) demux: Demux,
    /// Whose packets came of late.
    pub(super) flows: Flows,
    /// Listeners, and what is bound to become one.
    listeners: Ports,
    class: PortClass,
    pub(super) wheel: Wheel<Key>,
    /// Connections that acknowledge at the beginning of the next turn.
    pub(super) soon: Vec<Key>,
    /// Connections whose timers are being served.
    due: Vec<Key>,
    pub(crate) counters: Counters,
    pub(super) defaults: Rc<Settings>,
    pub(super) cookies: Cookies,
    linger: Duration,
    algorithm: Algorithm,
    pacing: bool,
    pub(super) ecn: EcnPolicy,
    pub(super) syn_cookies: SynCookies,
    pub(super) half_open: usize,
}

impl Tcp {
    pub(crate) fn new(rng: &mut fastrand::Rng, now: Instant, defaults: Settings, policy: Policy) -> Tcp {
        let Policy { algorithm, linger, time_wait, pacing, ecn, syn_cookies, half_open } = policy;
        Tcp {
            sockets: Slab::new(),
            demux: Demux::new(rng),
            flows: Flows::default(),
            listeners: Ports::new(),
            class: PortClass::all(),
            wheel: Wheel::new(now),
            soon: Vec::new(),
            due: Vec::new(),
            counters: Counters::new(time_wait),
            defaults: Rc::new(defaults),
            cookies: Cookies::new(rng),
            linger,
            algorithm,
            pacing,
            ecn,
            syn_cookies,
            half_open,
        }
    }

    // --- the application's side

    /// From now on, ports that are chosen are of this class.
    pub(crate) fn choose_from(&mut self, class: PortClass) {
        self.class = class;
    }

    pub(crate) fn socket(&mut self, domain: Domain) -> Key {
        let settings = self.defaults.clone();
        let fresh = Fresh { domain, local: None, settings, reuse_port: false };
        self.sockets.insert(Socket::Fresh(Box::new(fresh)))
    }

    pub(crate) fn bind(&mut self, env: &mut Env<'_, '_>, key: Key, addr: SocketAddr) -> Result<(), Error> {
        let Some(Socket::Fresh(fresh)) = self.sockets.get(key) else {
            return Err(Error::Invalid("bind a socket before it listens or connects"));
        };
        if fresh.local.is_some() {
            return Err(Error::Invalid("the socket is bound already"));
        }
        if addr.is_ipv4() != (fresh.domain == Domain::Inet) {
            return Err(Error::BadAddress);
        }
        if !addr.ip().is_unspecified() && !env.ip.is_local(addr.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        let port = match addr.port() {
            0 => self.pick_listening_port(env.cx.rng, addr.ip()).ok_or(Error::AddressInUse)?,
            port if self.is_bound(addr.ip(), port, fresh.reuse_port) => return Err(Error::AddressInUse),
            port => port,
        };
        if let Some(Socket::Fresh(fresh)) = self.sockets.get_mut(key) {
            fresh.local = Some(SocketAddr::new(addr.ip(), port));
        }
        self.listeners.add(port, key);
        Ok(())
    }

    /// Sends a push at once, if it is small and nothing is in its way. False: nothing was done.
    #[inline(always)]
    pub(crate) fn push_brief(
        &mut self,
        env: &mut Env<'_, '_>,
        key: Key,
        sga: &mut SgArray,
        device: &mut dyn Device,
    ) -> bool {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return false };
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        if !entry.conn.push_brief(&mut io, device, sga) {
            return false;
        }
        // What has gone has carried the acknowledgement that may have waited. That is looked for only where it is found at
        // once; the next turn does so anyway.
        if entry.listed && self.soon.len() == 1 && !entry.conn.gathered {
            self.soon.clear();
            entry.listed = false;
        }
        // Nothing in it ends a connection.
        entry.settle_timers(env.cx.now, key, &mut self.soon, &mut self.wheel);
        true
    }

    /// Takes a push in. `Some`: it is done.
    #[inline]
    pub(crate) fn push(
        &mut self,
        env: &mut Env<'_, '_>,
        token: QToken,
        key: Key,
        sga: &mut SgArray,
    ) -> Result<Option<Result<(), Error>>, Error> {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        self.counters.gaps.push(env.cx.now);
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        let done = entry.conn.push(&mut io, token, sga)?;
        if !entry.settle(env.cx.now, key, &mut self.soon, &mut self.wheel) {
            self.settle(env, key);
        }
        Ok(done)
    }

    /// Begins a pop that has to wait, as most do. False: it is done, or there is a question about it; nothing was done.
    #[inline(always)]
    pub(crate) fn pop_later(&mut self, token: QToken, key: Key, limit: usize) -> bool {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return false };
        entry.conn.pop_later(token, limit)
    }

    /// Begins a pop. `Some`: it is done.
    #[inline]
    pub(crate) fn pop(
        &mut self,
        env: &mut Env<'_, '_>,
        token: QToken,
        key: Key,
        limit: usize,
    ) -> Result<Option<Result<SgArray, Error>>, Error> {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        let done = entry.conn.pop(&mut io, token, limit)?;
        if done.is_some() {
            self.settle(env, key);
        }
        Ok(done)
    }

    /// Begins what is neither a push to the peer nor a pop.
    pub(crate) fn start(
        &mut self,
        env: &mut Env<'_, '_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        match (self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?, op) {
            (Socket::Listener(listener), Op::Accept) => {
                listener.accepts.push_back(token);
                self.serve_accepts(env, key);
                Ok(Step::Pending)
            }
            (Socket::Fresh(_), Op::Connect(peer)) => {
                let peer = peer.inet().ok_or(Error::BadAddress)?;
                self.connect(env, token, key, peer)?;
                Ok(Step::Pending)
            }
            (Socket::Listener(_), Op::Connect(_)) => Err(Error::AlreadyConnected),
            (_, Op::Accept) => Err(Error::Invalid("accept needs a listening socket")),
            (_, Op::Flush) => Err(Error::NotSupported("flush of a socket")),
            (_, Op::Atomic { .. }) => Err(Error::NotSupported("atomic operations on a socket")),
            (Socket::Connection(_), Op::Push { to: Some(_), .. }) => {
                Err(Error::Invalid("a stream has one peer: push without an address"))
            }
            (_, Op::Push { .. } | Op::Pop { .. }) => Err(Error::NotConnected),
            (Socket::Connection(_), Op::Connect(_)) => Err(Error::AlreadyConnected),
            (Socket::TimeWait(_), Op::Connect(_)) => Err(Error::BadDescriptor),
        }
    }

    fn connect(
        &mut self,
        env: &mut Env<'_, '_>,
        token: QToken,
        key: Key,
        peer: SocketAddr,
    ) -> Result<(), Error> {
        let Some(Socket::Fresh(fresh)) = self.sockets.get(key) else { return Err(Error::BadDescriptor) };
        if peer.is_ipv4() != (fresh.domain == Domain::Inet) || peer.port() == 0 || peer.ip().is_multicast() {
            return Err(Error::BadAddress);
        }
        if peer.ip().is_unspecified() || peer.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(Error::BadAddress);
        }
        let (bound, now) = (fresh.local, env.cx.now);
        let settings = fresh.settings.clone();
        let local = bound.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        let path = env.ip.path(env.cx, local, peer.ip())?;
        if path.is_to_group() {
            return Err(Error::BadAddress);
        }
        let mut ends =
            Ends { local: path.local(), remote: peer.ip(), local_port: 0, remote_port: peer.port() };
        ends.local_port = match bound {
            Some(addr) => addr.port(),
            None => {
                let (listeners, sockets, demux) = (&self.listeners, &self.sockets, &self.demux);
                let free = |port| {
                    listeners.get(port).is_empty() && demux.find(&Ends { local_port: port, ..ends }).is_none()
                };
                let reusable = |port| {
                    let old = demux.find(&Ends { local_port: port, ..ends });
                    listeners.get(port).is_empty()
                        && old.is_none_or(|key| taken_over(sockets, key, now).is_some())
                };
                let class = &self.class;
                let comes_home = |port| {
                    class.comes_home(
                        SocketAddr::new(ends.local, port),
                        SocketAddr::new(ends.remote, ends.remote_port),
                    )
                };
                let port = pick_port(env.cx.rng, |port| class.has(port) && comes_home(port) && free(port));
                let port = port.or_else(|| pick_port(env.cx.rng, |port| class.has(port) && free(port)));
                let port = port.or_else(|| pick_port(env.cx.rng, |port| class.has(port) && reusable(port)));
                port.ok_or(Error::AddressNotAvailable)?
            }
        };
        let mut behind = None;
        if let Some(old) = self.demux.find(&ends) {
            behind = Some(taken_over(&self.sockets, old, now).ok_or(Error::AddressInUse)?);
            self.forget_time_wait(old);
        }
        self.unbind(key);
        let mut entry = self.connection(env.cx, path, ends, settings, None);
        let conn = &mut entry.conn;
        if let Some(iss) = behind.filter(|behind| *behind > conn.iss) {
            (conn.iss, conn.una, conn.nxt) = (iss, iss, iss);
        }
        conn.connecting = Some(token);
        conn.ecn = self.ecn.asking();
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        conn.send_syn(&mut io);
        self.demux.insert(ends, key);
        if let Some(socket) = self.sockets.get_mut(key) {
            *socket = Socket::Connection(entry);
        }
        self.settle(env, key);
        Ok(())
    }

    pub(super) fn connection(
        &self,
        cx: &mut Cx<'_>,
        path: Path,
        ends: Ends,
        settings: Rc<Settings>,
        listener: Option<Key>,
    ) -> Box<Entry> {
        let iss = self.demux.initial(&ends, cx.now);
        let recv_shift = recv_shift(settings.recv_buffer);
        let conn = Connection {
            path,
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            state: State::SynSent,
            iss,
            una: iss,
            nxt: iss,
            window: 0,
            max_window: 0,
            wl1: SeqNum(0),
            wl2: SeqNum(0),
            send_shift: 0,
            recv_shift,
            mss: super::LEAST_MSS,
            send: SendBuffer::default(),
            flight: Flight::default(),
            fin: Fin::No,
            rcv_nxt: SeqNum(0),
            rcv_right: SeqNum(0),
            acked_to: SeqNum(0),
            recv_limit: settings.recv_buffer.min(BUFFER_START),
            round_from: SeqNum(0),
            round_end: cx.now,
            received: Received::default(),
            reassembly: Reassembly::default(),
            peer_fin: None,
            ack_soon: false,
            gathered: false,
            calm: false,
            free: false,
            round: 0,
            quick_acks: 0,
            timestamps: Some(Timestamps {
                offset: self.demux.timestamp_offset(&ends),
                recent: 0,
                recent_at: cx.now,
            }),
            sack: true,
            ecn: Ecn::Off,
            ece_due: false,
            cwr_due: false,
            congestion: Congestion::new(self.algorithm, self.pacing, super::LEAST_MSS.into(), cx.now),
            paced: Instant::default(),
            rtt: Rtt::new(),
            rack: Rack::new(),
            duplicate_acks: 0,
            retries: 0,
            starved: false,
            keep_probes: 0,
            progress_at: cx.now,
            heard_at: cx.now,
            timers: [NEVER; TIMERS],
            earliest: NEVER,
            loss_timer: LossTimer::Retransmission,
            settings,
            established: false,
            connecting: None,
            detached: false,
            read_shut: false,
            error: None,
        };
        let mut entry = Box::new(Entry { conn, listener, wheel: None, listed: false, queued: false });
        entry.conn.set_mss(u16::MAX);
        entry
    }

    pub(crate) fn cancel(&mut self, env: &mut Env<'_, '_>, token: QToken, key: Key) -> Result<(), Error> {
        match self.sockets.get_mut(key).ok_or(Error::BadDescriptor)? {
            Socket::Fresh(_) | Socket::TimeWait(_) => return Err(Error::NotCancellable),
            Socket::Listener(listener) => {
                let place =
                    listener.accepts.iter().position(|other| *other == token).ok_or(Error::NotCancellable)?;
                listener.accepts.remove(place);
            }
            Socket::Connection(entry) if entry.conn.connecting == Some(token) => {
                entry.conn.connecting = None;
                entry.conn.state = State::Closed;
                self.settle(env, key);
            }
            Socket::Connection(entry) => {
                if !entry.conn.cancel(token) {
                    return Err(Error::NotCancellable);
                }
            }
        }
        env.cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    pub(crate) fn shutdown(&mut self, env: &mut Env<'_, '_>, key: Key, how: Shutdown) -> Result<(), Error> {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else {
            return Err(Error::NotConnected);
        };
        if matches!(entry.conn.state, State::SynSent | State::SynReceived) {
            return Err(Error::NotConnected);
        }
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        // A FIN says how wide the window is by now, and nothing need be said of it after that.
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            entry.conn.shut_write(&mut io);
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) && entry.conn.state != State::Closed {
            entry.conn.shut_read(&mut io);
        }
        self.settle(env, key);
        Ok(())
    }

    /// The descriptor is gone.
    pub(crate) fn close(&mut self, env: &mut Env<'_, '_>, key: Key) {
        let linger = self.linger;
        match self.sockets.get_mut(key) {
            None | Some(Socket::TimeWait(_)) => {}
            Some(Socket::Fresh(_)) => {
                self.unbind(key);
                self.sockets.remove(key);
            }
            Some(Socket::Listener(_)) => self.close_listener(env, key),
            Some(Socket::Connection(entry)) => {
                let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
                if !entry.conn.close(&mut io, linger) {
                    if let Some(token) = entry.conn.connecting.take() {
                        io.cx.done.post(token, Err(Error::Cancelled));
                    }
                    entry.conn.state = State::Closed;
                }
                self.settle(env, key);
            }
        }
    }

    fn close_listener(&mut self, env: &mut Env<'_, '_>, key: Key) {
        self.unbind(key);
        let Some(Socket::Listener(listener)) = self.sockets.remove(key) else { return };
        for token in listener.accepts {
            env.cx.done.post(token, Err(Error::Cancelled));
        }
        for child in listener.ready {
            self.abort(env, child);
        }
        // Those whose handshake is not over find nobody when it is, and are reset then.
    }

    pub(super) fn abort(&mut self, env: &mut Env<'_, '_>, key: Key) {
        if let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) {
            entry.conn.detached = true;
            let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
            entry.conn.abort(&mut io, &Error::ConnectionAborted);
            self.settle(env, key);
        }
    }

    // --- time

    /// Begins a turn: sends what was gathered, and the acknowledgements that have waited for it.
    #[inline]
    pub(crate) fn poll(&mut self, env: &mut Env<'_, '_>) -> usize {
        self.counters.gaps.turn(env.cx.now);
        let mut done = 0;
        while let Some(key) = self.soon.pop() {
            let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { continue };
            entry.listed = false;
            // What has gone meanwhile has carried the acknowledgement, mostly.
            if entry.conn.gathered || entry.conn.acked_to != entry.conn.rcv_nxt {
                done += self.send_soon(env, key);
            } else {
                entry.conn.ack_soon = false;
            }
        }
        done
    }

    #[inline(never)]
    fn send_soon(&mut self, env: &mut Env<'_, '_>, key: Key) -> usize {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return 0 };
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        let mut done = 0;
        if std::mem::take(&mut entry.conn.gathered) {
            entry.conn.output(&mut io);
            entry.conn.note_calm();
            entry.settle_timers(io.cx.now, key, &mut self.soon, &mut self.wheel);
            done += 1;
        }
        // What has just gone may have carried it.
        if std::mem::take(&mut entry.conn.ack_soon) && entry.conn.acked_to != entry.conn.rcv_nxt {
            if !entry.conn.acknowledge(&mut io) {
                entry.settle_timers(io.cx.now, key, &mut self.soon, &mut self.wheel);
            }
            done += 1;
        }
        done
    }

    /// Whether [`run_timers`](Tcp::run_timers) has something to do.
    #[inline]
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        self.wheel.is_due(now)
    }

    /// Serves timers that are due. What has arrived may be what they wait for, and comes first.
    #[cold]
    pub(crate) fn run_timers(&mut self, env: &mut Env<'_, '_>) -> usize {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(env.cx.now, |key| due.push(key));
        let count = due.len();
        for key in due.drain(..) {
            let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else {
                self.forget_time_wait(key);
                continue;
            };
            entry.wheel = None;
            let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
            entry.conn.run_timers(&mut io);
            if entry.conn.has_slack() && entry.conn.is_idle(env.cx.now) {
                entry.conn.rest();
                self.counters.rests += 1;
            }
            self.settle(env, key);
        }
        self.due = due;
        count
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        // What waits for the next turn has no timer.
        if self.is_quiet() { self.wheel.next_deadline() } else { Some(Instant::default()) }
    }

    /// Nothing waits for the next turn.
    pub(crate) fn is_quiet(&self) -> bool {
        self.soon.is_empty()
    }

    /// After anything was done to a connection: its timers, its acknowledgements, its end.
    #[inline]
    pub(super) fn settle(&mut self, env: &mut Env<'_, '_>, key: Key) {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return };
        if entry.settle(env.cx.now, key, &mut self.soon, &mut self.wheel) || self.wind_up(env, key) {
            return;
        }
        if let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) {
            entry.settle_timers(env.cx.now, key, &mut self.soon, &mut self.wheel);
        }
    }

    #[cold]
    pub(super) fn ended(&mut self, env: &mut Env<'_, '_>, key: Key) {
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return };
        if entry.conn.error.is_none() {
            let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
            entry.conn.end_in_order(&mut io);
        }
        let (ends, wheel, detached) = (entry.conn.ends(), entry.wheel.take(), entry.conn.detached);
        let (listener, queued) = (entry.listener, entry.queued);
        self.forget(key, &ends, wheel);
        match listener {
            // It was never established, or its listener has it still.
            Some(listener) => {
                let gone = match self.sockets.get_mut(listener) {
                    Some(Socket::Listener(listener)) => listener.forget(queued),
                    _ => true,
                };
                if gone {
                    self.sockets.remove(key);
                }
            }
            None if detached => drop(self.sockets.remove(key)),
            // It can be tried again.
            None => self.renew(key),
        }
    }

    /// Makes a connection that never came about a fresh socket.
    fn renew(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if let Socket::Connection(entry) = socket
            && !entry.conn.established
        {
            *socket = Socket::Fresh(Box::new(Fresh {
                domain: if entry.conn.path.local().is_ipv4() { Domain::Inet } else { Domain::Inet6 },
                local: None,
                settings: entry.conn.settings.clone(),
                reuse_port: false,
            }));
            // The next connection of this socket has the same key.
            self.flows = Flows::default();
        }
    }

    fn forget(&mut self, key: Key, ends: &Ends, wheel: Option<(TimerId, Instant)>) {
        self.demux.remove(ends, key);
        if let Some((id, _)) = wheel {
            self.wheel.cancel(id);
        }
    }

    // --- ports

    fn unbind(&mut self, key: Key) {
        let port = match self.sockets.get(key) {
            Some(Socket::Fresh(fresh)) => fresh.local.map(|local| local.port()),
            Some(Socket::Listener(listener)) => Some(listener.local.port()),
            Some(Socket::Connection(_) | Socket::TimeWait(_)) | None => None,
        };
        if let Some(port) = port {
            self.listeners.remove(port, key);
        }
    }

    /// Where a socket is bound that is no connection, and whether it shares that.
    fn bound_at(&self, key: Key) -> Option<(SocketAddr, bool)> {
        match self.sockets.get(key)? {
            Socket::Fresh(fresh) => fresh.local.map(|local| (local, fresh.reuse_port)),
            Socket::Listener(listener) => Some((listener.local, listener.reuse_port)),
            Socket::Connection(_) | Socket::TimeWait(_) => None,
        }
    }

    /// Whether another socket is bound to the port at an overlapping address, and does not share it.
    fn is_bound(&self, addr: IpAddr, port: u16, shares: bool) -> bool {
        self.listeners.get(port).iter().filter_map(|key| self.bound_at(*key)).any(|(other, shared)| {
            other.is_ipv4() == addr.is_ipv4()
                && (other.ip() == addr || other.ip().is_unspecified() || addr.is_unspecified())
                && !(shares && shared)
        })
    }

    fn pick_listening_port(&self, rng: &mut fastrand::Rng, addr: IpAddr) -> Option<u16> {
        pick_port(rng, |port| self.class.has(port) && !self.is_bound(addr, port, false))
    }

    /// The listener for a call: one that names the address before one for any, and of several always the same.
    pub(super) fn listener(&self, ends: &Ends) -> Option<Key> {
        let keys = self.listeners.get(ends.local_port);
        let find = |wanted: &dyn Fn(IpAddr) -> bool| {
            let those = || {
                keys.iter().filter(|key| match self.sockets.get(**key) {
                    Some(Socket::Listener(listener)) => wanted(listener.local.ip()),
                    _ => false,
                })
            };
            let peer = SocketAddr::new(ends.remote, ends.remote_port);
            those().nth(share(peer, those().count())).copied()
        };
        find(&|local| local == ends.local)
            .or_else(|| find(&|local| local.is_unspecified() && local.is_ipv4() == ends.local.is_ipv4()))
    }

    /// Connections that there are, whatever their state.
    pub(crate) fn connections(&self) -> usize {
        self.demux.len()
    }
}

pub(super) fn peer(ends: &Ends) -> Addr {
    SocketAddr::new(ends.remote, ends.remote_port).into()
}
