//! The entries of the table, from pointers to references.
//!
//! # Safety
//! Of every function here: `user` is NULL or what `packetdrill_interface_init` made, and each pointer is NULL, or what the
//! system's call of that name asks for, used by nobody else during the call.

use std::ffi::{c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::time::Duration;

use demi_api::Addr;
use demi_c::errno::Errno;
use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval,
};

use super::pointers::{address, bytes, count, gathered, items, scattered, tell};
use super::{User, enter};
use crate::options::LARGEST;
use crate::shared::Shared;
use crate::stack::Stack;

/// Descriptors of one `poll`, at the most.
const POLLED: usize = 4096;

/// How long a script waits for a packet.
const PACKET: Duration = Duration::from_secs(10);

/// A call that waits if the socket does: `None` from `look` is not yet.
fn blocking<T>(
    shared: &Shared,
    fd: c_int,
    flags: c_int,
    mut look: impl FnMut(&mut Stack) -> Result<Option<T>, Errno>,
) -> Result<T, Errno> {
    let nonblocking = shared.call(|stack| stack.socket(fd).map(|socket| socket.nonblocking))?;
    let limit = (nonblocking || flags & libc::MSG_DONTWAIT != 0).then_some(Duration::ZERO);
    shared.wait(limit, |stack| look(stack).transpose()).unwrap_or(Err(Errno(libc::EAGAIN)))
}

// --- sockets

pub(super) unsafe extern "C" fn socket(user: User, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.make(domain, kind, protocol)))
}

pub(super) unsafe extern "C" fn bind(user: User, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's address.
        let addr = unsafe { address(addr, len) }?;
        shared.call(|stack| stack.bind(fd, addr))
    })
}

pub(super) unsafe extern "C" fn listen(user: User, fd: c_int, backlog: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.listen(fd, backlog)))
}

pub(super) unsafe extern "C" fn accept(
    user: User,
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    enter(user, |shared| {
        // The address is told while it is under the lock: it may be shared with the stack.
        blocking(shared, fd, 0, |stack| {
            let Some((accepted, peer)) = stack.accept(fd)? else { return Ok(None) };
            // SAFETY: the caller's room for it.
            unsafe { tell(Some(&peer), addr, len) }?;
            Ok(Some(accepted))
        })
    })
}

pub(super) unsafe extern "C" fn connect(
    user: User,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's address.
        let addr = unsafe { address(addr, len) }?;
        shared.call(|stack| stack.connect(fd, addr))?;
        let outcome = blocking(shared, fd, 0, |stack| stack.connected(fd));
        outcome.map_err(|errno| if errno.0 == libc::EAGAIN { Errno(libc::EINPROGRESS) } else { errno })
    })
}

pub(super) unsafe extern "C" fn close(user: User, fd: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.close(fd)))
}

pub(super) unsafe extern "C" fn shutdown(user: User, fd: c_int, how: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.shutdown(fd, how)))
}

pub(super) unsafe extern "C" fn fcntl(user: User, fd: c_int, command: c_int, arg: c_long) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.fcntl(fd, command, arg as c_int)))
}

