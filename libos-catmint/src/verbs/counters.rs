//! What one device has counted.

/// Counts since it was opened. Calls are those of the verbs' data path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) posts: u64,
    pub(super) doorbells: u64,
    pub(super) inline_posts: u64,
    pub(super) signalled: u64,
    pub(super) receives: u64,
    pub(super) receive_calls: u64,
    pub(super) polls: u64,
    pub(super) empty_polls: u64,
    pub(super) completions: u64,
    pub(super) unknown: u64,
    pub(super) failures: u64,
    pub(super) connected: u64,
    pub(super) gone: u64,
    pub(super) rejected: u64,
    pub(super) forced: u64,
    pub(super) notifications: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        // Work requests, and the calls that handed them over.
        visit("verbs_posts", self.posts);
        visit("verbs_doorbells", self.doorbells);
        // Those whose bytes were copied when they were posted, and those that asked for a completion.
        visit("verbs_inline_posts", self.inline_posts);
        visit("verbs_signalled", self.signalled);
        // Buffers given to the shared receive queue, and the calls that did so.
        visit("verbs_receives", self.receives);
        visit("verbs_receive_calls", self.receive_calls);
        // Looks at the completion queue, and those that found nothing.
        visit("verbs_polls", self.polls);
        visit("verbs_empty_polls", self.empty_polls);
        visit("verbs_completions", self.completions);
        // Completions of what was not under way.
        visit("verbs_unknown", self.unknown);
        // Completions of what failed by itself, not because its queue pair had failed before.
        visit("verbs_failures", self.failures);
        visit("verbs_connected", self.connected);
        visit("verbs_gone", self.gone);
        // Requests to connect that were refused without being shown.
        visit("verbs_rejected", self.rejected);
        // Queue pairs that were destroyed before all of their postings had come back.
        visit("verbs_forced", self.forced);
        visit("verbs_notifications", self.notifications);
    }
}
