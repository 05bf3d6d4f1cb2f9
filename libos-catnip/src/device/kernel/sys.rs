//! A network of one's own.

/// Gives the calling thread a network of its own, which goes with its last user.
pub(super) fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: a network namespace changes nothing about memory or descriptors of this or any other thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}
