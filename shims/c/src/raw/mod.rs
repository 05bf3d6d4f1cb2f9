//! Pointers that C hands over: checked, then turned into what the rest of the crate works with.
//!
//! What can be checked is: that a pointer is not NULL and is aligned, that a length does not wrap around, that an
//! address in the heap is one that the program may push from. That the rest is mapped, and the program's to read or write, is
//! its promise, as with every function of C.
//!
//! | file | what it holds |
//! |---|---|
//! | `entry` | the calls, from pointers to references |
//! | `bytes` | segments of arrays, objects of the heap |
//! | `closure` | functions of C that operators call |
//! | `place` | where results are stored |
//! | `slot` | where a thread has its instance, and the way to it |

mod bytes;
mod closure;
pub mod entry;
mod place;
mod slot;

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::slice;

pub use self::bytes::NOTHING;
pub(crate) use self::bytes::{copy_in, give_back, share};
pub use self::closure::{Change, ChangeFn, CompareFn, Comparison, Predicate, PredicateFn};
pub use self::place::{Out, Outs};
pub use self::slot::{First, Here, Slot, Thread};
use crate::errno::Errno;

/// Types of which any bytes are a value, none of them being zero in particular.
pub trait Plain: Copy {}

/// What a program passes by a pointer, to be read.
///
/// # Safety
/// Unless NULL, `ptr` is valid for reads of a `T`, which nobody writes for as long as `'a`.
#[inline]
unsafe fn input<'a, T: Plain>(ptr: *const T) -> Result<&'a T, Errno> {
    if ptr.is_null() || !ptr.is_aligned() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not NULL and aligned, as was just looked at; the rest is promised.
    Ok(unsafe { &*ptr })
}

/// `len` of them in a row.
///
/// # Safety
/// As for [`input`], of all of them.
unsafe fn inputs<'a, T>(ptr: *const T, len: usize) -> Result<&'a [T], Errno> {
    if ptr.is_null() || !ptr.is_aligned() || len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not NULL, aligned, and no longer than an object can be, as was just looked at; the rest is promised.
    Ok(unsafe { slice::from_raw_parts(ptr, len) })
}

/// The path in a string.
///
/// # Safety
/// Unless NULL, `ptr` is that of a string with a NUL at its end, which nobody writes for as long as `'a`.
unsafe fn path<'a>(ptr: *const c_char) -> Result<&'a Path, Errno> {
    if ptr.is_null() {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: not NULL; the rest is promised.
    Ok(Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(ptr) }.to_bytes())))
}
