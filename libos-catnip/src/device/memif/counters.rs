//! What became of frames, and of links.

/// The device's account, over all its links.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counters {
    pub(super) rx_frames: u64,
    pub(super) rx_bytes: u64,
    /// Received frames shorter than a header or longer than the MTU allows.
    pub(super) rx_bad_length: u64,
    /// Received frames for which the heap had no room.
    pub(super) rx_no_memory: u64,
    pub(super) tx_frames: u64,
    pub(super) tx_bytes: u64,
    /// Frames beyond the capabilities, or too long for all the buffers that the peer has.
    pub(super) tx_rejected: u64,
    /// Frames dropped because there was no link, nor was one soon.
    pub(super) tx_no_link: u64,
    /// Bursts that the ring had no room for.
    pub(super) tx_full: u64,
    pub(super) interrupts_sent: u64,
    /// System calls that asked for news of the control channel.
    pub(super) looks: u64,
    /// Links that were established.
    pub(super) links: u64,
    /// Links that ended because the peer wrote nonsense into the rings.
    pub(super) violations: u64,
    /// Connections that we refused or ended.
    pub(super) refusals: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("memif_rx_frames", self.rx_frames);
        visit("memif_rx_bytes", self.rx_bytes);
        visit("memif_rx_bad_length", self.rx_bad_length);
        visit("memif_rx_no_memory", self.rx_no_memory);
        visit("memif_tx_frames", self.tx_frames);
        visit("memif_tx_bytes", self.tx_bytes);
        visit("memif_tx_rejected", self.tx_rejected);
        visit("memif_tx_no_link", self.tx_no_link);
        visit("memif_tx_full", self.tx_full);
        visit("memif_interrupts_sent", self.interrupts_sent);
        visit("memif_looks", self.looks);
        visit("memif_links", self.links);
        visit("memif_violations", self.violations);
        visit("memif_refusals", self.refusals);
    }
}
