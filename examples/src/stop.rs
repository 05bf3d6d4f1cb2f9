//! Stopping on SIGINT and SIGTERM: the first one asks, a second one ends the process at once.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use demi_api::{Completion, Demikernel, Error, LibOs};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// How long a program that was asked to stop goes on delivering what is pending.
pub const GRACE: Duration = Duration::from_secs(1);

/// Most results that one wait takes.
const BATCH: usize = 64;

/// Whether the process was asked to stop.
#[derive(Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// From now on signals end the instance's waits.
    pub fn on_signals<L: LibOs>(demi: &Demikernel<L>) -> anyhow::Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            let waker = OwnedFd::from(demi.interrupter()?);
            // In this order: the shutdown happens only if an earlier signal has set the flag.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .and_then(|_| low_level::pipe::register(signal, waker))
                .context("cannot handle signals")?;
        }
        Ok(Stop { asked })
    }

    /// Whether a signal has come.
    #[inline]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits for results; false when it is time to stop. May return without a result when `timeout` is over.
    ///
    /// A busy instance reports an interruption only once it has nothing to hand out, so the flag is looked at
    /// on every call.
    #[inline]
    pub fn wait<L: LibOs>(
        &self,
        demi: &Demikernel<L>,
        results: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<bool, Error> {
        match demi.wait_next_n(results, BATCH, timeout) {
            Ok(_) | Err(Error::TimedOut | Error::Interrupted) => Ok(!self.asked()),
            Err(error) => Err(error),
        }
    }
}
