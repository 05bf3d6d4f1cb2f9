//! What each thread has of the shim's: whether it is inside, and what it is woken with.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard};

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

/// As long as this lives, calls of a thread that is inside go through the shim again: those of a signal handler that
/// comes in while the thread sleeps.
pub(crate) struct Outside(());

impl Outside {
    /// To be called inside, with nothing held that another call would want.
    pub(crate) fn leave() -> Outside {
        let _ = INSIDE.try_with(|inside| inside.set(false));
        Outside(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(true));
    }
}

/// The eventfd that this thread is woken with, if it can have one.
pub(crate) fn waker() -> Option<i32> {
    let known = WAKER.try_with(|waker| waker.borrow().get_or_init(make_waker).as_ref().map(number));
    known.ok().flatten()
}

/// A new eventfd, which is known as the shim's.
pub(crate) fn make_waker() -> Option<Fd> {
    let waker = sys::eventfd()?;
    if let Some(mut all) = all_wakers() {
        let number = number(&waker);
        if let Err(place) = all.binary_search(&number) {
            all.insert(place, number);
        }
    }
    Some(waker)
}

/// Every number that a thread was ever woken with, in order.
pub(crate) fn wakers() -> Vec<i32> {
    all_wakers().map_or(Vec::new(), |all| all.clone())
}

pub(crate) fn number(waker: &Fd) -> i32 {
    waker.as_fd().as_raw_fd()
}

/// It is held for a moment only; in the child of a fork that came in that moment it is never to be had again.
fn all_wakers() -> Option<MutexGuard<'static, Vec<i32>>> {
    static WAKERS: Mutex<Vec<i32>> = Mutex::new(Vec::new());
    (0..1000).find_map(|_| {
        let wakers = WAKERS.try_lock().ok();
        if wakers.is_none() {
            std::thread::yield_now();
        }
        wakers
    })
}

/// After a fork: what the thread was woken with, its parent still is.
pub(crate) fn forget_waker() {
    let _ = WAKER.try_with(|waker| drop(waker.take()));
}
