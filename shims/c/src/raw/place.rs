//! Where calls store their results. Each is written once, and never read: the program need not have put anything there.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;

use demi_api::{Completion, QDesc};

use super::Plain;
use crate::errno::Errno;
use crate::memory::Handle;
use crate::types::{Accepted, Address, Array, QResult, Segment};

/// Where a call stores a result. Written only on success, unless a call says otherwise.
#[derive(Debug)]
pub struct Out<'a, T> {
    place: NonNull<T>,
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T: Plain> Out<'a, T> {
    /// # Safety
    /// Unless NULL, `ptr` is valid for writes of a `T`, which nobody else uses for as long as `'a`.
    #[inline(always)]
    pub(super) unsafe fn new(ptr: *mut T) -> Result<Out<'a, T>, Errno> {
        if !ptr.is_aligned() {
            return Err(Errno(libc::EINVAL));
        }
        let Some(place) = NonNull::new(ptr) else { return Err(Errno(libc::EINVAL)) };
        Ok(Out { place, lifetime: PhantomData })
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
    pub(super) unsafe fn new(ptr: *mut T, len: usize) -> Result<Outs<'a, T>, Errno> {
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

impl Out<'_, QResult> {
    /// Says what was done. What came of it is left as it is.
    #[inline(always)]
    pub fn tell(&mut self, opcode: u32, qd: QDesc, token: u64, ret: i64) {
        let place = self.place.as_ptr();
        // SAFETY: checked and promised at `new`. Nothing is read, so it may have been anything.
        unsafe {
            (&raw mut (*place).opcode).write(opcode);
            (&raw mut (*place).qd).write(qd.raw() as c_int);
            (&raw mut (*place).qt).write(token);
            (&raw mut (*place).ret).write(ret);
        }
    }

    /// The same of an operation by its result.
    #[inline(always)]
    pub fn tell_of(&mut self, opcode: u32, completion: &Completion, ret: i64) {
        self.tell(opcode, completion.qd, completion.token.raw(), ret);
    }

    /// Where the array of a pop is stored.
    #[inline(always)]
    pub fn array(&mut self) -> Out<'_, Array> {
        // SAFETY: a part of what was checked and promised at `new`.
        let place = unsafe { NonNull::new_unchecked(&raw mut (*self.place.as_ptr()).value.sga) };
        Out { place, lifetime: PhantomData }
    }

    /// Where it is stored what came of an accept.
    pub fn accepted(&mut self) -> Out<'_, Accepted> {
        // SAFETY: a part of what was checked and promised at `new`.
        let place = unsafe { NonNull::new_unchecked(&raw mut (*self.place.as_ptr()).value.ares) };
        Out { place, lifetime: PhantomData }
    }

    /// Where the word is stored that an atomic operation found.
    pub fn word(&mut self) -> Out<'_, u64> {
        // SAFETY: a part of what was checked and promised at `new`.
        let place = unsafe { NonNull::new_unchecked(&raw mut (*self.place.as_ptr()).value.word) };
        Out { place, lifetime: PhantomData }
    }
}

impl Out<'_, Array> {
    /// Stores an array of one segment, from nobody. What lies behind the segment is left as it is.
    #[inline(always)]
    pub(crate) fn set_single(self, handle: Handle, segment: Segment) {
        let place = self.place.as_ptr();
        // SAFETY: checked and promised at `new`. Nothing is read, so it may have been anything.
        unsafe {
            (&raw mut (*place).buf).write(handle.as_ptr());
            (&raw mut (*place).numsegs).write(1);
            (&raw mut (*place).segs[0]).write(segment);
            (&raw mut (*place).addr).write(Address::default());
        }
    }
}
