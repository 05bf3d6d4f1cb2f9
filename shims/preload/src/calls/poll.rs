//! `poll` and `select`, over descriptors of both kinds.

use std::time::{Duration, Instant};

use demi_api::slab::Key;
use libc::{pollfd, sigset_t};
use rustix::io::Errno;

use super::Answer;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::state::State;
use crate::sys::{self, Blocked};
use crate::table::TABLE;
use crate::wait::Sleep;

const ALWAYS: u32 = (libc::POLLERR | libc::POLLHUP) as u32;

/// What `poll` is asked, and how long it may take.
pub(crate) struct Wanted<'a> {
    pub(crate) fds: &'a mut [pollfd],
    pub(crate) limit: Option<Duration>,
    pub(crate) mask: Option<&'a sigset_t>,
}

impl<C: Carrier> Shim<C> {
    /// How many descriptors are ready; what each is stands in its `revents`. The kernel's if none is ours.
    pub(crate) fn poll(&'static self, wanted: Wanted<'_>) -> Answer<usize> {
        let Wanted { fds, limit, mask } = wanted;
        // Where each of ours stands, and the kernel's part of the set.
        let mut ours: Vec<(usize, Key)> = Vec::new();
        let mut kernel = Vec::with_capacity(fds.len());
        let mut blocked = None;
        {
            let mut state = self.lock();
            for (place, entry) in fds.iter_mut().enumerate() {
                entry.revents = 0;
                let mut theirs = pollfd { fd: entry.fd, events: entry.events, revents: 0 };
                if let Some(key) = TABLE.get(entry.fd) {
                    if state.is_epoll(key) {
                        // Both have a part in it.
                        ours.push((place, key));
                    } else {
                        if blocked.is_none() && state.is_unmade(key) {
                            blocked = Some(Blocked::new());
                        }
                        let is_ours = state.realize(key, entry.fd).unwrap_or_else(|errno| {
                            // Such as a late listen that fails: it is an event.
                            if let Ok(socket) = state.socket(key) {
                                socket.error.get_or_insert(errno);
                            }
                            true
                        });
                        if is_ours || !C::IN_KERNEL {
                            ours.push((place, key));
                            theirs.fd = -1;
                        }
                    }
                }
                kernel.push(theirs);
            }
        }
        if ours.is_empty() {
            return Ok(None);
        }
        let keys: Vec<Key> = ours.iter().map(|(_, key)| *key).collect();
        let has_kernel = kernel.iter().any(|entry| entry.fd >= 0);
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let asked = kernel.clone();
        let mut look = |state: &mut State<C>, at_kernel: bool| {
            let mut count = 0;
            for (place, key) in &ours {
                let bits = state.bits(*key) & (fds[*place].events as u16 as u32 | ALWAYS);
                fds[*place].revents = bits as i16;
                count += usize::from(bits != 0);
            }
            if has_kernel
                && (at_kernel || count > 0)
                && sys::poll(&mut kernel, Some(Duration::ZERO), None).is_ok()
            {
                for (place, entry) in kernel.iter().enumerate().filter(|(_, entry)| entry.revents != 0) {
                    count += usize::from(fds[place].revents == 0);
                    fds[place].revents |= entry.revents;
                }
            }
            (count > 0).then_some(count)
        };
        {
            let mut state = self.lock();
            state.keep_up();
            if let Some(count) = look(&mut state, true) {
                return Ok(Some(count));
            }
            state.pump();
            if let Some(count) = look(&mut state, false) {
                return Ok(Some(count));
            }
        }
        if limit == Some(Duration::ZERO) {
            return Ok(Some(0));
        }
        let mask = mask.or(blocked.as_ref().map(Blocked::before));
        let sleep = Sleep { keys: &keys, kernel: &asked, until, mask };
        match self.wait(&sleep, look) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::TIMEDOUT) => Ok(Some(0)),
            Err(errno) => Err(errno),
        }
    }
}
