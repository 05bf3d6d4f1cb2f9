//! What each thread has of the shim's: whether it is inside, and what it is woken with.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::{AsFd, AsRawFd};

use demi_api::fd::Fd;

use crate::sys;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static WAKER: RefCell<OnceCell<Option<Fd>>> = const { RefCell::new(OnceCell::new()) };
}

/// As long as this lives, calls of the thread go past the shim: they are the libOS's own, or those of a driver below
/// it, or of a signal handler that came in between.
pub(crate) struct Inside(());

impl Inside {
    /// `None` if the thread is inside already, or is ending.
    #[inline]
    pub(crate) fn enter() -> Option<Inside> {
        match INSIDE.try_with(|inside| inside.replace(true)) {
            Ok(false) => Some(Inside(())),
            Ok(true) | Err(_) => None,
        }
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

/// The eventfd that this thread is woken with, if it can have one.
pub(crate) fn waker() -> Option<i32> {
    WAKER
        .try_with(|waker| waker.borrow().get_or_init(sys::eventfd).as_ref().map(|fd| fd.as_fd().as_raw_fd()))
        .ok()
        .flatten()
}

/// After a fork: what the thread was woken with, its parent still is.
pub(crate) fn forget_waker() {
    let _ = WAKER.try_with(|waker| drop(waker.take()));
}
