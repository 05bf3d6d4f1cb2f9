//! The C library's functions behind ours.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::sync::atomic::AtomicPtr;

use libc::{
    epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, off_t, pollfd, sigset_t, size_t, sockaddr,
    socklen_t, ssize_t, timespec, timeval,
};

macro_rules! next {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {$(
        /// As the C library has it.
        ///
        /// # Safety
        /// As the C library asks.
        #[inline]
        pub(crate) unsafe fn $name($($arg: $kind),*) -> $result {
            static BEHIND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let name = name_of(concat!(stringify!($name), "\0"));
            let found = crate::sys::behind(&BEHIND, name);
            if found.is_null() {
                crate::sys::set_last(rustix::io::Errno::NOSYS);
                return -1;
            }
            // SAFETY: the C library's function of this name has this type.
            let function: unsafe extern "C" fn($($kind),*) -> $result = unsafe { std::mem::transmute(found) };
            // SAFETY: the caller has promised what the function asks.
            unsafe { function($($arg),*) }
        }
    )*};
}

fn name_of(name: &'static str) -> &'static std::ffi::CStr {
    std::ffi::CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or(c"")
}

next! {
    read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t;
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    recv(fd: c_int, buf: *mut c_void, count: size_t, flags: c_int) -> ssize_t;
    recvfrom(fd: c_int, buf: *mut c_void, count: size_t, flags: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> ssize_t;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, time: *mut timespec) -> c_int;
    write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t;
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    sendto(fd: c_int, buf: *const c_void, count: size_t, flags: c_int, addr: *const sockaddr, len: socklen_t) -> ssize_t;
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t;
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int;
    sendfile(out: c_int, file: c_int, offset: *mut off_t, count: size_t) -> ssize_t;
    splice(from: c_int, from_at: *mut off_t, to: c_int, to_at: *mut off_t, count: size_t, flags: c_uint) -> ssize_t;
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    listen(fd: c_int, backlog: c_int) -> c_int;
    accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int;
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    shutdown(fd: c_int, how: c_int) -> c_int;
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int;
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int;
    poll(fds: *mut pollfd, count: nfds_t, time: c_int) -> c_int;
    ppoll(fds: *mut pollfd, count: nfds_t, time: *const timespec, mask: *const sigset_t) -> c_int;
    select(count: c_int, read: *mut fd_set, write: *mut fd_set, other: *mut fd_set, time: *mut timeval) -> c_int;
    pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, other: *mut fd_set, time: *const timespec, mask: *const sigset_t) -> c_int;
    epoll_create(size: c_int) -> c_int;
    epoll_create1(flags: c_int) -> c_int;
    epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    epoll_pwait(epfd: c_int, events: *mut epoll_event, room: c_int, time: c_int, mask: *const sigset_t) -> c_int;
    epoll_pwait2(epfd: c_int, events: *mut epoll_event, room: c_int, time: *const timespec, mask: *const sigset_t) -> c_int;
    close(fd: c_int) -> c_int;
    fclose(stream: *mut libc::FILE) -> c_int;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(fd: c_int, new: c_int) -> c_int;
    dup3(fd: c_int, new: c_int, flags: c_int) -> c_int;
}

macro_rules! next_variadic {
    ($($name:ident($($arg:ident: $kind:ty),*; $last:ident: $last_kind:ty);)*) => {$(
        /// As the C library has it: its last argument may be missing, and is then whatever was in the register.
        ///
        /// # Safety
        /// As the C library asks.
        #[inline]
        pub(crate) unsafe fn $name($($arg: $kind,)* $last: $last_kind) -> c_int {
            static BEHIND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let found = crate::sys::behind(&BEHIND, name_of(concat!(stringify!($name), "\0")));
            if found.is_null() {
                crate::sys::set_last(rustix::io::Errno::NOSYS);
                return -1;
            }
            // SAFETY: the C library's function of this name has this type.
            let function: unsafe extern "C" fn($($kind,)* ...) -> c_int = unsafe { std::mem::transmute(found) };
            // SAFETY: the caller has promised what the function asks.
            unsafe { function($($arg,)* $last) }
        }
    )*};
}

next_variadic! {
    fcntl(fd: c_int, command: c_int; argument: *mut c_char);
    ioctl(fd: c_int, request: c_ulong; argument: *mut c_char);
}
