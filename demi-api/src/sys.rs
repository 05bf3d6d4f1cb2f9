//! The only system calls of this crate: sleeping, being woken, and a seed. They go to the kernel directly,
//! not through the C library's symbols, which a preload shim may have replaced.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::error::Error;
use crate::fd::Fd;

/// Written to the kick pipe by wakers; any other byte is an interruption.
pub(crate) const WAKE: u8 = b'W';

/// A pipe, read end first. Neither end blocks, neither survives an `exec`.
pub(crate) fn pipe() -> Result<(Fd, Fd), Error> {
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(translate)?;
    Ok((reader.into(), writer.into()))
}

/// Puts a byte into the pipe; a full pipe will be read anyway.
pub(crate) fn kick(pipe: BorrowedFd<'_>, byte: u8) {
    let _ = rustix::io::retry_on_intr(|| rustix::io::write(pipe, &[byte]));
}

/// Empties the pipe; true if a byte other than [`WAKE`] was in it.
pub(crate) fn drain(pipe: BorrowedFd<'_>) -> bool {
    let mut interrupted = false;
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut bytes)) {
        interrupted |= bytes[..count].iter().any(|byte| *byte != WAKE);
    }
    interrupted
}

/// Sleeps until one of two descriptors is readable, a signal comes or the time is up.
pub(crate) fn sleep(device: BorrowedFd<'_>, pipe: BorrowedFd<'_>, limit: Option<Duration>) {
    let mut fds = [PollFd::new(&device, PollFlags::IN), PollFd::new(&pipe, PollFlags::IN)];
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // A signal ends the sleep early; the wait loop looks again and sleeps on.
    let _ = poll(&mut fds, limit.as_ref());
}

/// One descriptor that polls readable when either of two does.
pub(crate) fn either(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> Result<Fd, Error> {
    let both = epoll::create(epoll::CreateFlags::CLOEXEC).map(Fd::from).map_err(translate)?;
    for (key, fd) in [(1, first), (2, second)] {
        epoll::add(&both, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN).map_err(translate)?;
    }
    Ok(both)
}

/// A second descriptor for the same open file.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<Fd, Error> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map(Fd::from).map_err(translate)
}

/// Random bits from the kernel.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, flags)) {
        Ok(8) => u64::from_ne_bytes(bytes),
        // Only a kernel older than 3.17 has no getrandom, and nothing secret hangs on this seed.
        _ => fastrand::u64(..),
    }
}

fn translate(errno: Errno) -> Error {
    match errno {
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        Errno::NOMEM => Error::NoBuffers,
        other => Error::System(other.raw_os_error()),
    }
}
