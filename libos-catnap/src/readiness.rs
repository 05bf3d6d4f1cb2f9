//! Which sockets to look at: a few by trying, all others by asking the kernel.
//!
//! A socket with an operation that waits is always in one of three places, and none loses a wake-up:
//!
//! - **tried directly** (the spin set): every turn repeats its receive, so nothing can be missed;
//! - **registered**, edge-triggered: the operation was tried *after* the registration or *after* the last event
//!   of it, and found nothing; what comes later makes a new event. Registering reports what is ready at that
//!   moment, so a socket that goes from the first place to this one loses nothing in between;
//! - **again**: its turn ended before its work did, and the next turn continues.
//!
//! An event may therefore always be ignored when no operation waits (the next one tries first), but never
//! when one does. Before a sleep every socket of the spin set is registered.
//!
//! Being registered costs the sender of each packet a wake-up callback in the kernel. A socket that keeps being
//! found ready by trying is taken out of the kernel's set again (see [`BUSY_STREAK`]).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use demi_api::error::Error;

use crate::config::{CatnapSection, MAX_SPIN_QUEUES};
use crate::counters::Counters;
use crate::sys::Fd;
use crate::sys::epoll::{Epoll, EventFlags, Events, Interest};
use demi_api::slab::Key;

/// Events taken from the kernel per turn.
const EVENTS_PER_TURN: usize = 64;

/// Times that a registered socket must be found ready by trying before its registration is given up: at most two
/// calls per so many packets, to save one callback in the sender's path for each.
const BUSY_STREAK: u32 = 256;

/// What the set knows about one socket; lies in the socket.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    registered: Option<Interest>,
    spinning: bool,
    again: bool,
    /// Fruitless tries since the last fruitful one.
    misses: u32,
    /// Fruitful tries since the registration.
    streak: u32,
}

/// One event: which socket, and what is worth trying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) key: Key,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: Epoll,
    events: Events,
    spin: ArrayVec<Key, MAX_SPIN_QUEUES>,
    spin_queues: usize,
    spin_tries: u32,
    again: VecDeque<Key>,
    registered: usize,
    /// Turns between two looks at the kernel's set, and until the next.
    period: u32,
    countdown: u32,
    longest_period: u32,
}

