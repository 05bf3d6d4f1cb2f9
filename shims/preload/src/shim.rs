//! The shim of one process: the lock, the way in and out, and what happens at a fork and at the end.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::carrier::Carrier;
use crate::local::{self, Inside};
use crate::raw::Movable;
use crate::state::State;
use crate::wait::Spin;
use crate::{guard, sys};

/// The shim. A library that is preloaded has one, in a static.
pub struct Shim<C: Carrier> {
    state: Mutex<Movable<State<C>>>,
    /// Times that somebody came in: the guard sees by it whether the program is about.
    pub(crate) entries: AtomicU64,
    /// The eventfd of a guard that has gone to sleep for long, or -1.
    pub(crate) sleeping_guard: AtomicI32,
    pub(crate) has_guard: AtomicBool,
    pub(crate) spin: Spin,
    /// Whose the state is: a child that shares its parent's memory is another.
    process: AtomicI32,
    has_handlers: AtomicBool,
}

thread_local! {
    /// The lock, while this thread forks: whatever it calls meanwhile must not want it.
    static HELD: RefCell<Option<(Box<dyn Any>, Inside)>> = const { RefCell::new(None) };
}

impl<C: Carrier> Shim<C> {
    /// A shim that has nothing to do yet.
    #[allow(clippy::new_without_default, reason = "it is for statics, and there is one")]
    pub const fn new() -> Shim<C> {
        Shim {
            state: Mutex::new(Movable(State::new())),
            entries: AtomicU64::new(0),
            sleeping_guard: AtomicI32::new(-1),
            has_guard: AtomicBool::new(false),
            spin: Spin::new(),
            process: AtomicI32::new(0),
            has_handlers: AtomicBool::new(false),
        }
    }

    /// Runs a call. `None`: the kernel's, as the thread is inside already. A fault of ours is an errno.
    pub(crate) fn enter<T>(
        &'static self,
        call: impl FnOnce() -> Result<T, Errno>,
    ) -> Option<Result<T, Errno>> {
        let _inside = Inside::enter()?;
        let result = catch_unwind(AssertUnwindSafe(call));
        Some(result.unwrap_or_else(|_| {
            sys::say("demi-preload: a fault of the shim's own; the call fails with EIO\n");
            Err(Errno::IO)
        }))
    }

    pub(crate) fn lock(&'static self) -> Locked<C> {
        let guard = self.sleeping_guard.load(Ordering::Relaxed);
        if guard >= 0 && self.sleeping_guard.swap(-1, Ordering::Relaxed) >= 0 {
            sys::signal(guard);
        }
        self.entries.fetch_add(1, Ordering::Relaxed);
        Locked { shim: self, state: Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// The same for the guard, which does not count.
    pub(crate) fn lock_quietly(&'static self) -> Locked<C> {
        Locked { shim: self, state: Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// Whether this process is the one that the state is of: not a child that shares its memory.
    pub(crate) fn is_ours(&self) -> bool {
        self.process.load(Ordering::Relaxed) == sys::process()
    }

    /// To be called before the first socket is entered: has forks announced. `handlers` call
    /// [`before_fork`](Shim::before_fork), [`after_fork`](Shim::after_fork) and
    /// [`in_child`](Shim::in_child).
    pub(crate) fn prepare(&'static self, handlers: [extern "C" fn(); 3]) {
        if self.process.load(Ordering::Relaxed) == 0 {
            self.process.store(sys::process(), Ordering::Relaxed);
        }
        if !self.has_handlers.swap(true, Ordering::Relaxed) {
            let [prepare, parent, child] = handlers;
            sys::at_fork(prepare, parent, child);
        }
    }

    /// Before a fork: no other thread is inside when it happens.
    pub fn before_fork(&'static self) {
        let Some(inside) = Inside::enter() else { return };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = HELD.try_with(|held| held.replace(Some((Box::new(state), inside))));
    }

    /// After it, in the parent.
    pub fn after_fork(&'static self) {
        let _ = HELD.try_with(RefCell::take);
    }

    /// After it, in the child.
    pub fn in_child(&'static self) {
        let Some((held, _inside)) = HELD.try_with(RefCell::take).ok().flatten() else { return };
        let Ok(mut state) = held.downcast::<MutexGuard<'static, Movable<State<C>>>>() else { return };
        self.process.store(sys::process(), Ordering::Relaxed);
        self.has_guard.store(false, Ordering::Relaxed);
        self.sleeping_guard.store(-1, Ordering::Relaxed);
        self.spin.forget();
        local::forget_waker();
        state.0.forget_instance();
    }

    /// At the end of the process: what was written is delivered, for as long as that may take.
    pub fn at_exit(&'static self) {
        if !self.is_ours() {
            return;
        }
        let _ = self.enter(|| {
            let until = Instant::now() + self.lock().section().exit();
            loop {
                let mut state = self.lock();
                if !state.has_instance() {
                    return Ok(());
                }
                state.close_all();
                state.pump();
                let now = Instant::now();
                if !state.is_delivering() || now >= until {
                    return Ok(());
                }
                drop(state);
                let _ = sys::poll(&mut [], Some(Duration::from_micros(200).min(until - now)), None);
            }
        });
    }
}

impl<C: Carrier> std::fmt::Debug for Shim<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shim {{ entries: {} }}", self.entries.load(Ordering::Relaxed))
    }
}

/// The state, while it is one's own.
pub(crate) struct Locked<C: Carrier> {
    shim: &'static Shim<C>,
    state: Option<MutexGuard<'static, Movable<State<C>>>>,
}

impl<C: Carrier> Deref for Locked<C> {
    type Target = State<C>;

    #[inline]
    fn deref(&self) -> &State<C> {
        &self.state.as_ref().expect("it is there until the drop").0
    }
}

impl<C: Carrier> DerefMut for Locked<C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut State<C> {
        &mut self.state.as_mut().expect("it is there until the drop").0
    }
}

impl<C: Carrier> Drop for Locked<C> {
    #[inline]
    fn drop(&mut self) {
        self.leave();
        let wants_guard = self.has_instance() && !self.shim.has_guard.load(Ordering::Relaxed);
        let period = wants_guard.then(|| self.section().guard());
        self.state = None;
        if let Some(period) = period {
            guard::start(self.shim, period);
        }
    }
}
