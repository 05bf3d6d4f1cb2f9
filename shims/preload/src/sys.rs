//! The kernel, past the C library's symbols; and the C library's own functions behind ours.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use demi_api::addr::Domain;
use demi_api::fd::Fd;
use demi_api::libos::{OptionName, SocketOption};
use libc::{epoll_event, pollfd, sigset_t, timespec};
use rustix::io::Errno;

use crate::state::Interest;

/// See [`above_the_crowd`].
const CROWDED: c_int = 256;

/// Bytes of the kernel's signal set.
const SIGNALS: usize = 8;

/// What a raw call returned.
fn outcome(result: c_long) -> Result<usize, Errno> {
    // `syscall` has told apart what is an error.
    if result >= 0 { Ok(result as usize) } else { Err(last()) }
}

/// The errno of the thread, right after a call has failed.
fn last() -> Errno {
    Errno::from_raw_os_error(errno())
}

/// The errno of the thread, whatever it is.
pub(crate) fn errno() -> c_int {
    // SAFETY: the address is the thread's own, and always good.
    unsafe { *libc::__errno_location() }
}

/// Sets it back.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno }
}

/// Sets the errno of the thread.
pub(crate) fn set_last(errno: Errno) {
    set_errno(errno.raw_os_error());
}

/// A descriptor of the program's, for a call that uses it once. That it may be closed meanwhile is no worse than for any
/// program.
pub(crate) fn borrow(fd: c_int) -> Option<BorrowedFd<'static>> {
    // SAFETY: the number is not -1; what it names, or that it names nothing, is for the kernel to say.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Writes to standard error.
pub(crate) fn say(text: &str) {
    if let Some(fd) = borrow(2) {
        let _ = rustix::io::write(fd, text.as_bytes());
    }
}

pub(crate) fn close(fd: c_int) {
    // SAFETY: the callers own the number, and forget it with this call.
    unsafe { rustix::io::close(fd) }
}

/// The number of a descriptor.
pub(crate) fn number(fd: &OwnedFd) -> c_int {
    fd.as_raw_fd()
}

/// Another descriptor for the same file, out of the way of the numbers that the program gets.
pub(crate) fn duplicate_high(fd: c_int) -> Result<OwnedFd, Errno> {
    let fd = borrow(fd).ok_or(Errno::BADF)?;
    rustix::io::fcntl_dupfd_cloexec(fd, lowest_of_ours()).or_else(|_| rustix::io::fcntl_dupfd_cloexec(fd, 0))
}

/// Whether a socket of the kernel is connected.
pub(crate) fn has_peer(fd: c_int) -> bool {
    borrow(fd).is_some_and(|fd| matches!(rustix::net::getpeername(fd), Ok(Some(_))))
}

/// An option of the kernel's socket.
pub(crate) fn option(fd: c_int, name: OptionName) -> Option<SocketOption> {
    use rustix::net::sockopt;
    let fd = borrow(fd)?;
    match name {
        OptionName::KeepAlive => sockopt::socket_keepalive(fd).map(SocketOption::KeepAlive).ok(),
        OptionName::KeepIdle => sockopt::tcp_keepidle(fd).map(SocketOption::KeepIdle).ok(),
        OptionName::KeepInterval => sockopt::tcp_keepintvl(fd).map(SocketOption::KeepInterval).ok(),
        OptionName::KeepCount => sockopt::tcp_keepcnt(fd).map(SocketOption::KeepCount).ok(),
        OptionName::ReuseAddr => sockopt::socket_reuseaddr(fd).map(SocketOption::ReuseAddr).ok(),
        OptionName::ReusePort => sockopt::socket_reuseport(fd).map(SocketOption::ReusePort).ok(),
        OptionName::NoDelay => sockopt::tcp_nodelay(fd).map(SocketOption::NoDelay).ok(),
        OptionName::Broadcast => sockopt::socket_broadcast(fd).map(SocketOption::Broadcast).ok(),
        _ => None,
    }
}

/// Whether a socket of IPv6 speaks that alone.
pub(crate) fn is_v6_only(fd: c_int) -> bool {
    borrow(fd).is_none_or(|fd| rustix::net::sockopt::ipv6_v6only(fd).unwrap_or(true))
}

