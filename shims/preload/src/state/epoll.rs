//! Epoll sets of the program's.
//!
//! The descriptor is one of a set of the kernel's, which holds what is the kernel's affair. What is the shim's stands here.
//! Invariant: a watch that could report something stands in `ready`, once; it may stand there with nothing to report,
//! and is then put out when it is looked at. So a wait costs what is ready, not what is watched.

use std::collections::VecDeque;

use demi_api::slab::Key;
use rustix::io::Errno;

use super::socket::{ERR, HUP, IN};
use super::{Object, State};
use crate::carrier::Carrier;
use crate::sys;
use crate::table::TABLE;

const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
const NOT_EVENTS: u32 = EDGE | ONE_SHOT | EXCLUSIVE | libc::EPOLLWAKEUP as u32;

/// What may be asked for together with exclusive wake-ups.
const WITH_EXCLUSIVE: u32 =
    (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLWAKEUP) as u32
        | EDGE
        | EXCLUSIVE;

/// No place.
const NOWHERE: u32 = u32::MAX;

pub(crate) struct Epoll {
    pub(crate) refs: usize,
    places: Vec<Option<Watch>>,
    free: Vec<u32>,
    /// By descriptor: where its watch is.
    by_fd: Vec<u32>,
    ready: VecDeque<u32>,
    /// Descriptors in the kernel's set, about.
    in_kernel: usize,
    looks: u32,
    pub(crate) watches: Vec<WatchAt>,
    pub(crate) waiters: Vec<Key>,
}

/// Where a socket, or a set in a set, is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WatchAt {
    pub(crate) epoll: Key,
    pub(crate) place: u32,
}

/// What a program asks to be told of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interest {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

struct Watch {
    fd: i32,
    object: Key,
    interest: Interest,
    is_ready: bool,
    /// It has reported once and is to be asked for again.
    spent: bool,
    /// The kernel's set holds the descriptor too.
    in_kernel: bool,
    /// What the object has to say is the kernel's to say.
    is_kernels: bool,
}

impl Epoll {
    pub(crate) fn new() -> Epoll {
        Epoll {
            refs: 1,
            places: Vec::new(),
            free: Vec::new(),
            by_fd: Vec::new(),
            ready: VecDeque::new(),
            in_kernel: 0,
            looks: 0,
            watches: Vec::new(),
            waiters: Vec::new(),
        }
    }

    /// Notes that `events` have come to pass at a watched object. True if that is of interest.
    pub(crate) fn note(&mut self, place: u32, events: u32) -> bool {
        let Some(Some(watch)) = self.places.get_mut(place as usize) else { return false };
        let wanted = watch.interest.events & !NOT_EVENTS | ERR | HUP;
        if watch.spent || watch.is_kernels || events & wanted == 0 {
            return false;
        }
        if !std::mem::replace(&mut watch.is_ready, true) {
            self.ready.push_back(place);
        }
        true
    }

    /// Whether the kernel's set is to be looked at although there may be something here: once in so many times.
    pub(crate) fn look_is_due(&mut self, period: u32) -> bool {
        self.looks = self.looks.wrapping_add(1);
        self.looks.is_multiple_of(period)
    }

    pub(crate) fn has_kernel(&self) -> bool {
        self.in_kernel > 0
    }

    pub(crate) fn kernel_changed(&mut self, added: bool) {
        self.in_kernel = if added { self.in_kernel + 1 } else { self.in_kernel.saturating_sub(1) };
    }

    fn place_of(&self, fd: i32) -> Option<u32> {
        self.by_fd.get(usize::try_from(fd).ok()?).copied().filter(|place| *place != NOWHERE)
    }

    /// The last watch that was added by this number.
    fn watch_of(&self, fd: i32) -> Option<&Watch> {
        self.places.get(self.place_of(fd)? as usize)?.as_ref()
    }

    fn insert(&mut self, watch: Watch) -> u32 {
        let fd = watch.fd.unsigned_abs() as usize;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        self.places[place as usize] = Some(watch);
        if self.by_fd.len() <= fd {
            self.by_fd.resize(fd + 1, NOWHERE);
        }
        self.by_fd[fd] = place;
        place
    }

    fn remove(&mut self, place: u32) -> Option<Watch> {
        let watch = self.places.get_mut(place as usize)?.take()?;
        self.ready.retain(|other| *other != place);
        if let Some(entry) = self.by_fd.get_mut(watch.fd.unsigned_abs() as usize)
            && *entry == place
        {
            *entry = NOWHERE;
        }
        if watch.in_kernel {
            self.in_kernel = self.in_kernel.saturating_sub(1);
        }
        self.free.push(place);
        Some(watch)
    }
}

