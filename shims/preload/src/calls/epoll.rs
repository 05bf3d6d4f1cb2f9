//! Epoll: the kernel's set and ours, as one.

use std::time::{Duration, Instant};

use demi_api::slab::Key;
use libc::{epoll_event, pollfd, sigset_t};
use rustix::io::Errno;

use super::Answer;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::state::{Epoll, Interest, Object};
use crate::sys;
use crate::table::TABLE;
use crate::wait::Sleep;

/// Waits that find something of ours, between two looks at the kernel's set.
const LOOK_PERIOD: u32 = 3;

impl<C: Carrier> Shim<C> {
    /// A set of the kernel's has just been made.
    pub(crate) fn epoll_made(&'static self, fd: i32) -> Result<(), Errno> {
        if TABLE.has_place(fd) && self.is_ours() {
            let mut state = self.lock();
            state.enter(fd, Object::Epoll(Box::new(Epoll::new())));
        }
        Ok(())
    }

    pub(crate) fn epoll_control(
        &'static self,
        at: (i32, Key),
        op: i32,
        fd: i32,
        interest: Interest,
    ) -> Answer<()> {
        let mut state = self.lock();
        if !state.is_epoll(at.1) {
            return Ok(None);
        }
        let Some(object) = TABLE.get(fd) else {
            // The kernel's: it will say whether that can be done.
            let interest = (op != libc::EPOLL_CTL_DEL).then_some(interest);
            sys::epoll_ctl(at.0, op, fd, interest)?;
            if op != libc::EPOLL_CTL_MOD {
                state.epoll(at.1)?.kernel_changed(op == libc::EPOLL_CTL_ADD);
            }
            return Ok(Some(()));
        };
        match op {
            libc::EPOLL_CTL_ADD => {
                if !state.is_epoll(object) {
                    state.realize(object, fd)?;
                }
                state.watch(at, (fd, object), interest)?;
            }
            libc::EPOLL_CTL_MOD => {
                if !state.is_epoll(object) {
                    state.realize(object, fd)?;
                }
                state.rewatch(at, (fd, object), interest)?;
            }
            libc::EPOLL_CTL_DEL => state.unwatch_fd(at, fd)?,
            _ => return Err(Errno::INVAL),
        }
        Ok(Some(()))
    }

    /// How many events were put into `events`.
    pub(crate) fn epoll_wait(
        &'static self,
        (epfd, key): (i32, Key),
        events: &mut [epoll_event],
        limit: Option<Duration>,
        mask: Option<&sigset_t>,
    ) -> Answer<usize> {
        let mut take =
            |state: &mut crate::state::State<C>, at_kernel: bool| -> Option<Result<usize, Errno>> {
                let room = events.len();
                let mut count = 0;
                // The kernel's come first when it is their turn, and last otherwise: neither starves the other.
                if at_kernel && state.epoll(key).is_ok_and(|epoll| epoll.has_kernel()) {
                    match sys::epoll_now(epfd, events) {
                        Ok(found) => count = found,
                        Err(errno) => return Some(Err(errno)),
                    }
                }
                let left = room - count;
                let put = |interest: Interest| {
                    events[count] = epoll_event { events: interest.events, u64: interest.data };
                    count += 1;
                };
                if let Err(errno) = state.harvest(key, left, put) {
                    return Some(Err(errno));
                }
                (count > 0).then_some(Ok(count))
            };
        let until = {
            let mut state = self.lock();
            if !state.is_epoll(key) {
                return Ok(None);
            }
            state.keep_up();
            let is_due = state.epoll(key)?.look_is_due(LOOK_PERIOD);
            if let Some(outcome) = take(&mut state, is_due) {
                return outcome.map(Some);
            }
            state.pump();
            if let Some(outcome) = take(&mut state, true) {
                return outcome.map(Some);
            }
            if limit == Some(Duration::ZERO) {
                return Ok(Some(0));
            }
            limit.and_then(|limit| Instant::now().checked_add(limit))
        };
        let kernel = [pollfd { fd: epfd, events: libc::POLLIN, revents: 0 }];
        let sleep = Sleep { keys: &[key], kernel: &kernel, until, mask };
        match self.wait(&sleep, take) {
            Ok(outcome) => outcome.map(Some),
            Err(Errno::TIMEDOUT) => Ok(Some(0)),
            Err(errno) => Err(errno),
        }
    }
}