/// Whether several sockets may have a port.
pub(crate) fn shares_port(fd: c_int) -> bool {
    borrow(fd).is_some_and(|fd| rustix::net::sockopt::socket_reuseport(fd).unwrap_or(false))
}

/// Has the kernel choose a port that nobody here has, and keep it for this socket.
pub(crate) fn reserve_port(fd: c_int) -> Result<u16, Errno> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    let fd = borrow(fd).ok_or(Errno::BADF)?;
    let four = rustix::net::bind(fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    four.or_else(|_| rustix::net::bind(fd, &SocketAddr::from((Ipv6Addr::LOCALHOST, 0))))?;
    let name = rustix::net::getsockname(fd)?;
    SocketAddr::try_from(name).map(|addr| addr.port())
}

/// A socket of the kernel's that only has a number and options.
pub(crate) fn placeholder(domain: Domain, flags: c_int) -> Result<c_int, Errno> {
    let family = if domain == Domain::Inet { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: numbers only.
    outcome(unsafe { libc::syscall(libc::SYS_socket, family, libc::SOCK_STREAM | flags, 0) })
        .map(|fd| fd as c_int)
}

/// Reads from a file, at `offset` or at its position.
pub(crate) fn read_file(fd: c_int, into: &mut [u8], offset: Option<i64>) -> Result<usize, Errno> {
    let fd = borrow(fd).ok_or(Errno::BADF)?;
    match offset {
        None => rustix::io::read(fd, into),
        Some(offset) => rustix::io::pread(fd, into, u64::try_from(offset).map_err(|_| Errno::INVAL)?),
    }
}

/// Undoes the reading of the last `count` bytes.
pub(crate) fn step_back(fd: c_int, count: usize) {
    if let Some(fd) = borrow(fd) {
        let _ = rustix::fs::seek(fd, rustix::fs::SeekFrom::Current(-(count as i64)));
    }
}

/// Whether a descriptor is of a pipe.
pub(crate) fn is_pipe(fd: c_int) -> Result<bool, Errno> {
    Ok(kind(fd)? == rustix::fs::FileType::Fifo)
}

/// Whether a descriptor is of what has no position.
pub(crate) fn is_pipe_or_socket(fd: c_int) -> Result<bool, Errno> {
    Ok(matches!(kind(fd)?, rustix::fs::FileType::Fifo | rustix::fs::FileType::Socket))
}

fn kind(fd: c_int) -> Result<rustix::fs::FileType, Errno> {
    let stat = rustix::fs::fstat(borrow(fd).ok_or(Errno::BADF)?)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode))
}

/// Reads from a pipe: only what is there, unless `wait` is set.
pub(crate) fn read_pipe(fd: c_int, into: &mut [u8], wait: bool) -> Result<usize, Errno> {
    let borrowed = borrow(fd).ok_or(Errno::BADF)?;
    let mut ready = [pollfd { fd, events: libc::POLLIN, revents: 0 }];
    if !wait && poll(&mut ready, Some(Duration::ZERO), None)? == 0 {
        return Err(Errno::AGAIN);
    }
    rustix::io::read(borrowed, into)
}

/// Writes to a pipe: only if it has room, unless `wait` is set.
pub(crate) fn write_pipe(fd: c_int, bytes: &[u8], wait: bool) -> Result<usize, Errno> {
    let borrowed = borrow(fd).ok_or(Errno::BADF)?;
    let mut ready = [pollfd { fd, events: libc::POLLOUT, revents: 0 }];
    if !wait && poll(&mut ready, Some(Duration::ZERO), None)? == 0 {
        return Err(Errno::AGAIN);
    }
    // What a pipe takes whole it takes without waiting for the rest.
    let part = if wait { bytes } else { &bytes[..bytes.len().min(4096)] };
    rustix::io::write(borrowed, part)
}

