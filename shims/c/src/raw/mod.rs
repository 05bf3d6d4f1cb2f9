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

mod bytes;
mod closure;
pub mod entry;

use std::ffi::{CStr, OsStr, c_char};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

pub use self::bytes::NOTHING;
pub(crate) use self::bytes::{copy_in, give_back, share};
pub use self::closure::{Change, ChangeFn, CompareFn, Comparison, Predicate, PredicateFn};
use crate::errno::Errno;
use crate::types::{Accepted, Array, QResult};

/// Types of which any bytes are a value, none of them being zero in particular.
pub trait Plain: Copy {}

/// Where a call stores a result. Written only on success, unless a call says otherwise.
#[derive(Debug)]
pub struct Out<'a, T> {
    place: NonNull<T>,
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T: Plain> Out<'a, T> {
    /// # Safety
    /// Unless NULL, `ptr` is valid for writes of a `T`, which nobody else uses for as long as `'a`.
    unsafe fn new(ptr: *mut T) -> Result<Out<'a, T>, Errno> {
        match NonNull::new(ptr).filter(|place| place.is_aligned()) {
            Some(place) => Ok(Out { place, lifetime: PhantomData }),
            None => Err(Errno(libc::EINVAL)),
        }
    }

    /// Stores the result.
    #[inline]
    pub fn set(self, value: T) {
        // SAFETY: checked and promised at `new`.
        unsafe { self.place.write(value) }
    }

    /// The place, all zero, to be filled in.
    #[inline]
    pub fn zeroed(self) -> &'a mut T {
        // SAFETY: checked and promised at `new`; zeros are a value of every plain type.
        unsafe {
            self.place.write_bytes(0, 1);
            &mut *self.place.as_ptr()
        }
    }
}

impl<'a, T> From<&'a mut T> for Out<'a, T> {
    fn from(place: &'a mut T) -> Out<'a, T> {
        Out { place: NonNull::from(place), lifetime: PhantomData }
    }
}

/// An array of places.
#[derive(Debug)]
pub struct Outs<'a, T> {
    first: NonNull<T>,
    len: usize,
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T: Plain> Outs<'a, T> {
    /// # Safety
    /// As for [`Out::new`], of `len` of them in a row.
    unsafe fn new(ptr: *mut T, len: usize) -> Result<Outs<'a, T>, Errno> {
        match NonNull::new(ptr).filter(|first| first.is_aligned()) {
            Some(first) if len <= isize::MAX as usize / size_of::<T>() => {
                Ok(Outs { first, len, lifetime: PhantomData })
            }
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place at `index`, once.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn at(&mut self, index: usize) -> Out<'_, T> {
        assert!(index < self.len);
        // SAFETY: within the array, as was just looked at.
        let place = unsafe { self.first.add(index) };
        Out { place, lifetime: PhantomData }
    }
}

impl QResult {
    /// The array of a pop.
    #[inline]
    pub fn array(&mut self) -> &mut Array {
        // SAFETY: any bytes are a value of either variant.
        unsafe { &mut self.value.sga }
    }

    /// What came of an accept.
    pub fn accepted(&mut self) -> &mut Accepted {
        // SAFETY: any bytes are a value of either variant.
        unsafe { &mut self.value.ares }
    }
}

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
