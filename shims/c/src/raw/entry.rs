//! The calls, from pointers to references. What each does is said in its page of `docs/man`.
//!
//! # Safety
//! Of every function here: each pointer is NULL, or what the call's page says of it: valid for reads or writes of
//! its type, or of as many as the length beside it says, and used by nobody else during the call.

use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Write as _};
use std::ptr;

use demi_api::{LibOs, QToken};
use libc::{sockaddr, socklen_t, timespec};

use super::closure::{Change, ChangeFn, CompareFn, Comparison, Predicate, PredicateFn};
use super::{Out, Outs, Thread, input, inputs, path};
use crate::addr::LONGEST;
use crate::errno::Errno;
use crate::instance::{Instance, enter};
use crate::operators::codec;
use crate::options::LARGEST;
use crate::results::timeout;
use crate::types::{Args, Array, CODEC_DELIMITER, Callback, Codec, OPC_PUSH, QResult};

/// The calls with nothing but numbers and pointers to be passed on: of each, its name, its arguments, and what it
/// becomes. `out`, `get` and `addr` are what an argument is turned into.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => |$it:ident| $body:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// See the module.
            #[inline(always)]
            #[allow(unused_unsafe, reason = "some calls take numbers only")]
            pub unsafe fn $name<L: LibOs + 'static>(thread: Thread<L>, $($arg: $type),*) -> c_int {
                enter(thread, |$it: &Instance<L>| {
                    // SAFETY: the pointers are what the caller of this function promises them to be, and are used
                    // during the call only.
                    unsafe { $body }
                })
            }
        )*
    };
}

