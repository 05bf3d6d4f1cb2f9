//! What the kernel keeps of what was sent to a sibling.

use std::os::fd::{AsFd, AsRawFd};

use demi_api::fd::Fd;

/// Bytes of memory that hold what was sent over a socket and not read at its other end; zero if that cannot be found out.
pub(super) fn unread(fd: &Fd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `TIOCOUTQ`, which is `SIOCOUTQ`, writes one `int` at the address given, and that is `bytes`.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}
