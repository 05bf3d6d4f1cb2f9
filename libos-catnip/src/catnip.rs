//! The libOS as the API sees it: descriptors above, frames below, and one turn that carries them.

mod handover;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::{Cx, LibOs, OptionName, QueueKind, SeekTo, Setup, Shutdown, SocketOption};
use demi_api::op::{Done, Op, Position, Step};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::config::CatnipSection;
use crate::device::{BURST, DeviceCx, Frame, KEPT, Queue as Device};
use crate::flow::Flow;
use crate::ip::{About, ETHERNET, Ip, Received};
use crate::siblings::Siblings;
use crate::tcp::{self, Env, Tcp};
use crate::udp::{self, Udp};

/// Packets of the instance to itself, and errors, that are taken up in one turn.
const INTERNAL_PER_TURN: usize = 64;

/// Where the number of the transport protocol is in a frame, if it is of IPv4.
const PROTOCOL: usize = ETHERNET + 9;

/// More bursts that are received before timers are served.
const BURSTS_BEFORE_TIMERS: usize = 16;

/// The network libOS. See the [crate's documentation](crate).
pub struct Catnip {
    queues: QueueTable<Queue>,
    tcp: Tcp,
    udp: Udp,
    ip: Ip,
    device: Box<dyn Device>,
    /// Other instances on the same interface, if it is shared.
    siblings: Option<Box<Siblings>>,
    inbox: Vec<Frame>,
    max_queues: usize,
}

/// What a descriptor names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Queue {
    Stream(Key),
    Datagram(Key),
}

impl Catnip {
    /// A stack over a device that the caller has made: for tests and simulations, and for devices that are not in the
    /// configuration.
    pub fn over(
        setup: &Setup<'_>,
        section: &CatnipSection,
        device: Box<dyn Device>,
        rng: &mut fastrand::Rng,
    ) -> Result<Catnip, Error> {
        // Before anything else has taken the last of it.
        setup.heap.set_aside(KEPT)?;
        let max_queues = setup.config.queues.max;
        let linger = Duration::from_millis(setup.config.queues.linger_ms);
        let defaults = tcp::defaults(true, section.send_buffer, section.recv_buffer);
        Ok(Catnip {
            queues: QueueTable::new(setup.tag, max_queues),
            tcp: Tcp::new(rng, Instant::default(), defaults, section.policy(linger)),
            udp: Udp::new(section.datagram_buffer),
            ip: Ip::new(&section.ip, device.caps(), rng)?,
            device,
            siblings: None,
            inbox: Vec::with_capacity(BURST),
            max_queues,
        })
    }

    /// Hands what is to be sent to the device.
    #[inline]
    fn flush(&mut self, cx: &Cx<'_>) -> usize {
        if self.ip.outbox.is_empty() {
            return 0;
        }
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        self.device.tx_burst(&device_cx, &mut self.ip.outbox)
    }

    #[inline(never)]
    fn start_datagram(
        &mut self,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let step = self.udp.start(cx, &mut self.ip, token, key, op);
        self.flush(cx);
        step
    }

    #[inline(never)]
    fn start_stream(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key, op: &mut Op) -> Result<Step, Error> {
        let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
        match op {
            Op::Push { sga, to: None } => {
                let done = self.tcp.push(&mut env, token, key, sga);
                self.flush(cx);
                Ok(match done? {
                    Some(Ok(())) => Step::Done(Ok(Done::Pushed(Position(0)))),
                    Some(Err(error)) => Step::Done(Err(error)),
                    None => Step::Pending,
                })
            }
            Op::Pop { limit } => {
                let done = self.tcp.pop(&mut env, token, key, *limit);
                self.flush(cx);
                Ok(match done? {
                    Some(Ok(sga)) => Step::Done(Ok(Done::Popped(sga))),
                    Some(Err(error)) => Step::Done(Err(error)),
                    None => Step::Pending,
                })
            }
            _ => {
                let step = self.tcp.start(&mut env, token, key, op);
                self.flush(cx);
                step
            }
        }
    }

