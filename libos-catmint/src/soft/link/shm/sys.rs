//! System calls of the link: control sockets, epoll, barriers.
//!
//! Invariants: no call blocks, whatever a peer does to the descriptors that it shares with us. Every call goes to the
//! kernel directly, never through symbols of the C library that a preload shim replaces.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::event::{Timespec, epoll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{MembarrierCommand, membarrier};

use super::greeting::GREETING_BYTES;

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

/// The process that something was made in: what a child of fork inherits is still its parent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner(Pid);

impl Owner {
    pub(crate) fn me() -> Owner {
        Owner(rustix::process::getpid())
    }

    pub(crate) fn is_me(self) -> bool {
        Owner::me() == self
    }
}

/// Has this process take part in others' [`barrier`]s. False: it cannot.
pub(super) fn join_barriers() -> bool {
    membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
        && membarrier(MembarrierCommand::GlobalExpedited).is_ok()
}

/// A full barrier of this thread, and of every thread of those who take part that runs now.
pub(super) fn barrier() {
    // The kernel can do it, as it could when this process joined.
    let _ = membarrier(MembarrierCommand::GlobalExpedited);
}

/// The socket that a device listens on. Dropping it removes the file, if it is still this socket's.
#[derive(Debug)]
pub(super) struct Listener {
    fd: Fd,
    file: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
    owner: Owner,
}

impl Listener {
    /// Listens at `file`, in a directory that is made if need be, for this user alone. A socket file that nobody listens at is
    /// removed first.
    pub(super) fn bind(file: &Path) -> Result<Listener, Error> {
        let addr = address(file)?;
        if let Some(directory) = file.parent() {
            make_directory(directory)?;
        }
        let fd = socket().map_err(translate)?;
        match rustix::net::bind(&fd, &addr) {
            Err(Errno::ADDRINUSE) if is_stale(file, &addr) => {
                rustix::fs::unlink(file).map_err(translate)?;
                rustix::net::bind(&fd, &addr).map_err(translate)?;
            }
            bound => bound.map_err(translate)?,
        }
        let listener = Listener { fd, file: file.to_owned(), identity: identity(file), owner: Owner::me() };
        rustix::net::listen(&listener.fd, 128).map_err(translate)?;
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
        if self.owner.is_me() && self.identity.is_some() && identity(&self.file) == self.identity {
            // A file that stays behind does no harm: the next one finds it stale.
            let _ = rustix::fs::unlink(&self.file);
        }
    }
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    match rustix::fs::mkdir(directory, rustix::fs::Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            directory.parent().map_or(Ok(()), make_directory)?;
            rustix::fs::mkdir(directory, rustix::fs::Mode::RWXU).map_err(translate)
        }
        Err(errno) => Err(translate(errno)),
    }
}

fn identity(file: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::lstat(file).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Socket).then_some((stat.st_dev, stat.st_ino))
}

/// A socket file whose listener is gone refuses connections. Of a file of another kind nothing is known.
fn is_stale(file: &Path, addr: &SocketAddrUnix) -> bool {
    let Ok(probe) = socket() else { return false };
    identity(file).is_some() && rustix::net::connect(&probe, addr) == Err(Errno::CONNREFUSED)
}

fn address(file: &Path) -> Result<SocketAddrUnix, Error> {
    SocketAddrUnix::new(file).map_err(|_| {
        Error::Invalid("catmint.soft.directory: with an address behind it, at most 107 bytes without a zero")
    })
}

fn socket() -> rustix::io::Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map(Fd::from)
}

/// Connects to a device, if one listens and has room now.
pub(super) fn connect(file: &Path) -> Option<Fd> {
    let fd = socket().ok()?;
    rustix::net::connect(&fd, &address(file).ok()?).ok()?;
    Some(fd)
}

/// Sends a message, with at most one descriptor. False: the peer is gone, or does not read.
pub(super) fn send(socket: &Fd, message: &[u8], attached: Option<BorrowedFd<'_>>) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = attached.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)
    });
    sent == Ok(message.len())
}

/// What a look at a control socket yields.
#[derive(Debug)]
pub(super) enum Received {
    Nothing,
    Closed,
    /// A message, its length, and what was attached.
    Message([u8; GREETING_BYTES], usize, Option<Fd>),
}

/// The next message; a longer one is cut. Descriptors beyond the first are closed.
pub(super) fn receive(socket: &Fd) -> Received {
    let mut bytes = [0; GREETING_BYTES];
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
    if received.bytes == 0 || received.flags.contains(ReturnFlags::TRUNC) {
        return Received::Closed;
    }
    Received::Message(bytes, received.bytes, attached)
}

/// A descriptor that polls readable when the process at the other end of a socket has ended, although a child of it keeps its
/// descriptors open. `None` where that cannot be told, as across namespaces.
pub(super) fn process_behind(socket: &Fd) -> Option<Fd> {
    let pid = rustix::net::sockopt::socket_peercred(socket).ok()?.pid;
    rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok().map(Fd::from)
}

/// Many descriptors to wait for, each with a number.
#[derive(Debug)]
pub(super) struct Epoll(Fd);

/// Most that one look shows.
pub(super) const LOOK: usize = 32;

impl Epoll {
    pub(super) fn new() -> rustix::io::Result<Epoll> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(|fd| Epoll(fd.into()))
    }

    pub(super) fn add(&self, fd: impl AsFd, number: u64) -> rustix::io::Result<()> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
    }

    /// Takes a descriptor out. Closing would not do while another process has it too.
    pub(super) fn delete(&self, fd: impl AsFd) {
        // It is registered: the only failures left are of a descriptor that is not.
        let _ = epoll::delete(&self.0, fd);
    }

    /// The numbers of what is readable now.
    pub(super) fn ready(&self) -> arrayvec::ArrayVec<u64, LOOK> {
        let blank = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [blank; LOOK];
        let count = epoll::wait(&self.0, &mut events[..], Some(&NOW)).unwrap_or(0);
        events[..count].iter().map(|event| event.data.u64()).collect()
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
