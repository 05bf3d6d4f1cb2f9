//! Room for the instance of a thread, and the way to it, which every call goes.
//!
//! A thread-local variable of a library costs a call. So one thread, the first to have an instance, is told by its thread
//! pointer, which is a register, and its instance is in an ordinary variable. Any other thread takes the longer way.
//!
//! Invariants: the pointer of a thread is NULL, or that of the instance in its slot, which stays where it is until the pointer is
//! NULL again. The first thread is named for as long as it has an instance in use, and not in a child that has not got it.

use std::cell::{Cell, OnceCell};
use std::ffi::c_int;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::LocalKey;

use demi_api::LibOs;

use crate::errno::Errno;
use crate::instance::Instance;
use crate::types::Args;

/// Where a thread has its instance, and where it finds it.
#[derive(Debug)]
pub struct Thread<L: LibOs + 'static> {
    /// The room.
    pub slot: &'static LocalKey<Slot<L>>,
    /// The pointer.
    pub here: &'static LocalKey<Here<L>>,
    /// That of the first thread.
    pub first: &'static First<L>,
    /// Has [`First::forked`] called.
    pub forked: unsafe extern "C" fn(),
}

/// Room for a thread's instance.
#[derive(Debug)]
pub struct Slot<L: LibOs + 'static>(OnceCell<Instance<L>>);

/// Where the thread's instance is, if there is one that is in use.
#[derive(Debug)]
pub struct Here<L: LibOs + 'static>(Cell<*const Instance<L>>);

/// The first thread that has an instance, and where that is.
#[derive(Debug)]
pub struct First<L: LibOs + 'static> {
    /// Its thread pointer; zero: none. Set by that thread, and to zero by it only, but after a fork.
    thread: AtomicUsize,
    instance: AtomicPtr<Instance<L>>,
    watches_forks: AtomicBool,
}

impl<L: LibOs + 'static> Thread<L> {
    /// Makes the instance of this thread.
    pub(crate) fn init(self, args: &Args) -> c_int {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let made = self.slot.try_with(|slot| {
                if slot.0.get().is_some() {
                    return Err(Errno(libc::EEXIST));
                }
                let instance = Instance::new(self, args).map_err(|error| {
                    // Without a standard error there is nobody to be told.
                    let _ = writeln!(io::stderr(), "demi_init: {error}");
                    Errno::from(error)
                })?;
                slot.0.set(instance).map_err(|_| Errno(libc::EEXIST))?;
                let instance = slot.0.get().map_or(ptr::null(), ptr::from_ref);
                self.here.with(|here| here.0.set(instance));
                self.first.arrive(instance, self.forked);
                Ok(())
            });
            made.unwrap_or(Err(Errno(libc::ENOSYS)))
        }));
        match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(Errno(errno))) => errno,
            Err(_) => libc::ENOTRECOVERABLE,
        }
    }

    /// Runs `call` with the instance of this thread.
    #[inline(always)]
    pub(crate) fn with<T>(self, call: impl FnOnce(&Instance<L>) -> T) -> Option<T> {
        let instance = match self.first.find() {
            Some(instance) => instance,
            None => self.here.with(|here| here.0.get()),
        };
        // SAFETY: it is that of the slot's instance. The slot lets go of that when the thread ends, and puts NULL here
        // before; from inside a call the thread can only end with the process, and then the instance stays.
        unsafe { instance.as_ref() }.map(call)
    }

    /// Runs `call` with the instance of this thread, if that is the first one, and there is one.
    #[inline(always)]
    pub(crate) fn with_first<T>(self, call: impl FnOnce(&Instance<L>) -> T) -> Option<T> {
        // SAFETY: as in `with`.
        unsafe { self.first.find()?.as_ref() }.map(call)
    }

    /// From now on there is no instance to be used.
    #[cold]
    pub(crate) fn leave(self) {
        self.here.with(|here| here.0.set(ptr::null()));
        self.first.leave();
    }

    /// What a call is told where there is no instance to be used.
    #[cold]
    #[inline(never)]
    pub(crate) fn absent(self) -> c_int {
        match self.slot.try_with(|slot| slot.0.get().is_some()) {
            Ok(true) => libc::ENOTRECOVERABLE,
            Ok(false) | Err(_) => libc::ENOSYS,
        }
    }
}

