//! Functions of C that operators call, with the argument that the program gave with them.
//!
//! The functions run inside the instance: what they call of it is `EDEADLK`, but for arrays and memory.

use std::cmp::Ordering;
use std::ffi::{c_int, c_void};

use crate::errno::Errno;
use crate::types::Array;

/// `demi_predicate_t`. What it returns is a `bool` of C, taken as a byte: that it is 0 or 1 is only promised.
pub type PredicateFn = unsafe extern "C" fn(*const Array, *mut c_void) -> u8;
/// `demi_compare_t`
pub type CompareFn = unsafe extern "C" fn(*const Array, *const Array, *mut c_void) -> c_int;
/// `demi_map_t`
pub type ChangeFn = unsafe extern "C" fn(*const Array, *mut Array, *mut c_void) -> c_int;

/// A test of an element.
#[derive(Debug)]
pub struct Predicate {
    function: PredicateFn,
    argument: *mut c_void,
}

/// An order of elements.
#[derive(Debug)]
pub struct Comparison {
    function: CompareFn,
    argument: *mut c_void,
}

/// A change of an element; `None` changes nothing.
#[derive(Debug)]
pub struct Change {
    function: Option<ChangeFn>,
    argument: *mut c_void,
}

impl Predicate {
    /// # Safety
    /// Unless NULL, `function` can be called with `argument` for as long as the operator is open.
    pub(super) unsafe fn new(function: Option<PredicateFn>, argument: *mut c_void) -> Result<Self, Errno> {
        Ok(Predicate { function: function.ok_or(Errno(libc::EINVAL))?, argument })
    }

    pub(crate) fn call(&self, array: &Array) -> bool {
        // SAFETY: promised at `new`; the array is valid during the call.
        unsafe { (self.function)(array, self.argument) != 0 }
    }
}

impl Comparison {
    /// # Safety
    /// As for [`Predicate::new`].
    pub(super) unsafe fn new(function: Option<CompareFn>, argument: *mut c_void) -> Result<Self, Errno> {
        Ok(Comparison { function: function.ok_or(Errno(libc::EINVAL))?, argument })
    }

    pub(crate) fn call(&self, a: &Array, b: &Array) -> Ordering {
        // SAFETY: promised at `new`; the arrays are valid during the call.
        unsafe { (self.function)(a, b, self.argument) }.cmp(&0)
    }
}

impl Change {
    /// # Safety
    /// As for [`Predicate::new`].
    pub(super) unsafe fn new(function: Option<ChangeFn>, argument: *mut c_void) -> Self {
        Change { function, argument }
    }

    /// The errno that the function returns, if it fails.
    pub(crate) fn call(&self, given: &Array, made: &mut Array) -> Option<c_int> {
        let function = self.function?;
        // SAFETY: promised at `new`; the arrays are valid during the call.
        let errno = unsafe { function(given, made, self.argument) };
        (errno != 0).then_some(errno)
    }
}