    #[inline(never)]
    fn receive(&mut self, cx: &mut Cx<'_>) -> usize {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        self.device.rx_burst(&device_cx, &mut self.inbox);
        self.take_in(cx)
    }

    /// Takes the frames of the inbox. Returns how many there were.
    #[inline(always)]
    fn take_in(&mut self, cx: &mut Cx<'_>) -> usize {
        let count = self.inbox.len();
        // From the last on, so that none has to be moved up: mostly there is but one.
        if self.inbox.len() > 1 {
            self.inbox.reverse();
        }
        while let Some(mut frame) = self.inbox.pop() {
            if !self.receive_known(cx, &mut frame) {
                self.receive_other(cx, frame);
            } else if frame.data.is_vacant() {
                // There is nothing in it to drop, and finding that out again would cost more.
                std::mem::forget(frame);
            }
        }
        count
    }

    /// Takes a frame, if it is the next of a known flow. False: nothing was done.
    #[inline(always)]
    fn receive_known(&mut self, cx: &mut Cx<'_>, frame: &mut Frame) -> bool {
        let Some(only) = frame.data.single() else { return false };
        let datagram = only.get(PROTOCOL) == Some(&udp::PROTOCOL);
        if datagram {
            return self.udp.receive_known(cx, &mut self.ip, &mut frame.data, frame.checksum);
        }
        let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
        self.tcp.receive_known(&mut env, &mut frame.data, frame.checksum)
    }

    /// Serves TCP's timers, after so much was received.
    #[cold]
    #[inline(never)]
    fn run_timers(&mut self, cx: &mut Cx<'_>, mut received: usize) -> usize {
        let mut done = 0;
        // An application that was away for long finds what it waited for behind much else.
        for _ in 0..BURSTS_BEFORE_TIMERS {
            if received < BURST {
                break;
            }
            received = self.receive(cx);
            done += received;
        }
        let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
        done + self.tcp.run_timers(&mut env)
    }

    /// Takes up what came of this instance's own packets. Returns how much.
    #[inline(never)]
    fn take_up_internal(&mut self, cx: &mut Cx<'_>) -> usize {
        for done in 0..INTERNAL_PER_TURN {
            if !self.ip.has_internal() {
                return done;
            }
            let received = self.ip.next(cx);
            self.dispatch(cx, received);
        }
        INTERNAL_PER_TURN
    }

    /// Takes a frame that is not the next of a known flow.
    #[inline(never)]
    fn receive_other(&mut self, cx: &mut Cx<'_>, mut frame: Frame) {
        let flow = Flow::of_frame(&frame, self.ip.epoch());
        match self.ip.receive_ordinary(&mut frame) {
            Some(about) => {
                let (protocol, local, remote) = (about.protocol, about.local, about.remote);
                self.deliver(cx, about, &mut frame.data);
                match (protocol, &flow) {
                    (tcp::PROTOCOL, Some(flow)) => self.tcp.note_flow(flow, local, remote),
                    (udp::PROTOCOL, Some(flow)) => self.udp.note_flow(flow, local, remote),
                    _ => {}
                }
            }
            None => {
                self.tell_of_frame(&frame);
                let received = self.ip.receive(cx, frame);
                self.tell_of_problem(&received);
                self.dispatch(cx, received);
            }
        }
    }

    /// Gives a packet's content to the transport protocol that it is for, here or with a sibling.
    #[inline]
    fn deliver(&mut self, cx: &mut Cx<'_>, about: About, data: &mut SgArray) {
        if self.siblings.is_none() || !self.pass_on(cx, None, &about, data) {
            self.deliver_here(cx, about, data);
        }
    }

