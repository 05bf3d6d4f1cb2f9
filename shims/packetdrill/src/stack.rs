//! The instance, its sockets by descriptor, and what becomes of what they have asked for.
//!
//! Invariants: a socket has at most one pop and one accept outstanding, and none beyond what it may hold, so that the
//! window that the peer sees closes when nothing is read. All tokens are in `tokens`, and go when they complete.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_int;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use demi_api::config::Config;
use demi_api::op::{Completion, Done};
use demi_api::sga::SgArray;
use demi_api::time::{Clock, Instant};
use demi_api::{Addr, Demikernel, Error, QDesc, QToken, QueueKind};
use demi_c::errno::Errno;
use demi_libos_catnip::device::Wire;
use demi_libos_catnip::{Catnip, CatnipSection};
use rustix::event::{EventfdFlags, eventfd};

use crate::flags::Flags;
use crate::link::{Link, STACK};
use crate::ready::Epoll;

/// Turns without rest after which the stack is left to itself.
const TURNS: usize = 10_000;
/// Quiet turns after which it is at rest: what it does at the beginning of its next turn, it has to be given one for.
const QUIET: usize = 3;
/// Results taken at a time.
const RESULTS: usize = 64;

/// How long own addresses are tentative at the most.
const TENTATIVE: Duration = Duration::from_secs(3);

/// Bytes that a socket holds before it leaves the rest to the stack, which then shows a smaller window.
const HELD: usize = 65_536;

/// Bytes that a socket takes ahead of acknowledgements unless told otherwise.
const SEND_ROOM: usize = 4 << 20;

pub(crate) struct Stack {
    pub(crate) demi: Demikernel<Catnip>,
    pub(crate) link: Link,
    clock: Clock,
    pub(crate) is_virtual: bool,
    /// Since 1970, when the clock was zero.
    zero: Duration,
    pub(crate) files: BTreeMap<c_int, File>,
    tokens: HashMap<QToken, c_int>,
    results: Vec<Completion>,
}

/// What a descriptor stands for.
pub(crate) enum File {
    Socket(Socket),
    Epoll(Epoll),
}

pub(crate) struct Socket {
    pub(crate) qd: QDesc,
    /// What the kernel knows the socket by.
    fd: OwnedFd,
    pub(crate) kind: QueueKind,
    pub(crate) phase: Phase,
    pub(crate) nonblocking: bool,
    /// Popped, and not read yet; of a datagram socket also if it is empty.
    pub(crate) held: VecDeque<SgArray>,
    pub(crate) ended: bool,
    /// What `SO_ERROR` and the next call will tell.
    pub(crate) failure: Option<Errno>,
    pub(crate) popping: bool,
    /// Pushed, and not acknowledged yet.
    pub(crate) unacknowledged: usize,
    pushes: VecDeque<usize>,
    pub(crate) send_room: usize,
    pub(crate) shut_read: bool,
    pub(crate) accepted: VecDeque<(QDesc, Addr)>,
    /// Counts what makes it ready, for those who are told of changes only.
    pub(crate) edges: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Fresh,
    Listening,
    Connecting,
    Connected,
    Failed,
}

