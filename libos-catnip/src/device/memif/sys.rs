//! System calls of the device: the control socket, eventfds, epoll.
//!
//! Invariants: no call blocks, whatever a peer does to the descriptors that it shares with us. Every call goes to the
//! kernel directly, never through symbols of the C library that a preload shim replaces.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::protocol::{MESSAGE_BYTES, Malformed, Message};

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What an errno says to whoever opens a device.
#[cold]
pub(super) fn translate(errno: Errno) -> Error {
    match errno {
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied,
        Errno::ADDRINUSE => Error::AddressInUse,
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        Errno::NOMEM | Errno::NOBUFS => Error::NoBuffers,
        Errno::NOENT | Errno::NOTDIR => Error::NotFound,
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace,
        Errno::ROFS => Error::ReadOnly,
        other => Error::System(other.raw_os_error()),
    }
}

/// The socket that a server listens on. Dropping it removes the file, if it is still this socket's.
#[derive(Debug)]
pub(super) struct Listener {
    fd: Fd,
    file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: std::path::PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path`. A socket file that nobody listens at is removed first. Of two servers that find one at the same
    /// moment, the later may remove the earlier's new file; clients then reach the later one.
    pub(super) fn bind(path: &Path) -> Result<Listener, Error> {
        let addr = address(path)?;
        let fd = socket()?;
        match rustix::net::bind(&fd, &addr) {
            Err(Errno::ADDRINUSE) if is_stale(path, &addr) => {
                rustix::fs::unlink(path).map_err(translate)?;
                rustix::net::bind(&fd, &addr).map_err(translate)?;
            }
            bound => bound.map_err(translate)?,
        }
        let file = if is_abstract(path) { None } else { identity(path) };
        let file = file.map(|identity| SocketFile { path: path.to_owned(), identity });
        let listener = Listener { fd, file };
        rustix::net::listen(&listener.fd, 8).map_err(translate)?;
        Ok(listener)
    }

    /// The next connection; `Ok(None)` if there is none now.
    pub(super) fn accept(&self) -> rustix::io::Result<Option<Fd>> {
        match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && identity(&file.path) == Some(file.identity)
        {
            // A file that stays behind does no harm: the next server finds it stale.
            let _ = rustix::fs::unlink(&file.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::lstat(path).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some((stat.st_dev, stat.st_ino))
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"@")
}

/// A socket file whose listener is gone refuses connections. Of a file of another kind nothing is known.
fn is_stale(path: &Path, addr: &SocketAddrUnix) -> bool {
    let Ok(probe) = socket() else { return false };
    identity(path).is_some() && rustix::net::connect(&probe, addr) == Err(Errno::CONNREFUSED)
}

fn address(path: &Path) -> Result<SocketAddrUnix, Error> {
    let bytes = path.as_os_str().as_bytes();
    let addr = match bytes.split_first() {
        Some((b'@', name)) => SocketAddrUnix::new_abstract_name(name),
        _ => SocketAddrUnix::new(path),
    };
    addr.map_err(|_| Error::Invalid("memif socket path: give one of at most 107 bytes without a zero"))
}

fn socket() -> Result<Fd, Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    socket.map(Fd::from).map_err(translate)
}

/// Checks a path without using it.
pub(super) fn check_path(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid("memif socket path: it is empty"));
    }
    address(path).map(drop)
}

/// Connects to a server, if one listens and has room now.
pub(super) fn connect(path: &Path) -> Option<Fd> {
    let fd = socket().ok()?;
    rustix::net::connect(&fd, &address(path).ok()?).ok()?;
    Some(fd)
}

/// Sends a message, with at most one descriptor. False: the peer is gone, or does not read.
pub(super) fn send(socket: &Fd, message: &Message, attached: Option<BorrowedFd<'_>>) -> bool {
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = attached.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)
    });
    sent == Ok(MESSAGE_BYTES)
}

/// What a look at the control socket yields.
#[derive(Debug)]
pub(super) enum Received {
    Nothing,
    Closed,
    Message(Message, Option<Fd>),
    Malformed(&'static str),
}

/// The next message. Descriptors beyond the first are closed.
pub(super) fn receive(socket: &Fd) -> Received {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
    });
    let received = match received {
        Ok(received) => received,
        Err(Errno::AGAIN) => return Received::Nothing,
        Err(_) => return Received::Closed,
    };
    let mut attached = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                attached = attached.or(Some(Fd::from(fd)));
            }
        }
    }
    if received.bytes == 0 {
        return Received::Closed;
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Received::Malformed("Invalid message size");
    }
    match Message::decode(&bytes[..received.bytes]) {
        Ok(message) => Received::Message(message, attached),
        Err(Malformed(what)) => Received::Malformed(what),
    }
}

/// An eventfd of a ring: who fills the ring writes it, who empties it sleeps on it.
#[derive(Debug)]
pub(super) struct Interrupt(Fd);

impl Interrupt {
    pub(super) fn new() -> rustix::io::Result<Interrupt> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(|fd| Interrupt(fd.into()))
    }

    /// Takes a descriptor from a peer, if it is an eventfd as far as can be told: on the file system of anonymous inodes
    /// (as eventfds are, and nothing that a write could block on for good), and readable without blocking.
    pub(super) fn adopt(fd: Fd) -> Option<Interrupt> {
        let own = Interrupt::new().and_then(|own| rustix::fs::fstat(&own.0)).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        let candidate = Interrupt(fd);
        (stat.st_dev == own.st_dev && candidate.drain()).then_some(candidate)
    }

    /// Wakes the peer. The peer shares the descriptor's flags, so `O_NONBLOCK` cannot be relied on: without room in
    /// the counter nothing is written, for then the peer has been woken already.
    pub(super) fn signal(&self) {
        let mut ready = [PollFd::new(&self.0, PollFlags::OUT)];
        if poll(&mut ready, Some(&NOW)) == Ok(1) && ready[0].revents().contains(PollFlags::OUT) {
            // What is left to fail is a peer that fills the counter in between; it wakes itself by that.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }
    }

    /// Makes it unreadable until the next signal. False: it cannot be read without a risk to block.
    pub(super) fn drain(&self) -> bool {
        let mut count = [0; 8];
        // Not by `read`: the peer may have cleared `O_NONBLOCK` and have emptied the counter itself. Since Linux 5.8.
        let read = rustix::io::preadv2(
            &self.0,
            &mut [IoSliceMut::new(&mut count)],
            u64::MAX,
            ReadWriteFlags::NOWAIT,
        );
        matches!(read, Ok(8) | Err(Errno::AGAIN | Errno::INTR))
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the device waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Listener,
    Control,
    Interrupt,
}

impl Source {
    const ALL: [Source; 3] = [Source::Listener, Source::Control, Source::Interrupt];
}

/// The device's epoll instance: level-triggered, with at most one descriptor of each [`Source`].
#[derive(Debug)]
pub(super) struct Epoll(Fd);

impl Epoll {
    pub(super) fn new() -> rustix::io::Result<Epoll> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(|fd| Epoll(fd.into()))
    }

    pub(super) fn add(&self, fd: impl AsFd, source: Source) -> rustix::io::Result<()> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(source as u64), epoll::EventFlags::IN)
    }

    /// Takes a descriptor out. Closing would not do while a peer has it too.
    pub(super) fn delete(&self, fd: impl AsFd) {
        // It is registered: the only failures left are of a descriptor that is not.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Which sources are readable now.
    pub(super) fn ready(&self) -> arrayvec::ArrayVec<Source, 3> {
        let blank = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [blank; Source::ALL.len()];
        let count = epoll::wait(&self.0, &mut events[..], Some(&NOW)).unwrap_or(0);
        let known = |event: &epoll::Event| {
            let number = event.data.u64();
            Source::ALL.into_iter().find(|&source| source as u64 == number)
        };
        events[..count].iter().filter_map(known).collect()
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