calls! {
    /// `demi_socket(3)`
    socket(qd: *mut c_int, domain: c_int, kind: c_int, protocol: c_int) =>
        |it| it.socket(Out::new(qd)?, domain, kind, protocol);
    /// `demi_bind(3)`
    bind(qd: c_int, addr: *const sockaddr, len: socklen_t) => |it| it.bind(qd, name(addr, len)?);
    /// `demi_listen(3)`
    listen(qd: c_int, backlog: c_int) => |it| it.listen(qd, backlog);
    /// `demi_accept(3)`
    accept(token: *mut u64, qd: c_int) => |it| it.accept(Out::new(token)?, qd);
    /// `demi_connect(3)`
    connect(token: *mut u64, qd: c_int, addr: *const sockaddr, len: socklen_t) =>
        |it| it.connect(Out::new(token)?, qd, name(addr, len)?);
    /// `demi_shutdown(3)`
    shutdown(qd: c_int, how: c_int) => |it| it.shutdown(qd, how);
    /// `demi_close(3)`
    close(qd: c_int) => |it| it.close(qd);
    /// `demi_push(3)`
    push(token: *mut u64, qd: c_int, sga: *const Array) => |it| it.push(Out::new(token)?, qd, input(sga)?);
    /// `demi_pushto(3)`
    pushto(token: *mut u64, qd: c_int, sga: *const Array, addr: *const sockaddr, len: socklen_t) =>
        |it| it.push_to(Out::new(token)?, qd, input(sga)?, name(addr, len)?);
    /// `demi_pop(3)`
    pop(token: *mut u64, qd: c_int) => |it| it.pop(Out::new(token)?, qd);
    /// `demi_pop_n(3)`
    pop_n(token: *mut u64, qd: c_int, count: usize) => |it| it.pop_n(Out::new(token)?, qd, count);
    /// `demi_next_element(3)`
    next_element(sga: *mut Array, token: u64) =>
        |it| it.next_element(Out::new(sga)?, token);
    /// `demi_cancel(3)`
    cancel(token: u64) => |it| it.cancel(token);
    /// `demi_wait_any(3)`
    wait_any(result: *mut QResult, offset: *mut c_int, tokens: *const u64, count: c_int, limit: *const timespec) =>
        |it| it.wait_any(Out::new(result)?, Out::new(offset)?, named(tokens, count)?, timeout(optional(limit)?)?);
    /// `demi_wait_next_n(3)`
    wait_next_n(results: *mut QResult, count: c_int, written: *mut c_int, limit: *const timespec) =>
        |it| it.wait_next_n(Outs::new(results, several(count)?)?, Out::new(written)?, timeout(optional(limit)?)?);
    /// `demi_wait_all(3)`
    wait_all(results: *mut QResult, tokens: *const u64, count: c_int, limit: *const timespec) => |it| {
        let results = Outs::new(results, several(count)?)?;
        it.wait_all(results, named(tokens, count)?, timeout(optional(limit)?)?)
    };
    /// `demi_blocking_push(3)`
    blocking_push(result: *mut QResult, qd: c_int, sga: *const Array) =>
        |it| it.blocking_push(Out::new(result)?, qd, input(sga)?);
    /// `demi_blocking_pop(3)`
    blocking_pop(result: *mut QResult, qd: c_int) => |it| it.blocking_pop(Out::new(result)?, qd);
    /// `demi_sgafree(3)`
    sgafree(sga: *mut Array) => |it| it.sgafree(inout(sga)?);
    /// `demi_setsockopt(3)`
    setsockopt(qd: c_int, level: c_int, option: c_int, value: *const c_void, len: socklen_t) => |it| {
        // No option is longer than the largest: what is behind that is not looked at.
        it.set_option(qd, level, option, inputs(value.cast(), (len as usize).min(LARGEST))?)
    };
    /// `demi_getsockopt(3)`
    getsockopt(qd: c_int, level: c_int, option: c_int, value: *mut c_void, len: *mut socklen_t) => |it| {
        let mut bytes = [0; LARGEST];
        let len = room(value, len)?;
        let full = it.option(qd, level, option, &mut bytes)?;
        let written = full.min(*len as usize);
        ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), written);
        *len = written as socklen_t;
        Ok(())
    };
    /// `demi_getsockname(3)`
    getsockname(qd: c_int, addr: *mut sockaddr, len: *mut socklen_t) =>
        |it| write_name(addr, len, |out| it.name(qd, out, |it, qd| it.demi.local_addr(qd)));
    /// `demi_getpeername(3)`
    getpeername(qd: c_int, addr: *mut sockaddr, len: *mut socklen_t) =>
        |it| write_name(addr, len, |out| it.name(qd, out, |it, qd| it.demi.peer_addr(qd)));
    /// `demi_queue(3)`
    queue(qd: *mut c_int) => |it| it.queue(Out::new(qd)?);
    /// `demi_merge(3)`
    merge(qd: *mut c_int, a: c_int, b: c_int) => |it| it.merge(Out::new(qd)?, a, b);
    /// `demi_filter(3)`
    filter(qd: *mut c_int, from: c_int, predicate: Option<PredicateFn>, argument: *mut c_void) =>
        |it| it.filter(Out::new(qd)?, from, Predicate::new(predicate, argument)?);
    /// `demi_partition(3)`
    partition(
        yes: *mut c_int, no: *mut c_int, from: c_int, predicate: Option<PredicateFn>, argument: *mut c_void
    ) => |it| it.partition(Out::new(yes)?, Out::new(no)?, from, Predicate::new(predicate, argument)?);
    /// `demi_sort(3)`
    sort(qd: *mut c_int, from: c_int, compare: Option<CompareFn>, argument: *mut c_void) =>
        |it| it.sort(Out::new(qd)?, from, Comparison::new(compare, argument)?);
    /// `demi_map(3)`
    map(
        qd: *mut c_int, from: c_int, on_pop: Option<ChangeFn>, on_push: Option<ChangeFn>, argument: *mut c_void
    ) => |it| {
        let changes = [on_pop, on_push].map(|function| Change::new(function, argument));
        it.map(Out::new(qd)?, from, changes)
    };
    /// `demi_frame(3)`
    frame(qd: *mut c_int, from: c_int, framing: *const Codec) => |it| {
        let framing = input(framing)?;
        let delimiter = match framing.kind == CODEC_DELIMITER as c_int {
            // The API takes no longer one, and says so.
            true => inputs(framing.delimiter.cast(), (framing.delimiter_len as usize).min(256))?,
            false => &[],
        };
        it.frame(Out::new(qd)?, from, codec(framing, delimiter)?)
    };
    /// `demi_qconnect(3)`
    qconnect(from: c_int, to: c_int) => |it| it.qconnect(from, to);
    /// `demi_qconnect_token(3)`
    qconnect_token(token: *mut u64, from: c_int, to: c_int) => |it| it.qconnect_token(Out::new(token)?, from, to);
    /// `demi_open(3)`
    open(qd: *mut c_int, name: *const c_char, flags: c_int, mode: u32) =>
        |it| it.open(Out::new(qd)?, path(name)?, flags, mode);
    /// `demi_creat(3)`
    creat(qd: *mut c_int, name: *const c_char, mode: u32) => |it| it.creat(Out::new(qd)?, path(name)?, mode);
    /// `demi_lseek(3)`
    lseek(position: *mut u64, qd: c_int, offset: i64, whence: c_int) => |it| {
        let position = if position.is_null() { None } else { Some(Out::new(position)?) };
        it.seek(position, qd, offset, whence)
    };
    /// `demi_truncate(3)`
    truncate(qd: c_int, position: u64) => |it| it.truncate(qd, position);
    /// `demi_discard(3)`
    discard(qd: c_int, position: u64) => |it| it.discard(qd, position);
    /// `demi_unlink(3)`
    unlink(name: *const c_char) => |it| it.unlink(path(name)?);
    /// `demi_flush(3)`
    flush(qd: c_int) => |it| it.flush(qd);
    /// `demi_compare_and_swap(3)`
    compare_and_swap(token: *mut u64, qd: c_int, position: u64, expected: u64, desired: u64) =>
        |it| it.compare_and_swap(Out::new(token)?, qd, position, expected, desired);
    /// `demi_fetch_and_add(3)`
    fetch_and_add(token: *mut u64, qd: c_int, position: u64, add: u64) =>
        |it| it.fetch_and_add(Out::new(token)?, qd, position, add);
    /// `demi_interrupter(3)`
    interrupter(fd: *mut c_int) => |it| it.interrupter(Out::new(fd)?);
    /// `demi_wait_fd(3)`
    wait_fd(fd: *mut c_int) => |it| it.wait_fd(Out::new(fd)?);
    /// `demi_prepare_sleep(3)`
    prepare_sleep(limit: *mut timespec) => |it| it.prepare_sleep(Out::new(limit)?);
    /// `demi_counters(3)`
    counters(callback: Option<Callback>) => |it| it.counters(callback);
}