pub(super) unsafe extern "C" fn ioctl(user: User, fd: c_int, request: c_ulong, arg: *mut c_int) -> c_int {
    enter(user, |shared| {
        let value = shared.call(|stack| stack.ioctl(fd, request))?;
        // SAFETY: all requests that come here yield a number, and so have a place for one.
        let out = unsafe { items(arg, 1) }?;
        out[0] = value;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn getsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    enter(user, |shared| {
        let mut option = [0; LARGEST];
        let whole = shared.call(|stack| stack.option(fd, level, name, &mut option))?;
        // SAFETY: the caller's length, and so many bytes.
        unsafe {
            let len = &mut items(len, 1)?[0];
            let out = items(value.cast::<u8>(), *len as usize)?;
            let count = whole.min(out.len());
            out[..count].copy_from_slice(&option[..count]);
            *len = count as socklen_t;
        }
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn setsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's value.
        let value = unsafe { bytes(value, len as usize) }?;
        shared.call(|stack| stack.set_option(fd, level, name, value))
    })
}

// --- bytes

/// Reads into parts.
///
/// # Safety
/// `addr` and `len` are as for [`tell`].
unsafe fn receive(
    shared: &Shared,
    fd: c_int,
    out: &mut [&mut [u8]],
    flags: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<ssize_t, Errno> {
    blocking(shared, fd, flags, |stack| {
        let Some((count, from)) = stack.receive(fd, out, flags)? else { return Ok(None) };
        // SAFETY: the caller's promise.
        unsafe { tell(from.as_ref(), addr, len) }?;
        Ok(Some(count as ssize_t))
    })
}

/// Writes all of it, unless it may not wait.
fn transmit(
    shared: &Shared,
    fd: c_int,
    bytes: &[u8],
    flags: c_int,
    to: Option<&Addr>,
) -> Result<ssize_t, Errno> {
    let mut sent = 0;
    let outcome = blocking(shared, fd, flags, |stack| {
        let Some(count) = stack.send(fd, &bytes[sent..], flags, to)? else { return Ok(None) };
        sent += count;
        Ok((sent == bytes.len()).then_some(()))
    });
    match outcome {
        Err(error) if sent == 0 => Err(error),
        _ => Ok(sent as ssize_t),
    }
}

pub(super) unsafe extern "C" fn read(user: User, fd: c_int, data: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: what this is of the caller's, it is of the callee's.
    unsafe { recv(user, fd, data, len, 0) }
}

pub(super) unsafe extern "C" fn recv(
    user: User,
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: likewise; nobody wants to know the peer.
    unsafe { recvfrom(user, fd, data, len, flags, std::ptr::null_mut(), std::ptr::null_mut()) }
}

pub(super) unsafe extern "C" fn recvfrom(
    user: User,
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory, and the caller's room for an address.
        unsafe { receive(shared, fd, &mut [items(data.cast(), len)?], flags, addr, addr_len) }
    })
}

pub(super) unsafe extern "C" fn readv(user: User, fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory.
        let mut out = unsafe { scattered(parts, count(n)?) }?;
        // SAFETY: nobody wants to know the peer.
        unsafe { receive(shared, fd, &mut out, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
    })
}

pub(super) unsafe extern "C" fn recvmsg(
    user: User,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's message, its memory, and its room for an address.
        unsafe {
            let message = &mut items(message, 1)?[0];
            let mut out = scattered(message.msg_iov, message.msg_iovlen)?;
            let len = &raw mut message.msg_namelen;
            let count = receive(shared, fd, &mut out, flags, message.msg_name.cast(), len)?;
            (message.msg_controllen, message.msg_flags) = (0, 0);
            Ok(count)
        }
    })
}

pub(super) unsafe extern "C" fn write_(user: User, fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: what this is of the caller's, it is of the callee's.
    unsafe { send(user, fd, data, len, 0) }
}

pub(super) unsafe extern "C" fn send(
    user: User,
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: likewise; there is no address.
    unsafe { sendto(user, fd, data, len, flags, std::ptr::null(), 0) }
}

pub(super) unsafe extern "C" fn sendto(
    user: User,
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory, and the caller's address.
        let (bytes, to) = unsafe {
            (bytes(data, len)?, if addr.is_null() { None } else { Some(address(addr, addr_len)?) })
        };
        transmit(shared, fd, bytes, flags, to.as_ref())
    })
}

pub(super) unsafe extern "C" fn writev(user: User, fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory.
        let bytes = unsafe { gathered(parts, count(n)?) }?;
        transmit(shared, fd, &bytes, 0, None)
    })
}

pub(super) unsafe extern "C" fn sendmsg(
    user: User,
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's message, its memory, and its address; nothing is written.
        let (bytes, to) = unsafe {
            let message = &items(message.cast_mut(), 1)?[0];
            let name = message.msg_name.cast::<sockaddr>();
            let to = if name.is_null() { None } else { Some(address(name, message.msg_namelen)?) };
            (gathered(message.msg_iov, message.msg_iovlen)?, to)
        };
        transmit(shared, fd, &bytes, flags, to.as_ref())
    })
}

