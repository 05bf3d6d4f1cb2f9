//! What a device counts.

/// The counters of one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) discards: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
}

/// What the ring counts.
#[derive(Clone, Debug, Default)]
pub(super) struct RingCounters {
    /// System calls.
    pub(super) enters: u64,
    /// System calls that failed; what they should have handed over is handed over later.
    pub(super) enters_failed: u64,
    /// `fdatasync`s: for one or more flushes and durable writes each.
    pub(super) syncs: u64,
    /// Reads and writes that went on after they had come to an early end.
    pub(super) continued: u64,
    /// Reads and writes whose memory is not registered, or whose segments are not in one registered piece.
    pub(super) unregistered: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("uring_reads", self.reads);
        visit("uring_writes", self.writes);
        visit("uring_bytes_read", self.bytes_read);
        visit("uring_bytes_written", self.bytes_written);
        visit("uring_discards", self.discards);
        visit("uring_failed", self.failed);
        visit("uring_refused", self.refused);
    }
}

impl RingCounters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("uring_enters", self.enters);
        visit("uring_enters_failed", self.enters_failed);
        visit("uring_syncs", self.syncs);
        visit("uring_continued", self.continued);
        visit("uring_unregistered", self.unregistered);
    }
}
