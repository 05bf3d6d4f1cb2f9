//! Closing, duplicating, `fcntl` and `ioctl`.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use rustix::io::Errno;

use crate::c::next_raw as next;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::sys;
use crate::table::TABLE;

/// What is asked of the caller of each function here is what the C library's function of the same name asks; that is the
/// promise which the blocks below pass on.
impl<C: Carrier> Shim<C> {
    /// # Safety
    /// See `close(2)`.
    pub unsafe fn close(&'static self, fd: c_int) -> c_int {
        if TABLE.get(fd).is_some() {
            self.forget(fd);
        }
        // SAFETY: the caller's promise.
        unsafe { next::close(fd) }
    }

    /// A descriptor is about to be closed.
    fn forget(&'static self, fd: c_int) {
        // Inside, what it names cannot be let go of; but the number must not stand for it any more.
        if self.enter(|| self.closing(fd)).is_none() && self.is_ours() {
            TABLE.clear(fd);
        }
    }

    /// The C library closes the descriptor of a stream by a function of its own.
    ///
    /// # Safety
    /// See `fclose(3)`.
    pub unsafe fn fclose(&'static self, stream: *mut libc::FILE) -> c_int {
        // SAFETY: the caller's promise.
        let fd = if stream.is_null() { -1 } else { unsafe { libc::fileno(stream) } };
        if TABLE.get(fd).is_some() {
            self.forget(fd);
        }
        // SAFETY: the caller's promise.
        unsafe { next::fclose(stream) }
    }

    /// # Safety
    /// See `close_range(2)`.
    pub unsafe fn close_range(&'static self, first: c_uint, last: c_uint, flags: c_int) -> c_int {
        if flags == 0
            && let Some(result) = self.result(|| self.close_between(first, last), |()| 0)
        {
            return result as c_int;
        }
        // SAFETY: numbers only; the caller knows what it closes.
        let result = unsafe { next::close_range(first, last, flags) };
        if result == 0 && flags as c_uint & libc::CLOSE_RANGE_CLOEXEC == 0 {
            let _ = self.enter(|| self.closing_range(first, last));
        }
        result
    }

    /// # Safety
    /// See `closefrom(3)`.
    pub unsafe fn closefrom(&'static self, first: c_int) {
        // SAFETY: the caller's promise.
        unsafe { self.close_range(first.max(0).unsigned_abs(), c_uint::MAX, 0) };
    }

    /// # Safety
    /// See `dup(2)`.
    pub unsafe fn dup(&'static self, fd: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let new = unsafe { next::dup(fd) };
        self.note_duplicate(fd, new)
    }

    /// # Safety
    /// See `dup2(2)`.
    pub unsafe fn dup2(&'static self, fd: c_int, new: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let new = unsafe { next::dup2(fd, new) };
        if fd == new { new } else { self.note_duplicate(fd, new) }
    }

    /// # Safety
    /// See `dup3(2)`.
    pub unsafe fn dup3(&'static self, fd: c_int, new: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let new = unsafe { next::dup3(fd, new, flags) };
        self.note_duplicate(fd, new)
    }

    fn note_duplicate(&'static self, fd: c_int, new: c_int) -> c_int {
        if new >= 0 && (TABLE.get(fd).is_some() || TABLE.get(new).is_some()) {
            let errno = sys::errno();
            let _ = self.enter(|| self.duplicated(TABLE.get(fd), new));
            sys::set_errno(errno);
        }
        new
    }

    /// # Safety
    /// See `fcntl(2)`.
    pub unsafe fn fcntl(&'static self, fd: c_int, command: c_int, argument: *mut c_char) -> c_int {
        // SAFETY: the caller's promise.
        let result = unsafe { next::fcntl(fd, command, argument) };
        if result < 0 {
            return result;
        }
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => self.note_duplicate(fd, result),
            libc::F_SETFL => {
                if let Some(key) = TABLE.get(fd) {
                    let nonblock = argument.addr() as c_int & libc::O_NONBLOCK != 0;
                    let _ = self.enter(|| self.set_nonblock(key, nonblock));
                }
                result
            }
            _ => result,
        }
    }

    /// # Safety
    /// See `ioctl(2)`.
    pub unsafe fn ioctl(&'static self, fd: c_int, request: c_ulong, argument: *mut c_char) -> c_int {
        let Some(key) = TABLE.get(fd) else {
            // SAFETY: the caller's promise.
            return unsafe { next::ioctl(fd, request, argument) };
        };
        if request == libc::FIONREAD || request == libc::TIOCOUTQ {
            let outgoing = request == libc::TIOCOUTQ;
            if let Some(result) = self.result(
                || {
                    let Some(count) = self.queued((fd, key), outgoing)? else { return Ok(None) };
                    if argument.is_null() {
                        return Err(Errno::FAULT);
                    }
                    // SAFETY: the caller's promise: an `int` is there.
                    unsafe { argument.cast::<c_int>().write_unaligned(count) };
                    Ok(Some(()))
                },
                |()| 0,
            ) {
                return result as c_int;
            }
        }
        // SAFETY: the caller's promise.
        let result = unsafe { next::ioctl(fd, request, argument) };
        if result == 0 && request == libc::FIONBIO && !argument.is_null() {
            // SAFETY: the kernel has read an `int` there.
            let nonblock = unsafe { argument.cast::<c_int>().read_unaligned() } != 0;
            let _ = self.enter(|| self.set_nonblock(key, nonblock));
        }
        result
    }
}