impl<C: Carrier> State<C> {
    /// Adds a descriptor of the shim's to a set.
    pub(crate) fn watch(
        &mut self,
        (epfd, key): (i32, Key),
        (fd, object): (i32, Key),
        interest: Interest,
    ) -> Result<(), Errno> {
        if key == object || (interest.events & EXCLUSIVE != 0 && interest.events & !WITH_EXCLUSIVE != 0) {
            return Err(Errno::INVAL);
        }
        // What the number named before may be watched still, by another number that it has.
        if self.epoll(key)?.watch_of(fd).is_some_and(|watch| watch.object == object) {
            return Err(Errno::EXIST);
        }
        let is_epoll = self.is_epoll(object);
        if is_epoll && interest.events & EXCLUSIVE != 0 {
            return Err(Errno::INVAL);
        }
        if is_epoll && self.reaches(object, key, 0) {
            return Err(Errno::LOOP);
        }
        let is_kernels = !is_epoll && self.socket(object)?.is_kernels(C::IN_KERNEL);
        let in_kernel = is_epoll || is_kernels;
        if in_kernel {
            sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd, Some(interest))?;
        }
        let bits = self.bits(object);
        let epoll = self.epoll(key)?;
        epoll.in_kernel += usize::from(in_kernel);
        let (is_ready, spent) = (false, false);
        let place = epoll.insert(Watch { fd, object, interest, is_ready, spent, in_kernel, is_kernels });
        let is_news = epoll.note(place, bits);
        let at = WatchAt { epoll: key, place };
        match self.objects.get_mut(object) {
            Some(Object::Socket(socket)) => socket.watches.push(at),
            Some(Object::Epoll(epoll)) => epoll.watches.push(at),
            None => {}
        }
        if is_news {
            self.tell(key, IN);
        }
        Ok(())
    }

    /// Changes what is asked of a descriptor of the shim's.
    pub(crate) fn rewatch(
        &mut self,
        (epfd, key): (i32, Key),
        (fd, object): (i32, Key),
        interest: Interest,
    ) -> Result<(), Errno> {
        let bits = self.bits(object);
        let epoll = self.epoll(key)?;
        let place = epoll.place_of(fd).ok_or(Errno::NOENT)?;
        let Some(Some(watch)) = epoll.places.get_mut(place as usize) else { return Err(Errno::NOENT) };
        if watch.object != object {
            return Err(Errno::NOENT);
        }
        if (watch.interest.events | interest.events) & EXCLUSIVE != 0 {
            return Err(Errno::INVAL);
        }
        if watch.in_kernel {
            sys::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, Some(interest))?;
        }
        watch.interest = interest;
        watch.spent = false;
        if epoll.note(place, bits) {
            self.tell(key, IN);
        }
        Ok(())
    }

    /// Takes a descriptor of the shim's out of a set.
    pub(crate) fn unwatch_fd(&mut self, (epfd, key): (i32, Key), fd: i32) -> Result<(), Errno> {
        let epoll = self.epoll(key)?;
        let place = epoll.place_of(fd).ok_or(Errno::NOENT)?;
        let Some(watch) = epoll.remove(place) else { return Err(Errno::NOENT) };
        if watch.in_kernel {
            sys::epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None)?;
        }
        self.forget_watch(watch.object, WatchAt { epoll: key, place });
        Ok(())
    }

    /// A watched object has gone, and the kernel's side of it with its descriptor.
    pub(crate) fn unwatch(&mut self, at: WatchAt) {
        if let Ok(epoll) = self.epoll(at.epoll) {
            epoll.remove(at.place);
        }
    }

    /// A socket is the kernel's from now on, by all its numbers, `fd` among them; its watches go with it.
    pub(crate) fn give_back(&mut self, fd: i32, key: Key) {
        let watches = self.socket(key).map(|socket| std::mem::take(&mut socket.watches));
        for at in watches.unwrap_or_default() {
            let epfd = TABLE.find(at.epoll);
            let Ok(epoll) = self.epoll(at.epoll) else { continue };
            let Some(watch) = epoll.remove(at.place) else { continue };
            let mut interest = watch.interest;
            if watch.spent {
                // The program is to ask again before it is told anything more.
                interest.events &= NOT_EVENTS;
            }
            let is_there = watch.in_kernel
                || epfd.is_some_and(|epfd| {
                    sys::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, watch.fd, Some(interest)).is_ok()
                });
            if is_there {
                epoll.kernel_changed(true);
            }
        }
        TABLE.clear(fd);
        self.release(key);
        while self.socket(key).is_ok()
            && let Some(other) = TABLE.find(key)
        {
            TABLE.clear(other);
            self.release(key);
        }
    }

    fn forget_watch(&mut self, object: Key, at: WatchAt) {
        let watches = match self.objects.get_mut(object) {
            Some(Object::Socket(socket)) => &mut socket.watches,
            Some(Object::Epoll(epoll)) => &mut epoll.watches,
            None => return,
        };
        if let Some(place) = watches.iter().position(|other| *other == at) {
            watches.swap_remove(place);
        }
    }

    pub(crate) fn remove_epoll(&mut self, key: Key, mut epoll: Epoll) {
        for at in epoll.watches.drain(..) {
            self.unwatch(at);
        }
        for (place, watch) in epoll.places.into_iter().enumerate() {
            if let Some(watch) = watch {
                self.forget_watch(watch.object, WatchAt { epoll: key, place: place as u32 });
            }
        }
        self.wake_all(&epoll.waiters);
    }

    /// A socket that was the kernel's is the libOS's now, or the other way round: its watches follow.
    pub(crate) fn move_watches(&mut self, object: Key) {
        let Ok(socket) = self.socket(object) else { return };
        let is_kernels = socket.is_kernels(C::IN_KERNEL);
        let bits = socket.bits();
        for at in socket.watches.clone() {
            let Ok(epoll) = self.epoll(at.epoll) else { continue };
            let Some(Some(watch)) = epoll.places.get_mut(at.place as usize) else { continue };
            if watch.is_kernels == is_kernels {
                continue;
            }
            watch.is_kernels = is_kernels;
            let fd = watch.fd;
            if !is_kernels {
                if epoll.note(at.place, bits) {
                    self.tell(at.epoll, IN);
                }
                // In the kernel's set it would now report what is not meant for the program.
                self.silence(at, fd);
            }
        }
    }

    /// Takes a descriptor out of the kernel's set behind an epoll object, whichever numbers that has.
    fn silence(&mut self, at: WatchAt, fd: i32) {
        let Some(epfd) = TABLE.find(at.epoll) else { return };
        if sys::epoll_ctl(epfd, libc::EPOLL_CTL_DEL, fd, None).is_ok()
            && let Ok(epoll) = self.epoll(at.epoll)
            && let Some(Some(watch)) = epoll.places.get_mut(at.place as usize)
        {
            watch.in_kernel = false;
            epoll.in_kernel = epoll.in_kernel.saturating_sub(1);
        }
    }

    /// What `poll` would say of an object.
    pub(crate) fn bits(&self, key: Key) -> u32 {
        match self.objects.get(key) {
            Some(Object::Socket(socket)) => socket.bits(),
            Some(Object::Epoll(epoll)) => {
                let has_some = epoll.ready.iter().any(|place| self.due(epoll, *place) != 0);
                if has_some { IN } else { 0 }
            }
            None => 0,
        }
    }

    /// What a watch would report now.
    fn due(&self, epoll: &Epoll, place: u32) -> u32 {
        match epoll.places.get(place as usize) {
            Some(Some(watch)) if !watch.spent && !watch.is_kernels => {
                self.bits(watch.object) & (watch.interest.events & !NOT_EVENTS | ERR | HUP)
            }
            _ => 0,
        }
    }

    /// Takes up to `room` events of the shim's part of a set.
    pub(crate) fn harvest(
        &mut self,
        key: Key,
        room: usize,
        mut each: impl FnMut(Interest),
    ) -> Result<usize, Errno> {
        let mut count = 0;
        let waiting = self.epoll(key)?.ready.len();
        for _ in 0..waiting {
            if count == room {
                break;
            }
            let Some(place) = self.epoll(key)?.ready.pop_front() else { break };
            let Some(Object::Epoll(epoll)) = self.objects.get(key) else { return Err(Errno::BADF) };
            let due = self.due(epoll, place);
            let epoll = self.epoll(key)?;
            let Some(Some(watch)) = epoll.places.get_mut(place as usize) else { continue };
            watch.is_ready = false;
            if due == 0 {
                continue;
            }
            each(Interest { events: due, data: watch.interest.data });
            count += 1;
            if watch.interest.events & ONE_SHOT != 0 {
                watch.spent = true;
            } else if watch.interest.events & EDGE == 0 {
                watch.is_ready = true;
                epoll.ready.push_back(place);
            }
        }
        Ok(count)
    }

    /// Whether set `from` holds set `to`, be it through others. What is nested too deep counts as a loop.
    fn reaches(&self, from: Key, to: Key, depth: usize) -> bool {
        let Some(Object::Epoll(epoll)) = self.objects.get(from) else { return false };
        from == to
            || depth > 4
            || epoll.places.iter().flatten().any(|watch| self.reaches(watch.object, to, depth + 1))
    }
}