/// `demi_init(3)`
///
/// # Safety
/// See the module.
pub unsafe fn init<L: LibOs + 'static>(thread: Thread<L>, args: *const Args) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { input(args) } {
        Ok(args) => thread.init(args),
        Err(Errno(errno)) => errno,
    }
}

/// `demi_wait(3)`
///
/// # Safety
/// See the module.
#[inline(always)]
pub unsafe fn wait<L: LibOs + 'static>(
    thread: Thread<L>,
    result: *mut QResult,
    token: u64,
    limit: *const timespec,
) -> c_int {
    // Most pushes are done on the spot. Nothing here panics, and nothing is lost if the process ends meanwhile, so the call
    // need not be entered. The time limit is looked at only if there is anything to be waited for.
    // SAFETY: promised by the caller.
    if let Ok(mut result) = unsafe { Out::new(result) }
        && let Some((qd, position)) = thread.with_first(|it| it.take_pushed(token)).flatten()
    {
        result.tell(OPC_PUSH, qd, token, position.0 as i64);
        return 0;
    }
    // SAFETY: promised by the caller.
    unsafe { wait_longer(thread, result, token, limit) }
}

/// # Safety
/// See the module.
#[inline(never)]
unsafe fn wait_longer<L: LibOs + 'static>(
    thread: Thread<L>,
    result: *mut QResult,
    token: u64,
    limit: *const timespec,
) -> c_int {
    enter(thread, |it| {
        // SAFETY: promised by the caller.
        let (result, limit) = unsafe { (Out::new(result)?, optional(limit)?) };
        it.wait(result, token, timeout(limit)?)
    })
}