impl Readiness {
    pub(crate) fn new(section: &CatnapSection) -> Result<Readiness, Error> {
        Ok(Readiness {
            epoll: Epoll::new()?,
            events: Events::new(EVENTS_PER_TURN),
            spin: ArrayVec::new(),
            spin_queues: section.spin_queues,
            spin_tries: section.spin_tries,
            again: VecDeque::new(),
            registered: 0,
            period: 1,
            countdown: 1,
            longest_period: section.probe_turns,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    // --- the spin set

    #[inline]
    pub(crate) fn spinning(&self) -> usize {
        self.spin.len()
    }

    #[inline]
    pub(crate) fn spinner(&self, place: usize) -> Option<Key> {
        self.spin.get(place).copied()
    }

    /// Takes a socket whose pop has to wait into the spin set. False if the set is full of livelier ones.
    #[inline]
    pub(crate) fn enter(&mut self, watch: &mut Watch, key: Key) -> bool {
        if watch.spinning {
            return true;
        }
        if self.spin.len() == self.spin_queues {
            return false;
        }
        watch.spinning = true;
        watch.misses = 0;
        self.spin.push(key);
        true
    }

    /// Notes a fruitful try. The kernel must go on telling about a socket that waits for room to send.
    #[inline]
    pub(crate) fn hit(&mut self, fd: &Fd, watch: &mut Watch, waits_to_send: bool, counters: &mut Counters) {
        watch.misses = 0;
        if watch.registered.is_some() && !waits_to_send {
            watch.streak += 1;
            if watch.streak >= BUSY_STREAK {
                self.unregister(fd, watch, counters);
            }
        }
    }

    /// Notes a fruitless try; true if it was one too many and the socket should leave.
    #[inline]
    pub(crate) fn miss(&self, watch: &mut Watch) -> bool {
        watch.misses += 1;
        watch.misses >= self.spin_tries
    }

    /// Whether the socket may be put out of a full set for another one's sake.
    pub(crate) fn is_stale(&self, watch: &Watch) -> bool {
        watch.misses >= self.spin_tries / 8
    }

    pub(crate) fn leave(&mut self, watch: &mut Watch, key: Key) {
        if std::mem::take(&mut watch.spinning) {
            self.spin.retain(|other| *other != key);
        }
    }

    pub(crate) fn forget_spinner(&mut self, place: usize) {
        self.spin.swap_remove(place);
    }

    // --- the kernel's set

    /// Registers a socket, or widens its registration. What is ready now will be an event.
    pub(crate) fn register(
        &mut self,
        fd: &Fd,
        watch: &mut Watch,
        key: Key,
        interest: Interest,
        counters: &mut Counters,
    ) -> Result<(), Error> {
        match watch.registered {
            Some(Interest::ReadWrite) => return Ok(()),
            Some(Interest::Read) if interest == Interest::Read => return Ok(()),
            Some(Interest::Read) => self.epoll.modify(fd, key.to_u64(), interest)?,
            None => {
                self.epoll.add(fd, key.to_u64(), interest)?;
                self.registered += 1;
            }
        }
        counters.epoll_changes += 1;
        watch.registered = Some(interest);
        watch.streak = 0;
        Ok(())
    }

    /// Stops asking for room to send, where every sent packet would be an event.
    pub(crate) fn narrow(&mut self, fd: &Fd, watch: &mut Watch, key: Key, counters: &mut Counters) {
        if watch.registered == Some(Interest::ReadWrite)
            && self.epoll.modify(fd, key.to_u64(), Interest::Read).is_ok()
        {
            counters.epoll_changes += 1;
            watch.registered = Some(Interest::Read);
        }
    }

    fn unregister(&mut self, fd: &Fd, watch: &mut Watch, counters: &mut Counters) {
        if watch.registered.take().is_some() {
            self.epoll.delete(fd);
            self.registered -= 1;
            counters.epoll_changes += 1;
        }
    }

    /// Registers a descriptor that stays for good and reports as [`Key::NONE`].
    pub(crate) fn register_device(&mut self, fd: impl AsFd) -> Result<(), Error> {
        self.epoll.add(fd, Key::NONE.to_u64(), Interest::Read)?;
        self.registered += 1;
        Ok(())
    }

    /// Lets go of a socket that is about to be closed.
    pub(crate) fn release(&mut self, watch: &mut Watch, key: Key) {
        self.leave(watch, key);
        // The kernel forgets a registration with the last descriptor of the file.
        if watch.registered.take().is_some() {
            self.registered -= 1;
        }
    }

    /// Whether it is time to look at the kernel's set: on every turn, unless sockets are tried directly.
    #[inline]
    pub(crate) fn is_probe_due(&mut self) -> bool {
        if self.registered == 0 {
            return false;
        }
        self.countdown = self.countdown.saturating_sub(1);
        self.countdown == 0 || self.spin.is_empty()
    }

    /// Takes what is ready; [`Readiness::event`] reads it.
    pub(crate) fn probe(&mut self, counters: &mut Counters) -> usize {
        if self.registered == 0 {
            return 0;
        }
        let count = self.epoll.harvest(&mut self.events);
        counters.epoll_waits += 1;
        counters.epoll_events += count as u64;
        count
    }

    pub(crate) fn event(&self, place: usize) -> Ready {
        let (flags, data) = self.events.get(place);
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        Ready {
            key: Key::from_u64(data),
            read: broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
            write: broken || flags.contains(EventFlags::OUT),
        }
    }

    /// Sets when to look next: at once if this look was worth it, later and later if not.
    pub(crate) fn probed(&mut self, work: usize) {
        self.period = if work > 0 { 1 } else { (self.period * 2).min(self.longest_period) };
        self.countdown = self.period;
    }

    // --- unfinished turns

    /// The next turn continues with this socket.
    pub(crate) fn put_again(&mut self, watch: &mut Watch, key: Key) {
        if !std::mem::replace(&mut watch.again, true) {
            self.again.push_back(key);
        }
    }

    #[inline]
    pub(crate) fn again(&self) -> usize {
        self.again.len()
    }

    pub(crate) fn take_again(&mut self) -> Option<Key> {
        self.again.pop_front()
    }
}

impl Watch {
    /// Whether the kernel tells when there is room to send.
    pub(crate) fn announces_room(&self) -> bool {
        self.registered == Some(Interest::ReadWrite)
    }

    /// Notes that a continued turn has begun.
    pub(crate) fn taken_again(&mut self) {
        self.again = false;
    }
}
