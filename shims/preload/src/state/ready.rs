//! Who is told when something becomes ready: epoll sets, and threads that sleep.

use std::time::Instant;

use demi_api::slab::Key;

use super::{Object, State};
use crate::carrier::Carrier;
use crate::sys;

/// A thread that sleeps: how it is woken, and whether it was.
pub(crate) struct Sleeper {
    /// An eventfd of the thread's, if it could have one.
    fd: Option<i32>,
    woken: bool,
}

/// Epoll sets in epoll sets, as deep as the kernel allows.
const DEPTH: usize = 5;

impl<C: Carrier> State<C> {
    /// Tells whoever is concerned that `events` have come to pass at an object.
    pub(crate) fn tell(&mut self, key: Key, events: u32) {
        self.tell_at(key, events, 0);
    }

    fn tell_at(&mut self, key: Key, events: u32, depth: usize) {
        let (watches, waiters) = match self.objects.get(key) {
            Some(Object::Socket(socket)) => (&socket.watches, &socket.waiters),
            Some(Object::Epoll(epoll)) => (&epoll.watches, &epoll.waiters),
            None => return,
        };
        for waiter in waiters {
            wake(&mut self.sleepers, *waiter);
        }
        for place in 0..watches.len() {
            let at = match self.objects.get(key) {
                Some(Object::Socket(socket)) => socket.watches[place],
                Some(Object::Epoll(epoll)) => epoll.watches[place],
                None => return,
            };
            let Some(Object::Epoll(epoll)) = self.objects.get_mut(at.epoll) else { continue };
            if epoll.note(at.place, events) && depth < DEPTH {
                self.tell_at(at.epoll, super::socket::IN, depth + 1);
            }
        }
    }

    /// Enters a thread that is about to sleep for one of `keys`.
    pub(crate) fn fall_asleep(&mut self, keys: &[Key], fd: Option<i32>, until: Option<Instant>) -> Key {
        let sleeper = self.sleepers.insert(Sleeper { fd, woken: false });
        for key in keys {
            match self.objects.get_mut(*key) {
                Some(Object::Socket(socket)) => socket.waiters.push(sleeper),
                Some(Object::Epoll(epoll)) => epoll.waiters.push(sleeper),
                None => {}
            }
        }
        self.asleep += 1;
        self.awake_at = until;
        self.disturbed = false;
        sleeper
    }

    /// The thread is awake. Whether somebody has woken it, so that its eventfd has to be emptied.
    pub(crate) fn wake_up(&mut self, keys: &[Key], sleeper: Key) -> bool {
        for key in keys {
            let waiters = match self.objects.get_mut(*key) {
                Some(Object::Socket(socket)) => &mut socket.waiters,
                Some(Object::Epoll(epoll)) => &mut epoll.waiters,
                None => continue,
            };
            waiters.retain(|other| *other != sleeper);
        }
        self.asleep = self.asleep.saturating_sub(1);
        self.awake_at = None;
        self.sleepers.remove(sleeper).is_some_and(|sleeper| sleeper.woken)
    }

    pub(crate) fn wake_all(&mut self, waiters: &[Key]) {
        for waiter in waiters {
            wake(&mut self.sleepers, *waiter);
        }
    }

    /// Wakes somebody, whoever it is, to look after the instance.
    pub(crate) fn wake_one(&mut self) {
        if let Some(sleeper) =
            self.sleepers.entries_mut().map(|(_, sleeper)| sleeper).find(|sleeper| !sleeper.woken)
        {
            wake_sleeper(sleeper);
        }
    }
}

fn wake(sleepers: &mut demi_api::slab::Slab<Sleeper>, key: Key) {
    if let Some(sleeper) = sleepers.get_mut(key) {
        wake_sleeper(sleeper);
    }
}

fn wake_sleeper(sleeper: &mut Sleeper) {
    if !std::mem::replace(&mut sleeper.woken, true)
        && let Some(fd) = sleeper.fd
    {
        sys::signal(fd);
    }
}
