//! Control calls: they wait for the device, while everything else goes on.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::slab::Key;

use super::Store;
use super::io::{PATIENCE, Purpose};
use crate::device::{Buffers, Command, DeviceCx};

impl Store {
    /// Takes turns until something has come about.
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, until: impl Fn(&Store) -> bool) -> Result<(), Error> {
        let (began, at) = (std::time::Instant::now(), cx.now);
        while !until(self) {
            let elapsed = began.elapsed();
            cx.now = at + elapsed;
            if self.poll(cx) == 0 {
                std::thread::yield_now();
            }
            if elapsed > PATIENCE {
                return Err(Error::TimedOut);
            }
        }
        Ok(())
    }

    /// Writes a checkpoint, and waits for it.
    pub(super) fn save(&mut self, cx: &mut Cx<'_>, closed: bool) -> Result<(), Error> {
        self.settle(cx, |store| store.saving.is_none())?;
        self.begin_save(cx, closed);
        self.settle(cx, |store| store.saving.is_none())?;
        match &self.save_failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Waits until everything that was pushed to a log has met its fate.
    pub(super) fn quiet(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<(), Error> {
        self.mark(key);
        self.settle(cx, |store| store.logs.get(key).is_none_or(|log| log.is_quiet()))
    }

    /// Carries out one command, and waits for it.
    pub(super) fn call(&mut self, cx: &mut Cx<'_>, command: Command) -> Result<Buffers, Error> {
        let place = self.calls.len();
        self.calls.push(None);
        let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
        self.io.submit(&device_cx, Purpose::Call(place), command);
        self.settle(cx, |store| store.calls[place].is_some())?;
        // Calls follow each other: none is begun inside another.
        match self.calls.pop().flatten() {
            Some(ended) => ended.result.map(|()| ended.buffers),
            None => Err(Error::Io),
        }
    }
}
