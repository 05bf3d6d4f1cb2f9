//! Reading and writing.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Instant;

use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};
use rustix::io::Errno;

use crate::c::{limit, next_raw as next};
use crate::calls::{Message, Receiving};
use crate::carrier::Carrier;
use crate::raw::{Gather, MOST_PIECES, Places, address, give_address};
use crate::shim::Shim;
use crate::table::TABLE;

/// What is asked of the caller of each function here is what the C library's function of the same name asks; that is the
/// promise which the blocks below pass on.
impl<C: Carrier> Shim<C> {
    /// # Safety
    /// See `read(2)`.
    pub unsafe fn read(&'static self, fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let mut places = unsafe { Places::one(buf, count) }?;
                    self.receive((fd, key), &mut places, 0)
                },
                |receiving| receiving.returned as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::read(fd, buf, count) }
    }

    /// # Safety
    /// See `readv(2)`.
    pub unsafe fn readv(&'static self, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
                    // SAFETY: the caller's promise.
                    let mut places = unsafe { Places::new(iov, count) }?;
                    self.receive((fd, key), &mut places, 0)
                },
                |receiving| receiving.returned as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::readv(fd, iov, count) }
    }

    /// # Safety
    /// See `recv(2)`.
    pub unsafe fn recv(&'static self, fd: c_int, buf: *mut c_void, count: size_t, flags: c_int) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let mut places = unsafe { places(buf, count, flags) }?;
                    self.receive((fd, key), &mut places, flags)
                },
                |receiving| receiving.returned as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::recv(fd, buf, count, flags) }
    }

    /// # Safety
    /// See `recvfrom(2)`.
    pub unsafe fn recvfrom(
        &'static self,
        fd: c_int,
        buf: *mut c_void,
        count: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        len: *mut socklen_t,
    ) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let mut places = unsafe { places(buf, count, flags) }?;
                    let Some(receiving) = self.receive((fd, key), &mut places, flags)? else {
                        return Ok(None);
                    };
                    // SAFETY: the caller's promise.
                    unsafe { self.give_sender(key, &receiving, addr, len)? };
                    Ok(Some(receiving))
                },
                |receiving| receiving.returned as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::recvfrom(fd, buf, count, flags, addr, len) }
    }

    /// # Safety
    /// `addr` and `len` are as `recvfrom` asks.
    unsafe fn give_sender(
        &'static self,
        key: demi_api::slab::Key,
        receiving: &Receiving,
        addr: *mut sockaddr,
        len: *mut socklen_t,
    ) -> Result<(), Errno> {
        let six = self.is_six(key);
        match receiving.from {
            // SAFETY: the caller's promise.
            Some(from) => unsafe { give_address(from, six, addr, len) },
            None if len.is_null() || addr.is_null() => Ok(()),
            None => {
                // SAFETY: the caller's promise: a stream's bytes have no sender.
                unsafe { len.write_unaligned(0) };
                Ok(())
            }
        }
    }

    /// # Safety
    /// See `recvmsg(2)`.
    pub unsafe fn recvmsg(&'static self, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                // SAFETY: the caller's promise.
                || unsafe { self.receive_message((fd, key), message, flags) },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::recvmsg(fd, message, flags) }
    }

    /// # Safety
    /// `message` is as `recvmsg` asks.
    unsafe fn receive_message(
        &'static self,
        at: (c_int, demi_api::slab::Key),
        message: *mut msghdr,
        flags: c_int,
    ) -> Result<Option<usize>, Errno> {
        if message.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: the caller's promise; nobody else uses it meanwhile.
        let message = unsafe { &mut *message };
        if message.msg_iovlen > MOST_PIECES {
            return Err(Errno::MSGSIZE);
        }
        // SAFETY: as above.
        let mut places = unsafe { Places::new(message.msg_iov, message.msg_iovlen) }?;
        let Some(receiving) = self.receive(at, &mut places, flags)? else { return Ok(None) };
        // SAFETY: as above.
        unsafe {
            self.give_sender(at.1, &receiving, message.msg_name.cast(), &raw mut message.msg_namelen)?;
        }
        message.msg_controllen = 0;
        message.msg_flags = if receiving.cut { libc::MSG_TRUNC } else { 0 };
        Ok(Some(receiving.returned))
    }

    /// # Safety
    /// See `recvmmsg(2)`.
    pub unsafe fn recvmmsg(
        &'static self,
        fd: c_int,
        messages: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
        time: *mut timespec,
    ) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let waits_for_one = flags & libc::MSG_WAITFORONE != 0;
                    let mut flags = flags & !libc::MSG_WAITFORONE;
                    // SAFETY: the caller's promise.
                    let end = unsafe { limit(time) }?.and_then(|limit| Instant::now().checked_add(limit));
                    let mut done = 0;
                    for place in 0..count.min(1024) as usize {
                        // SAFETY: the caller has promised `count` of them.
                        let message = unsafe { &mut *messages.add(place) };
                        // SAFETY: the caller's promise.
                        match unsafe { self.receive_message((fd, key), &raw mut message.msg_hdr, flags) } {
                            Ok(None) => return Ok(None),
                            Ok(Some(bytes)) => message.msg_len = bytes as c_uint,
                            Err(_) if done > 0 => break,
                            Err(errno) => return Err(errno),
                        }
                        done += 1;
                        if waits_for_one {
                            flags |= libc::MSG_DONTWAIT;
                        }
                        // As the kernel has it: the time is looked at when something has come, and only then.
                        if end.is_some_and(|end| Instant::now() >= end) {
                            break;
                        }
                    }
                    Ok(Some(done))
                },
                |count| count,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::recvmmsg(fd, messages, count, flags, time) }
    }

    /// # Safety
    /// See `write(2)`.
    pub unsafe fn write(&'static self, fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let bytes = unsafe { Gather::one(buf, count) }?;
                    self.transmit((fd, key), &Message { bytes, to: None, flags: 0 })
                },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::write(fd, buf, count) }
    }

    /// # Safety
    /// See `writev(2)`.
    pub unsafe fn writev(&'static self, fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
                    // SAFETY: the caller's promise.
                    let bytes = unsafe { Gather::new(iov, count) }?;
                    self.transmit((fd, key), &Message { bytes, to: None, flags: 0 })
                },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::writev(fd, iov, count) }
    }

    /// # Safety
    /// See `send(2)`.
    pub unsafe fn send(&'static self, fd: c_int, buf: *const c_void, count: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { self.sendto(fd, buf, count, flags, std::ptr::null(), 0) }
    }

    /// # Safety
    /// See `sendto(2)`.
    pub unsafe fn sendto(
        &'static self,
        fd: c_int,
        buf: *const c_void,
        count: size_t,
        flags: c_int,
        addr: *const sockaddr,
        len: socklen_t,
    ) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise.
                    let (to, bytes) = unsafe { (self.destination(addr, len)?, Gather::one(buf, count)?) };
                    self.transmit((fd, key), &Message { bytes, to, flags })
                },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::sendto(fd, buf, count, flags, addr, len) }
    }

    /// # Safety
    /// `addr` and `len` are as `sendto` asks.
    unsafe fn destination(
        &self,
        addr: *const sockaddr,
        len: socklen_t,
    ) -> Result<Option<std::net::SocketAddr>, Errno> {
        if addr.is_null() || len == 0 {
            return Ok(None);
        }
        // SAFETY: the caller's promise.
        unsafe { address(addr, len) }?.map(Some).ok_or(Errno::AFNOSUPPORT)
    }

    /// # Safety
    /// See `sendmsg(2)`.
    pub unsafe fn sendmsg(&'static self, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                // SAFETY: the caller's promise.
                || unsafe { self.send_one((fd, key), message, flags) },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::sendmsg(fd, message, flags) }
    }

    /// # Safety
    /// `message` is as `sendmsg` asks.
    unsafe fn send_one(
        &'static self,
        at: (c_int, demi_api::slab::Key),
        message: *const msghdr,
        flags: c_int,
    ) -> Result<Option<usize>, Errno> {
        if message.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: the caller's promise.
        let message = unsafe { &*message };
        if message.msg_iovlen > MOST_PIECES {
            return Err(Errno::MSGSIZE);
        }
        // SAFETY: as above.
        let (to, bytes) = unsafe {
            let to = self.destination(message.msg_name.cast_const().cast(), message.msg_namelen)?;
            (to, Gather::new(message.msg_iov, message.msg_iovlen)?)
        };
        self.transmit(at, &Message { bytes, to, flags })
    }

    /// # Safety
    /// See `sendmmsg(2)`.
    pub unsafe fn sendmmsg(
        &'static self,
        fd: c_int,
        messages: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
    ) -> c_int {
        if let Some(key) = TABLE.get(fd)
            && let Some(result) = self.result(
                || {
                    let mut done = 0;
                    for place in 0..count.min(1024) as usize {
                        // SAFETY: the caller has promised `count` of them.
                        let message = unsafe { &mut *messages.add(place) };
                        // SAFETY: the caller's promise.
                        match unsafe { self.send_one((fd, key), &raw const message.msg_hdr, flags) } {
                            Ok(None) => return Ok(None),
                            Ok(Some(bytes)) => message.msg_len = bytes as c_uint,
                            Err(_) if done > 0 => break,
                            Err(errno) => return Err(errno),
                        }
                        done += 1;
                    }
                    Ok(Some(done))
                },
                |count| count,
            )
        {
            return result as c_int;
        }
        // SAFETY: the caller's promise.
        unsafe { next::sendmmsg(fd, messages, count, flags) }
    }

    /// # Safety
    /// See `sendfile(2)`.
    pub unsafe fn sendfile(
        &'static self,
        out: c_int,
        file: c_int,
        offset: *mut off_t,
        count: size_t,
    ) -> ssize_t {
        if let Some(key) = TABLE.get(out)
            && let Some(result) = self.result(
                || {
                    // SAFETY: the caller's promise: it is null, or an offset that nobody else uses.
                    let offset = unsafe { offset.as_mut() };
                    self.send_file((out, key), file, offset, count)
                },
                |count| count as isize,
            )
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::sendfile(out, file, offset, count) }
    }

    /// # Safety
    /// See `splice(2)`.
    pub unsafe fn splice(
        &'static self,
        from: c_int,
        from_at: *mut off_t,
        to: c_int,
        to_at: *mut off_t,
        count: size_t,
        flags: c_uint,
    ) -> ssize_t {
        let wait = flags & libc::SPLICE_F_NONBLOCK == 0;
        // The kernel has more to say of what has an offset.
        let plain = from_at.is_null() && to_at.is_null();
        if plain
            && let Some(key) = TABLE.get(to)
            && let Some(result) =
                self.result(|| self.splice_out((to, key), from, count, wait), |count| count as isize)
        {
            return result;
        }
        if plain
            && let Some(key) = TABLE.get(from)
            && let Some(result) =
                self.result(|| self.splice_in((from, key), to, count, wait), |count| count as isize)
        {
            return result;
        }
        // SAFETY: the caller's promise.
        unsafe { next::splice(from, from_at, to, to_at, count, flags) }
    }
}

/// Where received bytes go; nowhere, if they are to be thrown away.
///
/// # Safety
/// `buf` and `count` are as `recv` asks.
unsafe fn places<'a>(buf: *mut c_void, count: size_t, flags: c_int) -> Result<Places<'a>, Errno> {
    if buf.is_null() && flags & libc::MSG_TRUNC != 0 {
        return Ok(Places::nowhere(count));
    }
    // SAFETY: the caller's promise.
    unsafe { Places::one(buf, count) }
}