/// Gives a socket of the kernel's the options of the one that it was accepted on.
pub(crate) fn copy_options(from: c_int, to: c_int) {
    const OPTIONS: [(c_int, c_int); 9] = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::SOL_SOCKET, libc::SO_REUSEADDR),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT),
        (libc::SOL_SOCKET, libc::SO_OOBINLINE),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    ];
    for (level, name) in OPTIONS {
        let mut value: c_int = 0;
        let mut len = size_of::<c_int>() as libc::socklen_t;
        // SAFETY: the value and its length are locals of the size that is said; each call reads or writes no more.
        unsafe {
            if libc::syscall(libc::SYS_getsockopt, from, level, name, &raw mut value, &raw mut len) == 0 {
                libc::syscall(libc::SYS_setsockopt, to, level, name, &raw const value, len);
            }
        }
    }
}

/// A new descriptor that threads wake each other with.
pub(crate) fn eventfd() -> Option<Fd> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let fd = rustix::event::eventfd(0, flags).ok().map(Fd::from)?;
    let high = rustix::io::fcntl_dupfd_cloexec(&fd, lowest_of_ours()).map(Fd::from);
    Some(high.unwrap_or(fd))
}

/// Descriptors of the shim's own lie from here on, so that the program gets the low numbers, which it may count on.
fn lowest_of_ours() -> c_int {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    i32::try_from((limit / 2).min(1 << 19)).unwrap_or(0)
}

/// Runs `make` while there is no descriptor to be had below [`CROWDED`], so that what it opens lies above. Returns what it
/// made, and which descriptors there are more than before.
pub(crate) fn above_the_crowd<T>(make: impl FnOnce() -> T) -> (T, Vec<c_int>) {
    let mut crowd = Vec::new();
    if lowest_of_ours() >= CROWDED
        && let Ok(first) =
            rustix::fs::open("/dev/null", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
    {
        let first = Fd::from(first);
        while let Ok(next) = rustix::io::fcntl_dupfd_cloexec(&first, 0) {
            let is_enough = next.as_fd().as_raw_fd() >= CROWDED;
            crowd.push(Fd::from(next));
            if is_enough {
                break;
            }
        }
        crowd.push(first);
    }
    let before = open_descriptors();
    let made = make();
    let mut new = open_descriptors();
    new.retain(|fd| *fd > CROWDED && !before.contains(fd));
    (made, new)
}

/// The descriptors of this process, in order.
fn open_descriptors() -> Vec<c_int> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut all: Vec<c_int> = names.collect();
    // That of the folder itself is closed already.
    all.retain(|fd| borrow(*fd).is_some_and(|fd| rustix::io::fcntl_getfd(fd).is_ok()));
    all.sort_unstable();
    all
}

/// Closes descriptors from `first` to `last` but for those of `kept`, which are in order.
pub(crate) fn close_between(first: u32, last: u32, kept: &[c_int]) -> Result<(), Errno> {
    let mut from = first;
    for kept in kept.iter().filter_map(|kept| u32::try_from(*kept).ok()) {
        if kept < from || kept > last {
            continue;
        }
        if kept > from {
            close_all(from, kept - 1)?;
        }
        from = kept + 1;
    }
    if from <= last { close_all(from, last) } else { Ok(()) }
}

fn close_all(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: numbers only: the program has asked for it, and what is ours is not among them.
    outcome(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Wakes whoever sleeps on an eventfd.
pub(crate) fn signal(fd: c_int) {
    if let Some(fd) = borrow(fd) {
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }
}

/// Empties an eventfd.
pub(crate) fn drain(fd: c_int) {
    if let Some(fd) = borrow(fd) {
        let _ = rustix::io::read(fd, &mut [0; 8]);
    }
}

pub(crate) fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, interest: Option<Interest>) -> Result<(), Errno> {
    let mut event = interest.map(|interest| epoll_event { events: interest.events, u64: interest.data });
    let event = event.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: the event is null or a local that outlives the call.
    outcome(unsafe { libc::syscall(libc::SYS_epoll_ctl, epfd, op, fd, event) }).map(drop)
}

/// What is ready now in a set of the kernel's.
pub(crate) fn epoll_now(epfd: c_int, events: &mut [epoll_event]) -> Result<usize, Errno> {
    let room = events.len().min(1 << 16) as c_int;
    // SAFETY: `room` events fit; the time is zero and the mask absent.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait,
            epfd,
            events.as_mut_ptr(),
            room,
            0 as c_int,
            std::ptr::null::<c_void>(),
            SIGNALS,
        )
    })
}

