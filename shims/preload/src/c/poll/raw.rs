//! `poll`, `select` and epoll.

use std::ffi::{c_int, c_ulong};
use std::time::Duration;

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};
use rustix::io::Errno;

use crate::c::next_raw as next;
use crate::calls::Wanted;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::state::Interest;
use crate::sys;
use crate::table::{NUMBERS, TABLE};

/// Bits of one word of a descriptor set.
const WORD: usize = c_ulong::BITS as usize;

/// What is asked of the caller of each function here is what the C library's function of the same name asks; that is the
/// promise which the blocks below pass on.
impl<C: Carrier> Shim<C> {
    /// # Safety
    /// See `poll(2)`.
    pub unsafe fn poll_c(&'static self, fds: *mut pollfd, count: nfds_t, time: c_int) -> c_int {
        // SAFETY: the caller's promise.
        if unsafe { has_ours(fds, count) }
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise; nobody else uses them meanwhile.
                    let fds = unsafe { std::slice::from_raw_parts_mut(fds, count as usize) };
                    self.poll(Wanted { fds, limit: millis(time), mask: None })
                },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::poll(fds, count, time) }
    }

    /// # Safety
    /// See `ppoll(2)`.
    pub unsafe fn ppoll(
        &'static self,
        fds: *mut pollfd,
        count: nfds_t,
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        if unsafe { has_ours(fds, count) }
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise; nobody else uses them meanwhile.
                    let (fds, limit, mask) = unsafe {
                        (std::slice::from_raw_parts_mut(fds, count as usize), limit(time)?, mask.as_ref())
                    };
                    self.poll(Wanted { fds, limit, mask })
                },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::ppoll(fds, count, time, mask) }
    }

    /// # Safety
    /// See `select(2)`.
    pub unsafe fn select(&'static self, count: c_int, sets: [*mut fd_set; 3], time: *mut timeval) -> c_int {
        // SAFETY: the caller's promise.
        if unsafe { sets_have_ours(count, sets) }
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let limit = match unsafe { time.as_ref() } {
                        None => None,
                        Some(time) => match (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec)) {
                            (Ok(seconds), Ok(micros)) => Some(
                                Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)),
                            ),
                            _ => return Err(Errno::INVAL),
                        },
                    };
                    let since = std::time::Instant::now();
                    // SAFETY: the caller's promise.
                    let outcome = unsafe { self.poll_sets(count as usize, sets, limit, None) };
                    if let (Some(limit), false) = (limit, time.is_null()) {
                        let left = limit.saturating_sub(since.elapsed());
                        // SAFETY: the caller's promise: Linux writes to it.
                        unsafe {
                            (*time).tv_sec = left.as_secs() as libc::time_t;
                            (*time).tv_usec = left.subsec_micros().into();
                        }
                    }
                    outcome
                },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        let [read, write, other] = sets;
        // SAFETY: the caller's promise.
        unsafe { next::select(count, read, write, other, time) }
    }

    /// # Safety
    /// See `pselect(2)`.
    pub unsafe fn pselect(
        &'static self,
        count: c_int,
        sets: [*mut fd_set; 3],
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        if unsafe { sets_have_ours(count, sets) }
            && let Some(result) = self.result(
                // SAFETY: the caller's promise.
                || unsafe { self.poll_sets(count as usize, sets, limit(time)?, mask.as_ref()) },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        let [read, write, other] = sets;
        // SAFETY: the caller's promise.
        unsafe { next::pselect(count, read, write, other, time, mask) }
    }

    /// # Safety
    /// The sets are null or hold `count` bits.
    unsafe fn poll_sets(
        &'static self,
        count: usize,
        sets: [*mut fd_set; 3],
        limit: Option<Duration>,
        mask: Option<&sigset_t>,
    ) -> Result<Option<usize>, Errno> {
        const ASK: [i16; 3] = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
        const TELL: [i16; 3] =
            [libc::POLLIN | libc::POLLHUP | libc::POLLERR, libc::POLLOUT | libc::POLLERR, libc::POLLPRI];
        let mut fds = Vec::new();
        for fd in 0..count {
            let mut events = 0;
            for (set, ask) in sets.into_iter().zip(ASK) {
                // SAFETY: the caller's promise.
                if unsafe { is_set(set, fd) } {
                    events |= ask;
                }
            }
            if events != 0 {
                fds.push(pollfd { fd: fd as c_int, events, revents: 0 });
            }
        }
        if self.poll(Wanted { fds: &mut fds, limit, mask })?.is_none() {
            return Ok(None);
        }
        if fds.iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
            return Err(Errno::BADF);
        }
        let mut ready = 0;
        for entry in &fds {
            for ((set, ask), tell) in sets.into_iter().zip(ASK).zip(TELL) {
                if entry.events & ask == 0 {
                    continue;
                }
                if entry.revents & tell != 0 {
                    ready += 1;
                } else {
                    // SAFETY: the caller's promise: the bit was set, so the set is there.
                    unsafe { clear(set, entry.fd as usize) };
                }
            }
        }
        Ok(Some(ready))
    }

    /// # Safety
    /// See `epoll_create1(2)`. `handlers` are this shim's.
    pub unsafe fn epoll_create1(&'static self, handlers: [extern "C" fn(); 3], flags: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let fd = unsafe { next::epoll_create1(flags) };
        self.note_epoll(handlers, fd)
    }

    /// # Safety
    /// See `epoll_create(2)`. `handlers` are this shim's.
    pub unsafe fn epoll_create(&'static self, handlers: [extern "C" fn(); 3], size: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let fd = unsafe { next::epoll_create(size) };
        self.note_epoll(handlers, fd)
    }

    fn note_epoll(&'static self, handlers: [extern "C" fn(); 3], fd: c_int) -> c_int {
        if fd >= 0 {
            let errno = sys::errno();
            self.prepare(handlers);
            let _ = self.enter(|| self.epoll_made(fd));
            sys::set_errno(errno);
        }
        fd
    }

    /// # Safety
    /// See `epoll_ctl(2)`.
    pub unsafe fn epoll_ctl(
        &'static self,
        epfd: c_int,
        op: c_int,
        fd: c_int,
        event: *mut epoll_event,
    ) -> c_int {
        if let Some(key) = TABLE.get(epfd)
            && let Some(result) = self.result(
                || {
                    let interest = if op == libc::EPOLL_CTL_DEL {
                        Interest { events: 0, data: 0 }
                    } else if event.is_null() {
                        return Err(Errno::FAULT);
                    } else {
                        // SAFETY: the caller's promise.
                        let event = unsafe { event.read_unaligned() };
                        Interest { events: event.events, data: event.u64 }
                    };
                    self.epoll_control((epfd, key), op, fd, interest)
                },
                |()| 0,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::epoll_ctl(epfd, op, fd, event) }
    }

    /// # Safety
    /// See `epoll_pwait(2)`.
    pub unsafe fn epoll_pwait(
        &'static self,
        epfd: c_int,
        events: *mut epoll_event,
        room: c_int,
        time: c_int,
        mask: *const sigset_t,
    ) -> c_int {
        if let Some(key) = TABLE.get(epfd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let (events, mask) = unsafe { (room_for(events, room)?, mask.as_ref()) };
                    self.epoll_wait((epfd, key), events, millis(time), mask)
                },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::epoll_pwait(epfd, events, room, time, mask) }
    }

    /// # Safety
    /// See `epoll_pwait2(2)`.
    pub unsafe fn epoll_pwait2(
        &'static self,
        epfd: c_int,
        events: *mut epoll_event,
        room: c_int,
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        if let Some(key) = TABLE.get(epfd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let (events, limit, mask) =
                        unsafe { (room_for(events, room)?, limit(time)?, mask.as_ref()) };
                    self.epoll_wait((epfd, key), events, limit, mask)
                },
                |count| count as isize,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::epoll_pwait2(epfd, events, room, time, mask) }
    }
}

