//! packetdrill's table of calls, and pointers of C turned into references.
//!
//! The table has the order and the types of `struct packetdrill_interface`. Two of its entries are variadic in C, `fcntl`
//! and `ioctl`; here they take their third argument as a register, which is how all ABIs of Linux that this builds for
//! pass it. It is used only where the request has one.

use std::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::time::Duration;

use demi_api::Addr;
use demi_c::addr::{LONGEST, parse, write};
use demi_c::errno::Errno;
use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval,
};

use crate::flags::Flags;
use crate::options::LARGEST;
use crate::shared::Shared;
use crate::stack::Stack;

/// Parts of one scattered read or write, at the most: as the system has it.
const PARTS: usize = 1024;
/// Descriptors of one `poll`, at the most.
const POLLED: usize = 4096;

/// How long a script waits for a packet.
const PACKET: Duration = Duration::from_secs(10);

/// What belongs to whoever holds the lock around it, whichever thread that is.
pub(crate) struct Confined<T>(T);

impl<T> Confined<T> {
    pub(crate) fn new(inner: T) -> Confined<T> {
        Confined(inner)
    }
}

// SAFETY: the only value of this type is made, moved into its mutex, used and dropped as one: all clones of the counted
// pointers in it are in it as well, as no buffer, handle or clock leaves the closures that run under the lock. So counts
// that are not atomic are changed by one thread at a time, and the lock orders the changes. What is kept by thread
// beside it (empty boxes for long arrays) holds nothing of it.
unsafe impl<T> Send for Confined<T> {}

impl<T> Deref for Confined<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Confined<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

type User = *mut c_void;

