//! What one controller has counted.

/// Counts since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) completions: u64,
    pub(super) failures: u64,
    pub(super) retries: u64,
    pub(super) unknown: u64,
    pub(super) timeouts: u64,
    pub(super) aborts: u64,
    pub(super) resets: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        // Requests that were handed out.
        visit("nvme_completions", self.completions);
        // Commands that ended with an error.
        visit("nvme_failures", self.failures);
        // Commands that were given to the controller again, after an error or a reset.
        visit("nvme_retries", self.retries);
        // Completions of what was not under way.
        visit("nvme_unknown", self.unknown);
        // Resets as a command took too long and could not be aborted.
        visit("nvme_timeouts", self.timeouts);
        visit("nvme_aborts", self.aborts);
        visit("nvme_resets", self.resets);
    }
}
