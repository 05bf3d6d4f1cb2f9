//! Pointers of C, turned into references once, at the edge: NULL and impossible lengths are errors; the rest is what the
//! caller of packetdrill's interface promises.

use std::ffi::{c_int, c_void};
use std::slice;

use demi_api::Addr;
use demi_c::addr::{LONGEST, parse, write};
use demi_c::errno::Errno;
use libc::{iovec, sockaddr, socklen_t};

/// Parts of one scattered read or write, at the most: as the system has it.
const PARTS: usize = 1024;

/// Memory of the caller's to be read.
///
/// # Safety
/// `data` is NULL or has `len` bytes, which nobody writes during the call.
pub(super) unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
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
pub(super) unsafe fn items<'a, T>(data: *mut T, len: usize) -> Result<&'a mut [T], Errno> {
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
pub(super) unsafe fn address(addr: *const sockaddr, len: socklen_t) -> Result<Addr, Errno> {
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
pub(super) unsafe fn tell(
    told: Option<&Addr>,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<(), Errno> {
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
pub(super) unsafe fn scattered<'a>(parts: *const iovec, count: usize) -> Result<Vec<&'a mut [u8]>, Errno> {
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
pub(super) unsafe fn gathered(parts: *const iovec, count: usize) -> Result<Vec<u8>, Errno> {
    // SAFETY: the caller's promise.
    Ok(unsafe { scattered(parts, count) }?.concat())
}

pub(super) fn count(value: c_int) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| Errno(libc::EINVAL))
}
