//! The guard: a thread that keeps connections alive while the program computes.
//!
//! It looks once in a period whether anybody has turned the instance. If not, it does so in the program's stead; and if nobody
//! has even entered the shim, it sleeps on the instance's own descriptor and deadline until there is something to
//! do, or somebody comes in. A busy program meets it a hundred times a second, an idle one never.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::carrier::Carrier;
use crate::local::{self, Inside};
use crate::shim::Shim;
use crate::sys;

const STACK: usize = 256 << 10;

/// Starts the guard of this process, once.
pub(crate) fn start<C: Carrier>(shim: &'static Shim<C>, period: Duration) {
    if shim.has_guard.swap(true, Ordering::Relaxed) {
        return;
    }
    // Made here and not there, where it could get a number for a moment that the program counts on.
    let waker = local::make_waker();
    // The thread inherits the mask: signals are for the program's own threads.
    let blocked = sys::Blocked::new();
    let guard = std::thread::Builder::new().name("demi-guard".into()).stack_size(STACK);
    if guard.spawn(move || watch(shim, period, waker.as_ref().map(local::number))).is_err() {
        sys::say("demi-preload: no thread to be had: connections suffer while the program computes\n");
    }
    drop(blocked);
}

fn watch<C: Carrier>(shim: &'static Shim<C>, period: Duration, waker: Option<i32>) {
    let Some(_inside) = Inside::enter() else { return };
    let (mut entries, mut turns) = (0, 0);
    loop {
        let _ = sys::poll(&mut [], Some(period), None);
        let mut state = shim.lock_quietly();
        let is_about = std::mem::replace(&mut entries, shim.entries.load(Ordering::Relaxed)) != entries;
        if state.turns() == turns {
            state.turn();
        }
        turns = state.turns();
        if is_about {
            continue;
        }
        let Some((device, limit)) = state.prepare_sleep() else { continue };
        let sleeper = state.fall_asleep(&[], waker, limit);
        shim.sleeping_guard.store(waker.unwrap_or(-1), Ordering::Relaxed);
        drop(state);
        let limit = limit.map(|until| until.saturating_duration_since(std::time::Instant::now()));
        let limit = if waker.is_some() { limit } else { Some(limit.unwrap_or(period).min(period)) };
        let mut fds =
            [device, waker.unwrap_or(-1)].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let _ = sys::poll(&mut fds, limit, None);
        shim.sleeping_guard.store(-1, Ordering::Relaxed);
        let mut state = shim.lock_quietly();
        state.wake_up(&[], sleeper);
        if let Some(waker) = waker {
            sys::drain(waker);
        }
        if shim.entries.load(Ordering::Relaxed) == entries {
            state.turn();
        }
        turns = state.turns();
    }
}