impl<L: LibOs + 'static> Clone for Thread<L> {
    fn clone(&self) -> Thread<L> {
        *self
    }
}

impl<L: LibOs + 'static> Copy for Thread<L> {}

impl<L: LibOs + 'static> Slot<L> {
    /// No instance.
    #[expect(clippy::new_without_default, reason = "made in a constant only")]
    pub const fn new() -> Slot<L> {
        Slot(OnceCell::new())
    }
}

impl<L: LibOs + 'static> Here<L> {
    /// None.
    #[expect(clippy::new_without_default, reason = "made in a constant only")]
    pub const fn new() -> Here<L> {
        Here(Cell::new(ptr::null()))
    }
}

impl<L: LibOs + 'static> First<L> {
    /// No thread.
    #[expect(clippy::new_without_default, reason = "made in a constant only")]
    pub const fn new() -> First<L> {
        First {
            thread: AtomicUsize::new(0),
            instance: AtomicPtr::new(ptr::null_mut()),
            watches_forks: AtomicBool::new(false),
        }
    }

    /// The instance, if this is the first thread.
    #[inline(always)]
    fn find(&self) -> Option<*const Instance<L>> {
        // What is stored here of this thread it has stored itself, so there is no order to be kept.
        let is_this = self.thread.load(Ordering::Relaxed) == pointer_of_thread()?;
        is_this.then(|| self.instance.load(Ordering::Relaxed).cast_const())
    }

    /// Makes this thread the first, if no other is.
    fn arrive(&self, instance: *const Instance<L>, forked: unsafe extern "C" fn()) {
        let Some(thread) = pointer_of_thread() else { return };
        if !self.watches_forks.swap(true, Ordering::Relaxed) {
            // SAFETY: the function may be called at any time, and stays as long as the library, by which glibc knows it.
            if unsafe { libc::pthread_atfork(None, None, Some(forked)) } != 0 {
                // Nobody is first, ever: `watches_forks` stays.
                self.thread.store(usize::MAX, Ordering::Relaxed);
            }
        }
        if self.thread.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.instance.store(instance.cast_mut(), Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        if self.find().is_some() {
            self.instance.store(ptr::null_mut(), Ordering::Relaxed);
            self.thread.store(0, Ordering::Relaxed);
        }
    }

    /// In a child, which has the thread only that forked. A later one may have the thread pointer of any that is gone.
    pub fn forked(&self) {
        if self.find().is_none() {
            self.thread.store(0, Ordering::Relaxed);
        }
    }
}

/// The address of what the system keeps of this thread, which no other has meanwhile. `None`: it is not known how to get it.
#[inline(always)]
fn pointer_of_thread() -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        let pointer: usize;
        // SAFETY: what `fs` points to begins with its own address, by the ABI of x86-64 for thread-local storage.
        unsafe {
            std::arch::asm!("mov {}, qword ptr fs:0", out(reg) pointer, options(pure, readonly, nostack, preserves_flags));
        }
        Some(pointer)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

impl<L: LibOs + 'static> Drop for Slot<L> {
    fn drop(&mut self) {
        let Some(instance) = self.0.get() else { return };
        instance.thread.leave();
        let Some(instance) = self.0.take() else { return };
        if instance.is_inside() {
            // The process ends from inside a call, by `exit` in a signal handler or a closure: what that call has in
            // its hands must stay as it is.
            std::mem::forget(instance);
            return;
        }
        // A panic here would end the process.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(instance)));
    }
}
