//! The network namespace that a device was opened in, for the sockets that it opens later.
//!
//! Invariant: the calling thread is back where it was when a call returns. An interface's number means another interface
//! elsewhere, and a thread may have moved since.

use demi_api::fd::Fd;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, which lasts for as long as this.
pub(super) struct Namespace(Fd);

impl Namespace {
    /// That of the calling thread.
    pub(super) fn current() -> io::Result<Namespace> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        open("/proc/thread-self/ns/net", flags, Mode::empty()).map(|fd| Namespace(fd.into()))
    }

    /// Does something in the namespace. Fails, before anything is done, if the thread may not enter it.
    pub(super) fn inside<T>(&self, action: impl FnOnce() -> T) -> io::Result<T> {
        let here = Namespace::current()?;
        if here.identity()? == self.identity()? {
            return Ok(action());
        }
        self.enter()?;
        let result = action();
        here.enter()?;
        Ok(result)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        fstat(&self.0).map(|stat| (stat.st_dev, stat.st_ino))
    }

    fn enter(&self) -> io::Result<()> {
        use std::os::fd::AsFd;
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
    }
}