/// `demi_sgaalloc(3)`
///
/// # Safety
/// See the module.
#[inline]
pub unsafe fn sgaalloc<L: LibOs + 'static>(thread: Thread<L>, len: usize) -> Array {
    let mut array = crate::transfer::NO_ARRAY;
    // An array without a segment says all that there is to say of a failure.
    if enter(thread, |it| it.sgaalloc(len, Out::from(&mut array))) != 0 {
        return crate::transfer::NO_ARRAY;
    }
    array
}

/// `demi_malloc(3)`
///
/// # Safety
/// See the module.
pub unsafe fn malloc<L: LibOs + 'static>(thread: Thread<L>, len: usize) -> *mut c_void {
    let mut object = ptr::null_mut();
    enter(thread, |it| {
        object = it.malloc(len);
        Ok(())
    });
    object
}

/// `demi_free(3)`
///
/// # Safety
/// See the module.
pub unsafe fn free<L: LibOs + 'static>(thread: Thread<L>, object: *mut c_void) {
    let errno = enter(thread, |it| it.free(object));
    if errno != 0 && !object.is_null() {
        // Without a standard error there is nobody to be told; a panic here would end the process.
        let _ = writeln!(
            io::stderr(),
            "demi_free: {object:p} is not from demi_malloc, was freed before, or is another thread's; it stays"
        );
    }
}

/// An address of the program's.
///
/// # Safety
/// See the module.
unsafe fn name<'a>(addr: *const sockaddr, len: socklen_t) -> Result<&'a [u8], Errno> {
    if len as usize > LONGEST {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: promised by the caller. Bytes are read, so the pointer need not be aligned for more.
    unsafe { inputs(addr.cast::<u8>(), len as usize) }
}

/// Writes an address where the program has room for `*len` bytes, and its full length into that.
///
/// # Safety
/// See the module.
unsafe fn write_name(
    addr: *mut sockaddr,
    len: *mut socklen_t,
    name: impl FnOnce(&mut [u8; LONGEST]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    // SAFETY: promised by the caller.
    let len = unsafe { room(addr.cast(), len) }?;
    let mut bytes = [0; LONGEST];
    let full = name(&mut bytes)?;
    let written = full.min(*len as usize);
    // SAFETY: there is room for `*len` bytes, as the caller promises.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), addr.cast(), written) };
    *len = full as socklen_t;
    Ok(())
}

/// The length beside a buffer to be written to.
///
/// # Safety
/// See the module.
unsafe fn room<'a>(buffer: *mut c_void, len: *mut socklen_t) -> Result<&'a mut socklen_t, Errno> {
    if buffer.is_null() || len.is_null() || !len.is_aligned() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not NULL and aligned, as was just looked at; the rest is promised by the caller.
    Ok(unsafe { &mut *len })
}

/// An array that the program has, to be changed.
///
/// # Safety
/// See the module.
#[inline]
unsafe fn inout<'a>(array: *mut Array) -> Result<&'a mut Array, Errno> {
    if array.is_null() || !array.is_aligned() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not NULL and aligned, as was just looked at; the rest is promised by the caller. Any bytes are an array.
    Ok(unsafe { &mut *array })
}

/// What may be NULL.
///
/// # Safety
/// See the module.
#[inline]
unsafe fn optional<'a>(limit: *const timespec) -> Result<Option<&'a timespec>, Errno> {
    if limit.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    unsafe { inputs(limit, 1) }.map(<[timespec]>::first)
}

/// A count of at least one.
fn several(count: c_int) -> Result<usize, Errno> {
    usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Errno(libc::EINVAL))
}

/// Tokens that the program names.
///
/// # Safety
/// See the module.
unsafe fn named<'a>(tokens: *const u64, count: c_int) -> Result<&'a [QToken], Errno> {
    // SAFETY: promised by the caller. A token is a number with the same representation, and any number will do.
    unsafe { inputs(tokens.cast::<QToken>(), several(count)?) }
}
