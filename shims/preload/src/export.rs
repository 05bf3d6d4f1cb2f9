//! The macro with which a library becomes a preload library.

/// Exports the C library's functions on sockets and descriptors, as the shim over `$carrier` has them.
///
/// To be used once, in a `cdylib`: in any other binary the symbols would take the place of the C library's for that
/// binary itself.
#[macro_export]
macro_rules! export {
    ($carrier:ty) => {
        use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

        static SHIM: $crate::Shim<$carrier> = $crate::Shim::new();

        extern "C" fn before_fork() {
            SHIM.before_fork();
        }

        extern "C" fn after_fork() {
            SHIM.after_fork();
        }

        extern "C" fn in_child() {
            SHIM.in_child();
        }

        extern "C" fn at_exit() {
            SHIM.at_exit();
        }

        const HANDLERS: [extern "C" fn(); 3] = [before_fork, after_fork, in_child];

        #[used]
        // SAFETY: the section is an array of such functions, called at the end of the process.
        #[unsafe(link_section = ".fini_array")]
        static AT_EXIT: extern "C" fn() = at_exit;

        $crate::export! { @functions
            read(fd: c_int, buf: *mut c_void, count: usize) -> isize { SHIM.read(fd, buf, count) }
            readv(fd: c_int, iov: *const $crate::libc::iovec, count: c_int) -> isize { SHIM.readv(fd, iov, count) }
            recv(fd: c_int, buf: *mut c_void, count: usize, flags: c_int) -> isize { SHIM.recv(fd, buf, count, flags) }
            recvfrom(fd: c_int, buf: *mut c_void, count: usize, flags: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t) -> isize {
                SHIM.recvfrom(fd, buf, count, flags, addr, len)
            }
            recvmsg(fd: c_int, message: *mut $crate::libc::msghdr, flags: c_int) -> isize { SHIM.recvmsg(fd, message, flags) }
            recvmmsg(fd: c_int, messages: *mut $crate::libc::mmsghdr, count: c_uint, flags: c_int, time: *mut $crate::libc::timespec) -> c_int {
                SHIM.recvmmsg(fd, messages, count, flags, time)
            }
            write(fd: c_int, buf: *const c_void, count: usize) -> isize { SHIM.write(fd, buf, count) }
            writev(fd: c_int, iov: *const $crate::libc::iovec, count: c_int) -> isize { SHIM.writev(fd, iov, count) }
            send(fd: c_int, buf: *const c_void, count: usize, flags: c_int) -> isize { SHIM.send(fd, buf, count, flags) }
            sendto(fd: c_int, buf: *const c_void, count: usize, flags: c_int, addr: *const $crate::libc::sockaddr, len: $crate::libc::socklen_t) -> isize {
                SHIM.sendto(fd, buf, count, flags, addr, len)
            }
            sendmsg(fd: c_int, message: *const $crate::libc::msghdr, flags: c_int) -> isize { SHIM.sendmsg(fd, message, flags) }
            sendmmsg(fd: c_int, messages: *mut $crate::libc::mmsghdr, count: c_uint, flags: c_int) -> c_int {
                SHIM.sendmmsg(fd, messages, count, flags)
            }
            sendfile(out: c_int, file: c_int, offset: *mut i64, count: usize) -> isize { SHIM.sendfile(out, file, offset, count) }
            sendfile64(out: c_int, file: c_int, offset: *mut i64, count: usize) -> isize { SHIM.sendfile(out, file, offset, count) }
            splice(from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, count: usize, flags: c_uint) -> isize {
                SHIM.splice(from, from_at, to, to_at, count, flags)
            }
            __read_chk(fd: c_int, buf: *mut c_void, count: usize, room: usize) -> isize {
                SHIM.read(fd, buf, $crate::fits(count, room))
            }
            __recv_chk(fd: c_int, buf: *mut c_void, count: usize, room: usize, flags: c_int) -> isize {
                SHIM.recv(fd, buf, $crate::fits(count, room), flags)
            }
            __recvfrom_chk(fd: c_int, buf: *mut c_void, count: usize, room: usize, flags: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t) -> isize {
                SHIM.recvfrom(fd, buf, $crate::fits(count, room), flags, addr, len)
            }
            socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int { SHIM.socket(HANDLERS, domain, kind, protocol) }
            bind(fd: c_int, addr: *const $crate::libc::sockaddr, len: $crate::libc::socklen_t) -> c_int { SHIM.bind_c(fd, addr, len) }
            listen(fd: c_int, backlog: c_int) -> c_int { SHIM.listen_c(fd, backlog) }
            accept(fd: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t) -> c_int { SHIM.accept4(fd, addr, len, 0) }
            accept4(fd: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t, flags: c_int) -> c_int {
                SHIM.accept4(fd, addr, len, flags)
            }
            connect(fd: c_int, addr: *const $crate::libc::sockaddr, len: $crate::libc::socklen_t) -> c_int { SHIM.connect_c(fd, addr, len) }
            shutdown(fd: c_int, how: c_int) -> c_int { SHIM.shutdown_c(fd, how) }
            getsockname(fd: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t) -> c_int { SHIM.getsockname(fd, addr, len) }
            getpeername(fd: c_int, addr: *mut $crate::libc::sockaddr, len: *mut $crate::libc::socklen_t) -> c_int { SHIM.getpeername(fd, addr, len) }
            getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut $crate::libc::socklen_t) -> c_int {
                SHIM.getsockopt(fd, level, name, value, len)
            }
            setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: $crate::libc::socklen_t) -> c_int {
                SHIM.setsockopt(fd, level, name, value, len)
            }
            poll(fds: *mut $crate::libc::pollfd, count: c_ulong, time: c_int) -> c_int { SHIM.poll_c(fds, count, time) }
            __poll_chk(fds: *mut $crate::libc::pollfd, count: c_ulong, time: c_int, room: usize) -> c_int {
                SHIM.poll_c(fds, $crate::fits(count as usize, room / size_of::<$crate::libc::pollfd>()) as c_ulong, time)
            }
            ppoll(fds: *mut $crate::libc::pollfd, count: c_ulong, time: *const $crate::libc::timespec, mask: *const $crate::libc::sigset_t) -> c_int {
                SHIM.ppoll(fds, count, time, mask)
            }
            __ppoll_chk(fds: *mut $crate::libc::pollfd, count: c_ulong, time: *const $crate::libc::timespec, mask: *const $crate::libc::sigset_t, room: usize) -> c_int {
                SHIM.ppoll(fds, $crate::fits(count as usize, room / size_of::<$crate::libc::pollfd>()) as c_ulong, time, mask)
            }
            select(count: c_int, read: *mut $crate::libc::fd_set, write: *mut $crate::libc::fd_set, other: *mut $crate::libc::fd_set, time: *mut $crate::libc::timeval) -> c_int {
                SHIM.select(count, [read, write, other], time)
            }
            pselect(count: c_int, read: *mut $crate::libc::fd_set, write: *mut $crate::libc::fd_set, other: *mut $crate::libc::fd_set, time: *const $crate::libc::timespec, mask: *const $crate::libc::sigset_t) -> c_int {
                SHIM.pselect(count, [read, write, other], time, mask)
            }
            epoll_create(size: c_int) -> c_int { SHIM.epoll_create(HANDLERS, size) }
            epoll_create1(flags: c_int) -> c_int { SHIM.epoll_create1(HANDLERS, flags) }
            epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut $crate::libc::epoll_event) -> c_int { SHIM.epoll_ctl(epfd, op, fd, event) }
            epoll_wait(epfd: c_int, events: *mut $crate::libc::epoll_event, room: c_int, time: c_int) -> c_int {
                SHIM.epoll_pwait(epfd, events, room, time, std::ptr::null())
            }
            epoll_pwait(epfd: c_int, events: *mut $crate::libc::epoll_event, room: c_int, time: c_int, mask: *const $crate::libc::sigset_t) -> c_int {
                SHIM.epoll_pwait(epfd, events, room, time, mask)
            }
            epoll_pwait2(epfd: c_int, events: *mut $crate::libc::epoll_event, room: c_int, time: *const $crate::libc::timespec, mask: *const $crate::libc::sigset_t) -> c_int {
                SHIM.epoll_pwait2(epfd, events, room, time, mask)
            }
            close(fd: c_int) -> c_int { SHIM.close(fd) }
            fclose(stream: *mut $crate::libc::FILE) -> c_int { SHIM.fclose(stream) }
            closefrom(first: c_int) -> () { SHIM.closefrom(first) }
            close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int { SHIM.close_range(first, last, flags) }
            dup(fd: c_int) -> c_int { SHIM.dup(fd) }
            dup2(fd: c_int, new: c_int) -> c_int { SHIM.dup2(fd, new) }
            dup3(fd: c_int, new: c_int, flags: c_int) -> c_int { SHIM.dup3(fd, new, flags) }
            fcntl(fd: c_int, command: c_int, argument: *mut c_char) -> c_int { SHIM.fcntl(fd, command, argument) }
            fcntl64(fd: c_int, command: c_int, argument: *mut c_char) -> c_int { SHIM.fcntl(fd, command, argument) }
            ioctl(fd: c_int, request: c_ulong, argument: *mut c_char) -> c_int { SHIM.ioctl(fd, request, argument) }
        }
    };
    (@functions $($name:ident($($arg:ident: $kind:ty),*) -> $result:ty { $body:expr })*) => {$(
        // SAFETY: taking the C library's place is what this library is for.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $kind),*) -> $result {
            // SAFETY: the caller has promised what the C library's function of this name asks.
            unsafe { $body }
        }
    )*};
}

/// As much as was asked for, if there is room for it. What the C library checks in a fortified program ends it.
pub fn fits(count: usize, room: usize) -> usize {
    if count > room {
        crate::sys::say("*** buffer overflow detected ***: terminated\n");
        std::process::abort();
    }
    count
}