// --- readiness

/// A timeout in ms: below zero, none.
fn timeout(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

pub(super) unsafe extern "C" fn poll(user: User, fds: *mut pollfd, n: nfds_t, ms: c_int) -> c_int {
    enter(user, |shared| {
        let n = usize::try_from(n).ok().filter(|n| *n <= POLLED).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: the caller's array.
        let fds = unsafe { items(fds, n) }?;
        Ok(shared.wait(timeout(ms), |stack| stack.poll(fds)).unwrap_or(0))
    })
}

pub(super) unsafe extern "C" fn epoll_create(user: User, size: c_int) -> c_int {
    enter(user, |shared| match size {
        ..=0 => Err(Errno(libc::EINVAL)),
        _ => shared.call(Stack::epoll_create),
    })
}

pub(super) unsafe extern "C" fn epoll_ctl(
    user: User,
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: NULL, or the caller's event; read as it may be, not as it should be aligned.
    let event = (!event.is_null()).then(|| unsafe { event.read_unaligned() });
    enter(user, |shared| shared.call(|stack| stack.epoll_ctl(epfd, op, fd, event)))
}

pub(super) unsafe extern "C" fn epoll_wait(
    user: User,
    epfd: c_int,
    events: *mut epoll_event,
    n: c_int,
    ms: c_int,
) -> c_int {
    enter(user, |shared| {
        let n = count(n).ok().filter(|n| (1..=POLLED).contains(n)).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: the caller's array.
        let events = unsafe { items(events, n) }?;
        shared.wait(timeout(ms), |stack| stack.epoll_wait(epfd, events).transpose()).unwrap_or(Ok(0))
    })
}

// --- the device and the clock

pub(super) unsafe extern "C" fn netdev_send(user: User, data: *const c_void, len: size_t) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's packet.
        let packet = unsafe { bytes(data, len) }?;
        shared.call(|stack| {
            let now = stack.now();
            stack.link.send(stack.demi.heap(), now, packet)?;
            Ok(0)
        })
    })
}

pub(super) unsafe extern "C" fn netdev_receive(
    user: User,
    data: *mut c_void,
    len: *mut size_t,
    time_usecs: *mut c_longlong,
) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's length, place for a time, and so many bytes.
        let (len, time, out) = unsafe {
            let len = &mut items(len, 1)?[0];
            let out = items(data.cast::<u8>(), *len)?;
            (len, &mut items(time_usecs, 1)?[0], out)
        };
        let packet = shared.wait(Some(PACKET), |stack| {
            let (at, packet) = stack.link.receive()?;
            Some((stack.since_1970(at), packet))
        });
        let (at, packet) = packet.unwrap_or_default();
        *len = packet.len().min(out.len());
        out[..*len].copy_from_slice(&packet[..*len]);
        *time = at.as_micros() as c_longlong;
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn usleep(user: User, usecs: c_uint) -> c_int {
    enter(user, |shared| {
        shared.wait(Some(Duration::from_micros(usecs.into())), |_| None::<()>);
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn gettimeofday(user: User, tv: *mut timeval, _zone: *mut c_void) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's place for a time.
        let out = unsafe { items(tv, 1) }?;
        let now = shared.glance(Stack::time_of_day);
        out[0] = timeval { tv_sec: now.as_secs() as i64, tv_usec: now.subsec_micros().into() };
        Ok(0)
    })
}

// --- what there is not

pub(super) unsafe extern "C" fn pipe(user: User, _fds: *mut c_int) -> c_int {
    enter(user, |_| Err(Errno(libc::ENOSYS)))
}

pub(super) unsafe extern "C" fn splice(
    user: User,
    _in: c_int,
    _in_at: *mut loff_t,
    _out: c_int,
    _out_at: *mut loff_t,
    _len: size_t,
    _flags: c_uint,
) -> ssize_t {
    enter(user, |_| Err(Errno(libc::ENOSYS)))
}