    #[inline]
    fn deliver_here(&mut self, cx: &mut Cx<'_>, about: About, data: &mut SgArray) {
        match about.protocol {
            tcp::PROTOCOL => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.receive(&mut env, about, data);
            }
            // The IP layer has refused those of other protocols.
            _ => self.udp.receive(cx, &mut self.ip, about, data),
        }
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, received: Received) {
        match received {
            Received::Nothing => {}
            Received::Transport(mut datagram) => self.deliver(cx, datagram.about(), &mut datagram.data),
            Received::Problem(problem) if problem.protocol == tcp::PROTOCOL => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.problem(&mut env, &problem);
            }
            Received::Problem(problem) => self.udp.problem(cx, &mut self.ip, &problem),
        }
    }
}

impl LibOs for Catnip {
    const NAME: &'static str = "catnip";

    fn create(setup: Setup<'_>) -> Result<Catnip, Error> {
        let section = CatnipSection::load(setup.config)?;
        let (device, siblings) = section.open_among_others(setup.heap)?;
        // What strangers must not guess comes from this: RFC 6528 §3. By itself the generator would begin with the time.
        let mut seed = [0; 8];
        let flags = rustix::rand::GetRandomFlags::empty();
        let random = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut seed, flags));
        random.map_err(|errno| Error::System(errno.raw_os_error()))?;
        let mut rng = fastrand::Rng::with_seed(u64::from_ne_bytes(seed));
        let mut catnip = Catnip::over(&setup, &section, device, &mut rng)?;
        if let Some(siblings) = siblings {
            let class = siblings.ports();
            catnip.tcp.choose_from(class.clone());
            catnip.udp.choose_from(class);
            catnip.siblings = Some(siblings);
        }
        Ok(catnip)
    }

    fn socket(&mut self, _cx: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        if domain == Domain::Unix {
            return Err(Error::NotSupported("UNIX sockets: catnip speaks to networks; use catnap"));
        }
        if self.queues.len() >= self.max_queues {
            return Err(Error::TooManyQueues(self.max_queues));
        }
        self.queues.insert(match kind {
            SocketKind::Stream => Queue::Stream(self.tcp.socket(domain)),
            SocketKind::Datagram => Queue::Datagram(self.udp.socket(domain)),
        })
    }

    fn bind(&mut self, cx: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        let addr = addr.inet().ok_or(Error::BadAddress)?;
        match *self.queues.get(qd)? {
            Queue::Stream(key) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.bind(&mut env, key, addr)
            }
            Queue::Datagram(key) => self.udp.bind(cx.rng, &self.ip, key, addr),
        }
    }

    fn listen(&mut self, _cx: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.tcp.listen(key, backlog),
            Queue::Datagram(_) => Err(Error::NotSupported("listen on a datagram socket")),
        }
    }

    fn seek(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _to: SeekTo) -> Result<Position, Error> {
        self.queues.get(qd)?;
        Err(Error::NotSupported("seek on a socket"))
    }

    fn truncate(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _position: Position) -> Result<(), Error> {
        self.queues.get(qd)?;
        Err(Error::NotSupported("truncate of a socket"))
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.shutdown(&mut env, key, how)?;
                self.flush(cx);
                Ok(())
            }
            Queue::Datagram(_) => Err(Error::NotSupported("shutdown of a datagram socket")),
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        match self.queues.remove(qd)? {
            Queue::Stream(key) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.close(&mut env, key);
                self.flush(cx);
            }
            Queue::Datagram(key) => self.udp.close(cx, key),
        }
        Ok(())
    }

    fn set_option(&mut self, cx: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.set_option(&mut env, key, option)
            }
            Queue::Datagram(key) => self.udp.set_option(key, option),
        }
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.tcp.option(key, name),
            Queue::Datagram(key) => self.udp.option(key, name),
        }
    }

    fn socket_error(&self, qd: QDesc) -> Result<Option<Error>, Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.tcp.error(key),
            Queue::Datagram(key) => self.udp.error(key),
        }
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.tcp.local_addr(key),
            Queue::Datagram(key) => self.udp.local_addr(key),
        }
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.tcp.peer_addr(key),
            Queue::Datagram(key) => self.udp.peer_addr(key),
        }
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        Ok(match *self.queues.get(qd)? {
            Queue::Stream(_) => QueueKind::Stream,
            Queue::Datagram(_) => QueueKind::Message,
        })
    }

    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        // What an operator hands down has not been tried by the short ways yet.
        if let Op::Push { sga, to } = op
            && self.push_now(cx, qd, sga, to.as_ref())
        {
            return Ok(Step::Done(Ok(Done::Pushed(Position(0)))));
        }
        if matches!(op, Op::Pop { limit: usize::MAX }) && self.pop_later(token, qd) {
            return Ok(Step::Pending);
        }
        match *self.queues.get(qd)? {
            Queue::Stream(key) => self.start_stream(cx, token, key, op),
            Queue::Datagram(key) => self.start_datagram(cx, token, key, op),
        }
    }

    #[inline(always)]
    fn push_now(&mut self, cx: &mut Cx<'_>, qd: QDesc, sga: &mut SgArray, to: Option<&Addr>) -> bool {
        let Ok(queue) = self.queues.get(qd) else { return false };
        match (*queue, to) {
            (Queue::Stream(key), None) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.push_brief(&mut env, key, sga, &mut *self.device)
            }
            (Queue::Stream(_), Some(_)) => false,
            (Queue::Datagram(key), to) => {
                self.udp.push_brief(cx, &mut self.ip, &mut *self.device, key, sga, to)
            }
        }
    }

    #[inline(always)]
    fn pop_later(&mut self, token: QToken, qd: QDesc) -> bool {
        match self.queues.get(qd) {
            Ok(Queue::Stream(key)) => self.tcp.pop_later(token, *key, usize::MAX),
            Ok(Queue::Datagram(key)) => self.udp.pop_later(token, *key),
            Err(_) => false,
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        match self.queues.get(qd).copied() {
            Ok(Queue::Stream(key)) => {
                let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
                self.tcp.cancel(&mut env, token, key)
            }
            Ok(Queue::Datagram(key)) => self.udp.cancel(cx, token, key),
            // Only pushes outlive their descriptor, and those are on their way.
            Err(_) => Err(Error::NotCancellable),
        }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut env = Env { cx, ip: &mut self.ip, queues: &mut self.queues };
        let mut done = self.tcp.poll(&mut env);
        let received = self.receive(cx);
        done += received;
        if self.tcp.is_due(cx.now) {
            done += self.run_timers(cx, received);
        }
        done += self.ip.poll(cx);
        if self.ip.has_internal() {
            done += self.take_up_internal(cx);
        }
        if self.siblings.is_some() {
            done += self.serve_siblings(cx);
        }
        done += self.flush(cx);
        self.device.reclaim();
        done
    }

    fn next_deadline(&self) -> Option<Instant> {
        let siblings = self.siblings.as_ref().and_then(|siblings| siblings.next_deadline());
        let all = [self.tcp.next_deadline(), self.ip.next_deadline(), self.device.next_deadline(), siblings];
        all.into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        match &self.siblings {
            Some(siblings) => siblings.as_fd(),
            None => self.device.wait_fd(),
        }
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        self.flush(cx);
        if !self.tcp.is_quiet() || self.ip.has_internal() {
            return false;
        }
        if let Some(siblings) = &mut self.siblings {
            siblings.arm();
        }
        self.device.arm(&DeviceCx { heap: cx.heap, now: cx.now })
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.tcp.counters.visit(visit);
        visit("tcp_connections", self.tcp.connections() as u64);
        self.udp.counters(visit);
        self.ip.counters(visit);
        if let Some(siblings) = &self.siblings {
            siblings.counters(visit);
        }
        self.device.counters(visit);
    }
}

impl std::fmt::Debug for Catnip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catnip {{ connections: {} }}", self.tcp.connections())
    }
}
