//! packetdrill's table of calls, and pointers of C turned into references.
//!
//! The table has the order and the types of `struct packetdrill_interface`. Two of its entries are variadic in C, `fcntl`
//! and `ioctl`; here they take their third argument as a register, which is how all ABIs of Linux that this builds for
//! pass it. It is used only where the request has one.

mod calls;
mod pointers;

use std::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use demi_c::errno::Errno;
use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval,
};

use self::calls::*;
use crate::flags::Flags;
use crate::shared::Shared;

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
