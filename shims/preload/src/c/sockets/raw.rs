//! Making, naming, connecting and accepting; options.

use std::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t};
use rustix::io::Errno;

use crate::c::next_raw as next;
use crate::calls::length;
use crate::carrier::Carrier;
use crate::raw::{address, give_address};
use crate::shim::Shim;
use crate::sys;
use crate::table::TABLE;

/// What is asked of the caller of each function here is what the C library's function of the same name asks; that is the
/// promise which the blocks below pass on.
impl<C: Carrier> Shim<C> {
    /// # Safety
    /// See `socket(2)`. `handlers` are this shim's.
    pub unsafe fn socket(
        &'static self,
        handlers: [extern "C" fn(); 3],
        domain: c_int,
        kind: c_int,
        protocol: c_int,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let fd = unsafe { next::socket(domain, kind, protocol) };
        if fd >= 0 {
            let errno = sys::errno();
            self.prepare(handlers);
            let _ = self.enter(|| self.made(fd, domain, kind, protocol));
            sys::set_errno(errno);
        }
        fd
    }

    /// # Safety
    /// See `bind(2)`.
    pub unsafe fn bind_c(&'static self, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        if let Some(key) = TABLE.get(fd) {
            // SAFETY: the caller's promise.
            let addr = || unsafe { address(addr, len) };
            if let Some(result) = self.result(|| self.bind((fd, key), addr()?), |()| 0) {
                return result as c_int;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { next::bind(fd, addr, len) }
    }

    /// # Safety
    /// See `listen(2)`.
    pub unsafe fn listen_c(&'static self, fd: c_int, backlog: c_int) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(|| self.listen((fd, key), backlog), |()| 0)
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::listen(fd, backlog) }
    }

    /// # Safety
    /// See `accept4(2)`.
    pub unsafe fn accept4(
        &'static self,
        fd: c_int,
        addr: *mut sockaddr,
        len: *mut socklen_t,
        flags: c_int,
    ) -> c_int {
        let Some(key) = TABLE.get(fd) else {
            // SAFETY: the caller's promise.
            return unsafe { next::accept4(fd, addr, len, flags) };
        };
        let accepted = self.result(
            || {
                let Some((fd, peer, six)) = self.accept((fd, key), flags)? else { return Ok(None) };
                // SAFETY: the caller's promise.
                unsafe { give_address(peer, six, addr, len)? };
                Ok(Some(fd))
            },
            |fd| fd as isize,
        );
        if let Some(result) = accepted {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        let new = unsafe { next::accept4(fd, addr, len, flags) };
        if new >= 0 {
            let errno = sys::errno();
            let _ = self.enter(|| self.accepted(key, new, flags));
            sys::set_errno(errno);
        }
        new
    }

    /// # Safety
    /// See `connect(2)`.
    pub unsafe fn connect_c(&'static self, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        if let Some(key) = TABLE.get(fd) {
            // SAFETY: the caller's promise.
            let addr = || unsafe { address(addr, len) };
            if let Some(result) = self.result(|| self.connect((fd, key), addr()?), |()| 0) {
                return result as c_int;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { next::connect(fd, addr, len) }
    }

    /// # Safety
    /// See `shutdown(2)`.
    pub unsafe fn shutdown_c(&'static self, fd: c_int, how: c_int) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(|| self.shutdown((fd, key), how), |()| 0)
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::shutdown(fd, how) }
    }

    /// # Safety
    /// See `getsockname(2)`.
    pub unsafe fn getsockname(&'static self, fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let Some((name, six)) = self.local_name(key)? else { return Ok(None) };
                    // SAFETY: the caller's promise.
                    unsafe { give_address(name, six, addr, len) }.map(Some)
                },
                |()| 0,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::getsockname(fd, addr, len) }
    }

    /// # Safety
    /// See `getpeername(2)`.
    pub unsafe fn getpeername(&'static self, fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let Some((name, six)) = self.peer_name(key)? else { return Ok(None) };
                    // SAFETY: the caller's promise.
                    unsafe { give_address(name, six, addr, len) }.map(Some)
                },
                |()| 0,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::getpeername(fd, addr, len) }
    }

    /// # Safety
    /// See `getsockopt(2)`.
    pub unsafe fn getsockopt(
        &'static self,
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut socklen_t,
    ) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let Some(number) = self.option(key, level, name)? else { return Ok(None) };
                    if value.is_null() || len.is_null() {
                        return Err(Errno::FAULT);
                    }
                    let bytes = number.to_ne_bytes();
                    // SAFETY: the caller's promise: `value` has as many bytes as `len` says.
                    unsafe {
                        let count = bytes.len().min(len.read_unaligned() as usize);
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), count);
                        len.write_unaligned(count as socklen_t);
                    }
                    Ok(Some(()))
                },
                |()| 0,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        let result = unsafe { next::getsockopt(fd, level, name, value, len) };
        // The state is the first byte of what TCP tells: that of a placeholder would be a closed connection's.
        if result == 0
            && (level, name) == (libc::IPPROTO_TCP, libc::TCP_INFO)
            && !C::IN_KERNEL
            && let Some(key) = TABLE.get(fd)
            && let Some(Ok(true)) = self.enter(|| self.is_stream(key))
        {
            // SAFETY: the kernel has read the length and written it back.
            let written = unsafe { len.read_unaligned() };
            if written > 0 && !value.is_null() {
                // SAFETY: the kernel has written as many bytes, which is one at least.
                unsafe { value.cast::<u8>().write(1) };
            }
        }
        result
    }

    /// # Safety
    /// See `setsockopt(2)`.
    pub unsafe fn setsockopt(
        &'static self,
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let result = unsafe { next::setsockopt(fd, level, name, value, len) };
        if result == 0
            && !value.is_null()
            && let Some(key) = TABLE.get(fd)
        {
            let len = (len as usize).min(length(level, name));
            // SAFETY: the kernel has read as many bytes without complaint.
            let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) };
            let _ = self.enter(|| self.option_set((fd, key), level, name, bytes));
        }
        result
    }
}
