//! A descriptor that is closed by the kernel directly.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

/// An open descriptor. `OwnedFd` would close through the C library's `close`, which a preload shim replaces.
#[derive(Debug)]
pub(in crate::device) struct Fd(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(ManuallyDrop::new(fd))
    }
}

impl AsFd for Fd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: `self.0` is taken once, here, where its owner's life ends.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        // SAFETY: `into_raw_fd` has given up the ownership; the number is closed once and not used afterwards.
        unsafe { rustix::io::close(fd.into_raw_fd()) };
    }
}

/// Gives the calling thread a network of its own, which goes with its last user.
#[cfg(test)]
pub(super) fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: a network namespace changes nothing about memory or descriptors of this or any other thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}
