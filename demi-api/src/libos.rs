//! The seam between the API and what backs it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use demi_memalloc::Heap;

use crate::addr::{Addr, Domain, SocketKind};
use crate::config::Config;
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::op::{Op, Position, Step};
use crate::sga::SgArray;
use crate::tcp_info::TcpInfo;
use crate::time::Instant;
use crate::token::{Completions, QToken};

/// What every call into a libOS may use. Time and randomness come in here and from nowhere else.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The instance's heap.
    pub heap: &'a Heap,
    /// The time at the last turn of the wait loop.
    pub now: Instant,
    /// Seeded by the operating system, or by a simulation.
    pub rng: &'a mut fastrand::Rng,
    /// Where finished operations are posted.
    pub done: &'a mut Completions,
}

/// What a call into a device may use.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCx<'a> {
    /// The instance's heap.
    pub heap: &'a Heap,
    /// The time at the last turn of the wait loop.
    pub now: Instant,
}

/// What a libOS is made from.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The whole configuration; a libOS reads its own section with [`Config::section`].
    pub config: &'a Config,
    /// The instance's heap, to be registered with devices.
    pub heap: &'a Heap,
    /// The tag for the libOS's [`crate::desc::QueueTable`].
    pub tag: Tag,
}

/// One backing of the API: its queues, its protocols, its devices.
///
/// The libOS owns all state and names it by descriptors. Nothing is awaited inside: an operation is
/// either done when [`start`](LibOs::start) returns, or posted under its token, by that call or by a later one of any
/// kind, exactly once. Pushes on one queue complete in the order in which they were started.
///
/// Control calls are synchronous. Those that a libOS has no use for keep their default, which refuses.
///
/// Dropping a libOS stops its devices and waits, within a bound, until they have let go of the heap; memory that
/// a device does not give back by then is leaked, never freed. For this it keeps a handle of the heap.
pub trait LibOs: Sized {
    /// Its name, as in binaries, libraries and configuration sections.
    const NAME: &'static str;

    /// Sets up. Fails with a text that says what to change.
    fn create(setup: Setup<'_>) -> Result<Self, Error>;

    /// A new socket.
    fn socket(&mut self, _cx: &mut Cx<'_>, _domain: Domain, _kind: SocketKind) -> Result<QDesc, Error> {
        Err(Error::NotSupported("this libOS has no sockets"))
    }

    /// Takes over a socket of the kernel, in whatever state it is.
    fn adopt(&mut self, _cx: &mut Cx<'_>, _socket: OwnedFd) -> Result<QDesc, Error> {
        Err(Error::NotSupported("sockets of the kernel: this libOS passes the kernel by"))
    }

    /// Gives a socket its local address; port 0 picks an ephemeral one.
    fn bind(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _addr: &Addr) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("bind"))
    }

    /// Makes a bound stream socket accept connections, at most `backlog` of them waiting.
    fn listen(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _backlog: u32) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("listen"))
    }

    /// Opens a file, a log or a region of memory.
    fn open(&mut self, _cx: &mut Cx<'_>, _path: &Path, _options: &OpenOptions) -> Result<QDesc, Error> {
        Err(Error::NotSupported("this libOS has no files"))
    }

    /// Moves the read cursor of a file or log; returns where it is now.
    fn seek(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _to: SeekTo) -> Result<Position, Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("seek"))
    }

    /// Discards what lies at and behind `position`.
    fn truncate(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _position: Position) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("truncate"))
    }

    /// Discards what lies before `position`, so that its space can be used again.
    fn discard(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _position: Position) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("discard"))
    }

    /// Removes a file or log.
    fn unlink(&mut self, _cx: &mut Cx<'_>, _path: &Path) -> Result<(), Error> {
        Err(Error::NotSupported("this libOS has no files"))
    }

    /// Names the logs that there are, in no particular order.
    fn list(&self, _visit: &mut dyn FnMut(&Path)) -> Result<(), Error> {
        Err(Error::NotSupported("this libOS has no logs to list"))
    }

    /// Ends one direction of a connection. What was pushed before a shut-down of the sending side is still sent.
    fn shutdown(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _how: Shutdown) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("shutdown"))
    }

    /// Closes. The descriptor is gone at once; outstanding pops, accepts and connects are posted as
    /// [`Error::Cancelled`], pushes later with their true fate, within the linger time.
    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error>;

    /// Sets a socket option.
    fn set_option(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _option: SocketOption) -> Result<(), Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("set_option"))
    }

    /// Reads a socket option back.
    fn option(&self, qd: QDesc, _name: OptionName) -> Result<SocketOption, Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("option"))
    }

    /// What a socket has failed with, if that was not told by an operation. A connection that is lost may have the error that it
    /// is lost by for as long as it is open.
    fn socket_error(&self, qd: QDesc) -> Result<Option<Error>, Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("socket_error"))
    }

    /// The local address of a socket.
    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("local_addr"))
    }

    /// The address of a connected socket's peer.
    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.kind(qd)?;
        Err(Error::NotSupported("peer_addr"))
    }

    /// Whether the queue keeps message boundaries. Also the check that a descriptor is open.
    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error>;

    /// Begins an operation. What is done on the spot is returned, and must be exactly what `poll` would have
    /// posted: both come from the same place in a sound libOS.
    ///
    /// On `Err` nothing was begun and `op` is as it was. On [`Step::Pending`] the libOS has taken out of `op`
    /// what it needs and posts `token` exactly once, now or later.
    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error>;

    /// Carries out a push on `qd` at once, as [`start`](LibOs::start) would, and by a shorter way. False: it has to wait, it
    /// fails, or there is a question about it, and nothing was done: `start` knows. True: it is done, the array is vacant,
    /// and its position is zero.
    #[inline]
    fn push_now(&mut self, _cx: &mut Cx<'_>, _qd: QDesc, _sga: &mut SgArray, _to: Option<&Addr>) -> bool {
        false
    }

    /// Begins a pop of `qd` that has to wait, as [`start`](LibOs::start) would, and by a shorter way. False: it need not
    /// wait, or there is a question about it, and nothing was done: `start` knows.
    #[inline]
    fn pop_later(&mut self, _token: QToken, _qd: QDesc) -> bool {
        false
    }

    /// Recalls a pending operation of `qd`: on `Ok` the token has been posted as [`Error::Cancelled`] and no
    /// element was lost. [`Error::NotCancellable`] where it is too late. Buffers that a device holds outlive
    /// their token.
    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error>;

    /// One bounded turn: timers, received packets, state machines, run to completion. Returns how much was
    /// done: zero tells the wait loop that it may look for sleep.
    fn poll(&mut self, cx: &mut Cx<'_>) -> usize;

    /// When `poll` must be called at the latest, device or no device: the next timer, and the reclaiming of what
    /// a device has transmitted, if it does not signal that.
    fn next_deadline(&self) -> Option<Instant>;

    /// A descriptor that polls readable when a sleeping instance has work. It stays the same and stays open
    /// for as long as the libOS lives.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Prepares for sleep on [`wait_fd`](LibOs::wait_fd): hands the device what is due, enables notification, then
    /// looks again. False: there is work already, do not sleep. What it finds done it may also post.
    fn arm(&mut self, cx: &mut Cx<'_>) -> bool;

    /// Names and values of its counters.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// Whether a path names a region of memory: one that a libOS over RDMA has, here or at another instance.
pub fn names_region(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(b"rdma://")
}

/// Whether a queue keeps the boundaries of what was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueKind {
    /// An array pops as exactly the array that was pushed.
    Message,
    /// Bytes in order, cut anywhere.
    Stream,
}

/// Which direction of a connection to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// No more pops.
    Read,
    /// No more pushes: the peer sees the end of the stream.
    Write,
    /// Neither.
    Both,
}

