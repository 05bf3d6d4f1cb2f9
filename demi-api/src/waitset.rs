//! Wait sets: tokens registered once, waited for at a cost of what is ready.

use std::time::Duration;

use crate::error::Error;
use crate::instance::Demikernel;
use crate::libos::LibOs;
use crate::op::Completion;
use crate::token::{Owner, QToken};

/// A set of tokens. A token leaves its set when its result is taken; dropping the set gives the rest back
/// to the application, for `wait` and `wait_next_n`, and looks at every token of the instance to find it.
#[derive(Debug)]
pub struct WaitSet<L: LibOs> {
    demi: Demikernel<L>,
    id: u32,
}

impl<L: LibOs> Demikernel<L> {
    /// A new, empty set.
    pub fn wait_set(&self) -> Result<WaitSet<L>, Error> {
        let id = self.core()?.done.open_set();
        Ok(WaitSet { demi: self.clone(), id })
    }
}

impl<L: LibOs> WaitSet<L> {
    /// Puts a token into the set, out of any other. `wait_next_n` no longer returns it.
    pub fn add(&self, token: QToken) -> Result<(), Error> {
        let mut core = self.demi.core()?;
        core.done.check(token)?;
        core.done.give_to(token, Owner::Set(self.id))
    }

    /// Gives a token back to the application.
    pub fn remove(&self, token: QToken) -> Result<(), Error> {
        let mut core = self.demi.core()?;
        core.done.check_in_set(token, self.id)?;
        core.done.give_to(token, Owner::App)
    }

    /// Waits for any token of the set.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Completion, Error> {
        self.demi.wait_until(timeout, |core| Ok(core.done.take_next_of(self.id)))
    }

    /// Waits until at least one is done and appends up to `limit` results, oldest first. Returns how many.
    pub fn wait_n(
        &self,
        results: &mut Vec<Completion>,
        limit: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, Error> {
        self.demi.wait_batch(results, limit, timeout, |core| core.done.take_next_of(self.id))
    }
}

impl<L: LibOs> Drop for WaitSet<L> {
    fn drop(&mut self) {
        // Only an operator's closure could hold the borrow, and it would be dropping a set while the
        // instance runs it; the set's tokens then stay where they are until the instance goes.
        if let Ok(mut core) = self.demi.core() {
            core.done.close_set(self.id);
        }
    }
}