/// `struct packetdrill_interface`.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs, reason = "named as in packetdrill.h, which describes them")]
pub struct Interface {
    pub userdata: User,
    pub free: unsafe extern "C" fn(User),
    pub socket: unsafe extern "C" fn(User, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(User, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: unsafe extern "C" fn(User, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(User, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(User, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(User, c_int, *mut c_void, size_t) -> ssize_t,
    pub readv: unsafe extern "C" fn(User, c_int, *const iovec, c_int) -> ssize_t,
    pub recv: unsafe extern "C" fn(User, c_int, *mut c_void, size_t, c_int) -> ssize_t,
    pub recvfrom: unsafe extern "C" fn(
        User,
        c_int,
        *mut c_void,
        size_t,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub recvmsg: unsafe extern "C" fn(User, c_int, *mut msghdr, c_int) -> ssize_t,
    pub write: unsafe extern "C" fn(User, c_int, *const c_void, size_t) -> ssize_t,
    pub writev: unsafe extern "C" fn(User, c_int, *const iovec, c_int) -> ssize_t,
    pub send: unsafe extern "C" fn(User, c_int, *const c_void, size_t, c_int) -> ssize_t,
    pub sendto: unsafe extern "C" fn(
        User,
        c_int,
        *const c_void,
        size_t,
        c_int,
        *const sockaddr,
        socklen_t,
    ) -> ssize_t,
    pub sendmsg: unsafe extern "C" fn(User, c_int, *const msghdr, c_int) -> ssize_t,
    pub fcntl: unsafe extern "C" fn(User, c_int, c_int, c_long) -> c_int,
    pub ioctl: unsafe extern "C" fn(User, c_int, c_ulong, *mut c_int) -> c_int,
    pub close: unsafe extern "C" fn(User, c_int) -> c_int,
    pub shutdown: unsafe extern "C" fn(User, c_int, c_int) -> c_int,
    pub getsockopt: unsafe extern "C" fn(User, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub setsockopt: unsafe extern "C" fn(User, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(User, *mut pollfd, nfds_t, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(User, *const c_void, size_t) -> c_int,
    pub netdev_receive: unsafe extern "C" fn(User, *mut c_void, *mut size_t, *mut c_longlong) -> c_int,
    pub usleep: unsafe extern "C" fn(User, c_uint) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(User, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: unsafe extern "C" fn(User, c_int) -> c_int,
    pub epoll_ctl: unsafe extern "C" fn(User, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub epoll_wait: unsafe extern "C" fn(User, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub pipe: unsafe extern "C" fn(User, *mut c_int) -> c_int,
    pub splice: unsafe extern "C" fn(User, c_int, *mut loff_t, c_int, *mut loff_t, size_t, c_uint) -> ssize_t,
}

/// Fills in the table. If the flags cannot be used, standard error says why, and every call fails with `ENODEV`.
///
/// # Safety
/// `flags` is NULL or a string, and `interface` points to a table that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, interface: *mut Interface) {
    if interface.is_null() {
        return;
    }
    let text = match flags.is_null() {
        true => c"",
        // SAFETY: not NULL, so it is a string.
        false => unsafe { CStr::from_ptr(flags) },
    };
    let made = catch_unwind(|| Shared::new(&Flags::parse(&text.to_string_lossy())?));
    let userdata = match made {
        Ok(Ok(shared)) => Box::into_raw(Box::new(shared)).cast(),
        Ok(Err(error)) => {
            eprintln!("libdemi_packetdrill: {error}");
            std::ptr::null_mut()
        }
        Err(_) => std::ptr::null_mut(),
    };
    let table = Interface {
        userdata,
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write: write_,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    // SAFETY: the caller's table, which may be written.
    unsafe { interface.write(table) };
}

unsafe extern "C" fn free(user: User) {
    if user.is_null() {
        return;
    }
    // SAFETY: it came from a box in `packetdrill_interface_init`, and nobody uses it any more.
    let shared = unsafe { Box::from_raw(user.cast::<Shared>()) };
    // What a panic leaves behind is leaked.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(shared)));
}

// --- entering and leaving

/// Runs a call: an error becomes `errno` and a result of -1, and so does a panic.
fn enter<T: From<i8>>(user: User, call: impl FnOnce(&Shared) -> Result<T, Errno>) -> T {
    let outcome = match user.is_null() {
        true => Err(Errno(libc::ENODEV)),
        false => {
            // SAFETY: not NULL, so it is what `packetdrill_interface_init` made, until `free`.
            let shared = unsafe { &*user.cast::<Shared>() };
            catch_unwind(AssertUnwindSafe(|| call(shared))).unwrap_or(Err(Errno(libc::ENOTRECOVERABLE)))
        }
    };
    outcome.unwrap_or_else(|Errno(errno)| {
        // SAFETY: the place of this thread's errno, always there.
        unsafe { *libc::__errno_location() = errno };
        T::from(-1)
    })
}

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

// --- pointers

/// Memory of the caller's to be read.
///
/// # Safety
/// `data` is NULL or has `len` bytes, which nobody writes during the call.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Errno(libc::EFAULT)),
        (_, len) if len > isize::MAX as usize => Err(Errno(libc::EINVAL)),
        // SAFETY: not NULL, so there are so many bytes.
        (false, len) => Ok(unsafe { slice::from_raw_parts(data.cast(), len) }),
    }
}

/// Memory of the caller's to be written.
///
/// # Safety
/// `data` is NULL or aligned and has `len` elements, all initialized, which nobody else uses during the call.
unsafe fn items<'a, T>(data: *mut T, len: usize) -> Result<&'a mut [T], Errno> {
    match (data.is_null(), len) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Errno(libc::EFAULT)),
        (_, len) if len > isize::MAX as usize / size_of::<T>() => Err(Errno(libc::EINVAL)),
        // SAFETY: not NULL, so there are so many elements.
        (false, len) => Ok(unsafe { slice::from_raw_parts_mut(data, len) }),
    }
}

/// An address of the caller's.
///
/// # Safety
/// As for [`bytes`].
unsafe fn address(addr: *const sockaddr, len: socklen_t) -> Result<Addr, Errno> {
    if len as usize > LONGEST {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: the caller's promise.
    parse(unsafe { bytes(addr.cast(), len as usize) }?)
}

/// Tells an address, if the caller wants to know it.
///
/// # Safety
/// Both are NULL, or `len` says how many bytes there are at `addr`.
unsafe fn tell(told: Option<&Addr>, addr: *mut sockaddr, len: *mut socklen_t) -> Result<(), Errno> {
    if addr.is_null() {
        return Ok(());
    }
    if len.is_null() {
        return Err(Errno(libc::EFAULT));
    }
    let mut text = [0; LONGEST];
    let whole = told.map_or(0, |told| write(told, &mut text));
    // SAFETY: both are not NULL, so there are so many bytes.
    unsafe {
        let out = items(addr.cast::<u8>(), *len as usize)?;
        let count = whole.min(out.len());
        out[..count].copy_from_slice(&text[..count]);
        *len = whole as socklen_t;
    }
    Ok(())
}

/// Parts of memory of the caller's.
///
/// # Safety
/// `parts` is NULL or has `count` parts, each as for [`items`].
unsafe fn scattered<'a>(parts: *const iovec, count: usize) -> Result<Vec<&'a mut [u8]>, Errno> {
    if count > PARTS {
        return Err(Errno(libc::EMSGSIZE));
    }
    // SAFETY: the caller's promise; the parts themselves are not written.
    let parts = unsafe { items(parts.cast_mut(), count) }?;
    // SAFETY: likewise.
    parts.iter().map(|part| unsafe { items(part.iov_base.cast::<u8>(), part.iov_len) }).collect()
}

/// The same, put together.
///
/// # Safety
/// As for [`scattered`].
unsafe fn gathered(parts: *const iovec, count: usize) -> Result<Vec<u8>, Errno> {
    // SAFETY: the caller's promise.
    Ok(unsafe { scattered(parts, count) }?.concat())
}

fn count(value: c_int) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| Errno(libc::EINVAL))
}

// --- sockets

unsafe extern "C" fn socket(user: User, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.make(domain, kind, protocol)))
}

unsafe extern "C" fn bind(user: User, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's address.
        let addr = unsafe { address(addr, len) }?;
        shared.call(|stack| stack.bind(fd, addr))
    })
}

unsafe extern "C" fn listen(user: User, fd: c_int, backlog: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.listen(fd, backlog)))
}

unsafe extern "C" fn accept(user: User, fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
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

unsafe extern "C" fn connect(user: User, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's address.
        let addr = unsafe { address(addr, len) }?;
        shared.call(|stack| stack.connect(fd, addr))?;
        let outcome = blocking(shared, fd, 0, |stack| stack.connected(fd));
        outcome.map_err(|errno| if errno.0 == libc::EAGAIN { Errno(libc::EINPROGRESS) } else { errno })
    })
}

