//! The monotonic clock, read in place.

/// Nanoseconds of the monotonic clock. One vDSO call, without the arithmetic that the standard library adds to it.
#[inline]
pub(super) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to nothing but `now`. It cannot fail: the clock exists, and the address is good.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