/// Where to set a read cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekTo {
    /// A position that a push returned, or a byte offset of a file.
    Position(Position),
    /// The oldest element.
    Head,
    /// Behind the newest.
    End,
}

/// How to open a file or log. Pushes append; pops read at a cursor that starts at the head.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Make it if it does not exist.
    pub create: bool,
    /// With `create`: fail if it exists.
    pub exclusive: bool,
    /// Discard its content.
    pub truncate: bool,
    /// Refuse pushes.
    pub read_only: bool,
    /// Complete a push only when its bytes are durable; otherwise when they are written.
    pub durable: bool,
    /// Permission bits of a new file; `0o644` if `None`. The process's umask applies.
    pub mode: Option<u32>,
}

/// A socket option with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "figures of a connection are asked for seldom")]
pub enum SocketOption {
    /// How long `close` goes on delivering what was pushed; `None`: the configured default.
    Linger(Option<Duration>),
    /// Probe idle connections.
    KeepAlive(bool),
    /// Idle time before the first probe.
    KeepIdle(Duration),
    /// Time between probes.
    KeepInterval(Duration),
    /// Unanswered probes before the connection is given up.
    KeepCount(u32),
    /// Bind although connections on the address linger.
    ReuseAddr(bool),
    /// Several sockets on one address.
    ReusePort(bool),
    /// Send buffer, bytes.
    SendBuffer(usize),
    /// Receive buffer, bytes.
    RecvBuffer(usize),
    /// Send small segments at once (no Nagle).
    NoDelay(bool),
    /// Maximum segment size, bytes.
    MaxSegment(u32),
    /// How long sent data may stay unacknowledged (RFC 5482); zero: the system's default.
    UserTimeout(Duration),
    /// Send datagrams to broadcast addresses.
    Broadcast(bool),
    /// To be read only: figures of a connection.
    TcpInfo(TcpInfo),
}

/// Which option to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is described at the option of the same name")]
pub enum OptionName {
    Linger,
    KeepAlive,
    KeepIdle,
    KeepInterval,
    KeepCount,
    ReuseAddr,
    ReusePort,
    SendBuffer,
    RecvBuffer,
    NoDelay,
    MaxSegment,
    UserTimeout,
    Broadcast,
    TcpInfo,
}