unsafe extern "C" fn close(user: User, fd: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.close(fd)))
}

unsafe extern "C" fn shutdown(user: User, fd: c_int, how: c_int) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.shutdown(fd, how)))
}

unsafe extern "C" fn fcntl(user: User, fd: c_int, command: c_int, arg: c_long) -> c_int {
    enter(user, |shared| shared.call(|stack| stack.fcntl(fd, command, arg as c_int)))
}

unsafe extern "C" fn ioctl(user: User, fd: c_int, request: c_ulong, arg: *mut c_int) -> c_int {
    enter(user, |shared| {
        let value = shared.call(|stack| stack.ioctl(fd, request))?;
        // SAFETY: all requests that come here yield a number, and so have a place for one.
        let out = unsafe { items(arg, 1) }?;
        out[0] = value;
        Ok(0)
    })
}

unsafe extern "C" fn getsockopt(
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

unsafe extern "C" fn setsockopt(
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

unsafe extern "C" fn read(user: User, fd: c_int, data: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: what this is of the caller's, it is of the callee's.
    unsafe { recv(user, fd, data, len, 0) }
}

unsafe extern "C" fn recv(user: User, fd: c_int, data: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: likewise; nobody wants to know the peer.
    unsafe { recvfrom(user, fd, data, len, flags, std::ptr::null_mut(), std::ptr::null_mut()) }
}

unsafe extern "C" fn recvfrom(
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

unsafe extern "C" fn readv(user: User, fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory.
        let mut out = unsafe { scattered(parts, count(n)?) }?;
        // SAFETY: nobody wants to know the peer.
        unsafe { receive(shared, fd, &mut out, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
    })
}

unsafe extern "C" fn recvmsg(user: User, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
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

unsafe extern "C" fn write_(user: User, fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: what this is of the caller's, it is of the callee's.
    unsafe { send(user, fd, data, len, 0) }
}

unsafe extern "C" fn send(user: User, fd: c_int, data: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    // SAFETY: likewise; there is no address.
    unsafe { sendto(user, fd, data, len, flags, std::ptr::null(), 0) }
}

unsafe extern "C" fn sendto(
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

unsafe extern "C" fn writev(user: User, fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    enter(user, |shared| {
        // SAFETY: the caller's memory.
        let bytes = unsafe { gathered(parts, count(n)?) }?;
        transmit(shared, fd, &bytes, 0, None)
    })
}

unsafe extern "C" fn sendmsg(user: User, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
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

unsafe extern "C" fn poll(user: User, fds: *mut pollfd, n: nfds_t, ms: c_int) -> c_int {
    enter(user, |shared| {
        let n = usize::try_from(n).ok().filter(|n| *n <= POLLED).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: the caller's array.
        let fds = unsafe { items(fds, n) }?;
        Ok(shared.wait(timeout(ms), |stack| stack.poll(fds)).unwrap_or(0))
    })
}

unsafe extern "C" fn epoll_create(user: User, size: c_int) -> c_int {
    enter(user, |shared| match size {
        ..=0 => Err(Errno(libc::EINVAL)),
        _ => shared.call(Stack::epoll_create),
    })
}

unsafe extern "C" fn epoll_ctl(
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

unsafe extern "C" fn epoll_wait(
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

unsafe extern "C" fn netdev_send(user: User, data: *const c_void, len: size_t) -> c_int {
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

unsafe extern "C" fn netdev_receive(
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

unsafe extern "C" fn usleep(user: User, usecs: c_uint) -> c_int {
    enter(user, |shared| {
        shared.wait(Some(Duration::from_micros(usecs.into())), |_| None::<()>);
        Ok(0)
    })
}

unsafe extern "C" fn gettimeofday(user: User, tv: *mut timeval, _zone: *mut c_void) -> c_int {
    enter(user, |shared| {
        // SAFETY: the caller's place for a time.
        let out = unsafe { items(tv, 1) }?;
        let now = shared.glance(Stack::time_of_day);
        out[0] = timeval { tv_sec: now.as_secs() as i64, tv_usec: now.subsec_micros().into() };
        Ok(0)
    })
}

// --- what there is not

unsafe extern "C" fn pipe(user: User, _fds: *mut c_int) -> c_int {
    enter(user, |_| Err(Errno(libc::ENOSYS)))
}

unsafe extern "C" fn splice(
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
