//! The one symbol.

use std::ffi::{c_int, c_long};
use std::time::{Duration, Instant};

use libc::epoll_event;

/// As epoll_wait(2), without sleeping.
///
/// # Safety
/// `events` has room for `max` of them.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    let limit = u64::try_from(timeout).ok().map(Duration::from_millis);
    let begin = Instant::now();
    loop {
        let (null, size): (*const libc::sigset_t, usize) = (std::ptr::null(), 8);
        // SAFETY: the arguments are the caller's, who promises room for what the kernel writes; no mask is set.
        let count: c_long =
            unsafe { libc::syscall(libc::SYS_epoll_pwait, epoll, events, max, 0, null, size) };
        if count != 0 || limit.is_some_and(|limit| begin.elapsed() >= limit) {
            return count as c_int;
        }
    }
}
