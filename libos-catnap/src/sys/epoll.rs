//! Readiness from the kernel: one epoll instance.

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::error::Error;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::{Fd, call};

use rustix::event::epoll::Event;
pub(crate) use rustix::event::epoll::EventFlags;

/// What a socket is registered for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    /// Bytes, datagrams, connections, the end.
    Read,
    /// Those, and room to send.
    ReadWrite,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let read = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match self {
            Interest::Read => read,
            Interest::ReadWrite => read | EventFlags::OUT,
        }
    }
}

/// The epoll instance. All registrations are edge-triggered; adding or changing one reports what is ready
/// at that moment.
#[derive(Debug)]
pub(crate) struct Epoll(Fd);

impl Epoll {
    pub(crate) fn new() -> Result<Epoll, Error> {
        call(|| epoll::create(epoll::CreateFlags::CLOEXEC)).map(|fd| Epoll(fd.into()))
    }

    pub(crate) fn add(&self, fd: impl AsFd, data: u64, interest: Interest) -> Result<(), Error> {
        call(|| epoll::add(&self.0, &fd, epoll::EventData::new_u64(data), interest.flags()))
    }

    pub(crate) fn modify(&self, fd: &Fd, data: u64, interest: Interest) -> Result<(), Error> {
        call(|| epoll::modify(&self.0, fd, epoll::EventData::new_u64(data), interest.flags()))
    }

    pub(crate) fn delete(&self, fd: &Fd) {
        // It is registered: the only failures left are of a descriptor that is not.
        let _ = epoll::delete(&self.0, fd);
    }

    /// What is ready now, without waiting: how many events lie in `events`.
    pub(crate) fn harvest(&self, events: &mut Events) -> usize {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match epoll::wait(&self.0, &mut events.0[..], Some(&NOW)) {
                Ok(count) => return count,
                Err(Errno::INTR) => {}
                // A live epoll descriptor and a valid array leave no other error.
                Err(_) => return 0,
            }
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for the events of one harvest.
pub(crate) struct Events(Vec<Event>);

impl Events {
    pub(crate) fn new(count: usize) -> Events {
        Events(vec![Event { flags: EventFlags::empty(), data: epoll::EventData::new_u64(0) }; count])
    }

    /// What an event says and of whom.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> (EventFlags, u64) {
        (self.0[place].flags, self.0[place].data.u64())
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events(room for {})", self.0.len())
    }
}