/// Sleeps until one of `fds` is ready, a signal comes or the time is up; the signal mask is `mask` meanwhile.
pub(crate) fn poll(
    fds: &mut [pollfd],
    limit: Option<Duration>,
    mask: Option<&sigset_t>,
) -> Result<usize, Errno> {
    let mut time = limit.map(to_timespec);
    let time = time.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let mask = mask.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as many descriptions are there as is said; time and mask are null or outlive the call. The kernel reads
    // eight bytes of the mask, and the C library's is larger.
    outcome(unsafe { libc::syscall(libc::SYS_ppoll, fds.as_mut_ptr(), fds.len(), time, mask, SIGNALS) })
}

fn to_timespec(time: Duration) -> timespec {
    timespec {
        tv_sec: time.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: time.subsec_nanos() as c_long,
    }
}

/// All signals blocked that a program can have handlers of, until this is dropped.
pub(crate) struct Blocked(sigset_t);

impl Blocked {
    pub(crate) fn new() -> Blocked {
        // SAFETY: all zeros are a valid set; each call writes to local sets only. Eight bytes are what the kernel reads
        // and writes.
        unsafe {
            let mut before: sigset_t = std::mem::zeroed();
            let mut all = [!0u8; size_of::<sigset_t>()];
            // Without 32 and 33, which are the C library's own: who changes the identity waits for each thread to
            // take part.
            (all[3], all[4]) = (0x7f, 0xfe);
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                all.as_ptr(),
                &raw mut before,
                SIGNALS,
            );
            Blocked(before)
        }
    }

    /// What was blocked before.
    pub(crate) fn before(&self) -> &sigset_t {
        &self.0
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is a copy of what the kernel gave.
        unsafe {
            let none = std::ptr::null_mut::<c_void>();
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const self.0, none, SIGNALS);
        }
    }
}

/// Whether a call that a signal interrupts is to go on: every handler there is was installed so. Which of them has run,
/// nothing tells.
pub(crate) fn restarts() -> bool {
    for number in 1..=64 {
        // SAFETY: all zeros are a valid action; the kernel's is smaller than what is there for it.
        let (result, action) = unsafe {
            let mut action: KernelAction = std::mem::zeroed();
            let none = std::ptr::null::<c_void>();
            let result = libc::syscall(libc::SYS_rt_sigaction, number, none, &raw mut action, SIGNALS);
            (result, action)
        };
        let has_handler = action.handler != libc::SIG_DFL && action.handler != libc::SIG_IGN;
        if result == 0 && has_handler && action.flags & libc::SA_RESTART as u64 == 0 {
            // The C library's own, for cancellation and the changing of identities.
            if number != 32 && number != 33 {
                return false;
            }
        }
    }
    true
}

#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Sends SIGPIPE to the calling thread.
pub(crate) fn raise_pipe() {
    // SAFETY: identifiers and a signal's number, all by value.
    unsafe {
        let (process, thread) = (libc::syscall(libc::SYS_getpid), libc::syscall(libc::SYS_gettid));
        libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGPIPE);
    }
}

pub(crate) fn process() -> i32 {
    // SAFETY: it has no arguments and cannot fail. Not the C library's, which might remember another's.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// Has functions called around each fork of this process, for good.
pub(crate) fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    // SAFETY: the functions are valid for as long as the library is loaded, which is never unloaded before the end.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// The function of this name behind ours, in `slot` once it is found.
pub(crate) fn behind(slot: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let known = slot.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    // SAFETY: the name ends with a NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast::<c_char>()) };
    slot.store(found, Ordering::Release);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_of_the_c_library_are_never_blocked() {
        let _outer = Blocked::new();
        let inner = Blocked::new();
        // SAFETY: a set is larger than the eight bytes of it that the kernel has written.
        let blocked = unsafe { std::ptr::from_ref(inner.before()).cast::<u64>().read_unaligned() };
        let is_blocked = |signal: c_int| blocked & (1 << (signal - 1)) != 0;
        assert!(!is_blocked(32) && !is_blocked(33));
        assert!([libc::SIGTERM, 31, 34, 64].into_iter().all(is_blocked));
    }
}