impl Stack {
    pub(crate) fn new(flags: &Flags) -> Result<Stack, Error> {
        let config = Config::parse(&flags.config, "--so_flags")?;
        let section = CatnipSection::load(&config)?;
        let own = section.ip.addresses.iter();
        let own: Vec<IpAddr> =
            own.filter_map(|text| text.split('/').next().and_then(|addr| addr.parse().ok())).collect();
        let wire = Wire::new();
        let device = wire.plug(STACK, flags.mtu).map_err(|errno| Error::System(errno.raw_os_error()))?;
        let link = Link::new(&wire, flags.mtu, own)?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (clock, rng) = if flags.is_virtual {
            (Clock::manual(Instant::from_nanos(1_000_000_000)), fastrand::Rng::with_seed(1))
        } else {
            (Clock::start(), fastrand::Rng::with_seed(since.as_nanos() as u64))
        };
        let zero = since.saturating_sub(clock.now().since(Instant::default()));
        let demi = Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
            Catnip::over(&setup, &section, Box::new(device), rng)
        })?;
        let mut stack = Stack {
            demi,
            link,
            clock,
            is_virtual: flags.is_virtual,
            zero,
            files: BTreeMap::new(),
            tokens: HashMap::new(),
            results: Vec::new(),
        };
        // A script begins when the stack is ready for it.
        let end = stack.now() + TENTATIVE;
        while stack.now() < end {
            stack.pump();
            match flags.is_virtual {
                true => stack.step(end),
                false => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        while stack.link.receive().is_some() {}
        Ok(stack)
    }

    // --- time

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The time since 1970. A virtual clock moves on a little, or whoever waits for it without sleeping would wait for
    /// ever.
    pub(crate) fn time_of_day(&mut self) -> Duration {
        if self.is_virtual {
            self.clock.set(self.clock.now() + Duration::from_micros(1));
        }
        self.since_1970(self.clock.now())
    }

    pub(crate) fn since_1970(&self, at: Instant) -> Duration {
        self.zero + at.since(Instant::default())
    }

    /// When the stack has to be given a turn, whatever comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.demi.next_deadline().ok().flatten()
    }

    /// Moves a virtual clock to the stack's next deadline, at most to `limit`.
    pub(crate) fn step(&mut self, limit: Instant) {
        let next = self.deadline().map_or(limit, |at| at.min(limit));
        self.clock.set(next.max(self.clock.now()));
        self.pump();
    }

    // --- turns

    /// Lets the stack work until it has nothing left to do now. False: there was nothing.
    pub(crate) fn pump(&mut self) -> bool {
        let (mut quiet, mut changed) = (0, false);
        for _ in 0..TURNS {
            let busy = self.turn();
            changed |= busy;
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == QUIET {
                break;
            }
        }
        changed
    }

    fn turn(&mut self) -> bool {
        let mut results = std::mem::take(&mut self.results);
        // It is an error that nothing is done yet, or outstanding.
        let _ = self.demi.poll();
        let _ = self.demi.wait_next_n(&mut results, RESULTS, Some(Duration::ZERO));
        let mut busy = !results.is_empty();
        for result in results.drain(..) {
            self.complete(result);
        }
        self.results = results;
        busy |= self.link.exchange(self.demi.heap(), self.clock.now());
        busy || self.deadline().is_some_and(|at| at <= self.clock.now())
    }

    fn complete(&mut self, completion: Completion) {
        let fd = self.tokens.remove(&completion.token);
        let socket = fd.and_then(|fd| match self.files.get_mut(&fd) {
            Some(File::Socket(socket)) => Some((fd, socket)),
            _ => None,
        });
        let Some((fd, socket)) = socket else {
            // Closed meanwhile: a connection that came too late for its listener goes as well.
            if let Ok(Done::Accepted { qd, .. }) = completion.result {
                let _ = self.demi.close(qd);
            }
            return;
        };
        socket.edges += 1;
        match completion.result {
            Ok(Done::Accepted { qd, peer }) => {
                socket.accepted.push_back((qd, peer));
                self.ask_accept(fd);
            }
            Ok(Done::Connected) => {
                socket.phase = Phase::Connected;
                self.ask_pop(fd);
            }
            Ok(Done::Popped(sga)) => {
                socket.popping = false;
                socket.ended |= sga.is_empty() && socket.kind == QueueKind::Stream;
                if !socket.ended {
                    socket.held.push_back(sga);
                    self.ask_pop(fd);
                }
            }
            Ok(Done::Pushed(_)) => socket.acknowledge(),
            Ok(Done::Batch(_) | Done::Flushed | Done::Moved(_) | Done::Fetched(_)) => {}
            Err(Error::Cancelled) => socket.popping = false,
            Err(error) => {
                // All that is outstanding fails with it; what is told is the first reason.
                socket.popping = false;
                socket.failure.get_or_insert(Errno::from(error));
                socket.phase = Phase::Failed;
                socket.unacknowledged = 0;
                socket.pushes.clear();
            }
        }
    }

    // --- descriptors

    /// Gives a queue a descriptor.
    pub(crate) fn add(
        &mut self,
        qd: QDesc,
        kind: QueueKind,
        phase: Phase,
        nonblocking: bool,
    ) -> Result<c_int, Errno> {
        let fd = new_fd()?;
        let number = fd.as_raw_fd();
        let socket = Socket {
            qd,
            fd,
            kind,
            phase,
            nonblocking,
            held: VecDeque::new(),
            ended: false,
            failure: None,
            popping: false,
            unacknowledged: 0,
            pushes: VecDeque::new(),
            send_room: SEND_ROOM,
            shut_read: false,
            accepted: VecDeque::new(),
            edges: 0,
        };
        self.insert(number, File::Socket(socket));
        Ok(number)
    }

    /// Whoever had the number before was closed without telling.
    pub(crate) fn insert(&mut self, number: c_int, file: File) {
        let Some(gone) = self.files.insert(number, file) else { return };
        if let File::Socket(socket) = &gone {
            // It may have failed since, and be gone already.
            let _ = self.demi.close(socket.qd);
        }
        gone.let_go();
    }

    pub(crate) fn socket(&mut self, fd: c_int) -> Result<&mut Socket, Errno> {
        match self.files.get_mut(&fd) {
            Some(File::Socket(socket)) => Ok(socket),
            Some(File::Epoll(_)) => Err(Errno(libc::ENOTSOCK)),
            None => Err(Errno(libc::EBADF)),
        }
    }

    /// Notes whose operation a token is.
    pub(crate) fn note(&mut self, token: QToken, fd: c_int) {
        self.tokens.insert(token, fd);
    }

    /// Asks for the next element, unless enough is held, or none is to come.
    pub(crate) fn ask_pop(&mut self, fd: c_int) {
        let demi = self.demi.clone();
        let Ok(socket) = self.socket(fd) else { return };
        let is_due = !socket.popping && socket.held_len() < HELD && !socket.ended && !socket.shut_read;
        let is_open = socket.phase == Phase::Connected || socket.kind == QueueKind::Message;
        if !is_due || !is_open {
            return;
        }
        match demi.pop(socket.qd) {
            Ok(token) => {
                socket.popping = true;
                self.note(token, fd);
            }
            Err(error) => socket.failure = Some(Errno::from(error)),
        }
    }

    pub(crate) fn ask_accept(&mut self, fd: c_int) {
        let demi = self.demi.clone();
        let Ok(socket) = self.socket(fd) else { return };
        match demi.accept(socket.qd) {
            Ok(token) => self.note(token, fd),
            Err(error) => socket.failure = Some(Errno::from(error)),
        }
    }
}

impl Drop for Stack {
    /// What is not closed by now belongs to packetdrill, which closes it without telling.
    fn drop(&mut self) {
        std::mem::take(&mut self.files).into_values().for_each(File::let_go);
    }
}

impl File {
    /// Drops it without its descriptor.
    fn let_go(self) {
        let _ = match self {
            File::Socket(socket) => socket.fd.into_raw_fd(),
            File::Epoll(epoll) => epoll.fd.into_raw_fd(),
        };
    }
}

impl Socket {
    /// Bytes that can be read now.
    pub(crate) fn held_len(&self) -> usize {
        self.held.iter().map(|held| held.len().max(1)).sum()
    }

    pub(crate) fn pushed(&mut self, len: usize) {
        self.pushes.push_back(len);
        self.unacknowledged += len;
    }

    /// Pushes complete in order.
    fn acknowledge(&mut self) {
        self.unacknowledged -= self.pushes.pop_front().unwrap_or(0);
    }
}

/// A descriptor that the kernel knows and that is never ready.
pub(crate) fn new_fd() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|errno| Errno(errno.raw_os_error()))
}