/// A time in ms; a negative one is without limit.
fn millis(time: c_int) -> Option<Duration> {
    u64::try_from(time).ok().map(Duration::from_millis)
}

/// # Safety
/// `time` is null or points to a time.
pub(in crate::c) unsafe fn limit(time: *const timespec) -> Result<Option<Duration>, Errno> {
    // SAFETY: the caller's promise.
    let Some(time) = (unsafe { time.as_ref() }) else { return Ok(None) };
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanos @ ..1_000_000_000)) => Ok(Some(Duration::new(seconds, nanos))),
        _ => Err(Errno::INVAL),
    }
}

/// # Safety
/// `events` points to room for `room` events, which nobody else uses.
unsafe fn room_for<'a>(events: *mut epoll_event, room: c_int) -> Result<&'a mut [epoll_event], Errno> {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Errno::INVAL)?;
    if events.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller's promise. The type is packed: any address will do.
    Ok(unsafe { std::slice::from_raw_parts_mut(events, room) })
}

/// # Safety
/// `fds` points to `count` entries.
unsafe fn has_ours(fds: *mut pollfd, count: nfds_t) -> bool {
    if fds.is_null() || count as usize > NUMBERS {
        return false;
    }
    // SAFETY: the caller's promise.
    let fds = unsafe { std::slice::from_raw_parts(fds, count as usize) };
    fds.iter().any(|entry| TABLE.get(entry.fd).is_some())
}

/// # Safety
/// The sets are null or hold `count` bits.
unsafe fn sets_have_ours(count: c_int, sets: [*mut fd_set; 3]) -> bool {
    let count = usize::try_from(count).unwrap_or(0).min(TABLE.highest() as usize + 1);
    // SAFETY: the caller's promise.
    (0..count)
        .any(|fd| TABLE.get(fd as c_int).is_some() && sets.iter().any(|set| unsafe { is_set(*set, fd) }))
}

/// # Safety
/// `set` is null or has a bit for `fd`.
unsafe fn is_set(set: *mut fd_set, fd: usize) -> bool {
    // SAFETY: the caller's promise: it is an array of words, as long as the program has made it.
    !set.is_null() && unsafe { set.cast::<c_ulong>().add(fd / WORD).read() } & 1 << (fd % WORD) != 0
}

/// # Safety
/// `set` has a bit for `fd`.
unsafe fn clear(set: *mut fd_set, fd: usize) {
    // SAFETY: the caller's promise.
    unsafe { *set.cast::<c_ulong>().add(fd / WORD) &= !(1 << (fd % WORD)) };
}
