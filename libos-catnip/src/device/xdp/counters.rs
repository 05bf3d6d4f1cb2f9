//! What one device has counted.

/// Counts since the device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) rx_frames: u64,
    pub(super) rx_copied: u64,
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid: u64,
    pub(super) tx_frames: u64,
    pub(super) tx_segments: u64,
    pub(super) tx_copied: u64,
    pub(super) tx_refused: u64,
    pub(super) tx_no_memory: u64,
    pub(super) tx_unknown: u64,
    pub(super) tx_kicks: u64,
    pub(super) tx_kicks_failed: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        // Frames handed on, with or without a copy.
        visit("xdp_rx_frames", self.rx_frames);
        // Of those: copied, as the application held too many buffers, or the frame too many pieces.
        visit("xdp_rx_copied", self.rx_copied);
        // Received and lost, for want of heap memory or as the frame was in more pieces than any can have.
        visit("xdp_rx_dropped", self.rx_dropped);
        // Descriptors that named no bytes which the kernel was lent.
        visit("xdp_rx_invalid", self.rx_invalid);
        visit("xdp_tx_frames", self.tx_frames);
        visit("xdp_tx_segments", self.tx_segments);
        // Frames whose bytes were copied before they were sent.
        visit("xdp_tx_copied", self.tx_copied);
        // Frames beyond the capabilities, not sent.
        visit("xdp_tx_refused", self.tx_refused);
        // Frames that would have had to be copied, not sent for want of heap memory.
        visit("xdp_tx_no_memory", self.tx_no_memory);
        // Completions of what was not under way.
        visit("xdp_tx_unknown", self.tx_unknown);
        visit("xdp_tx_kicks", self.tx_kicks);
        visit("xdp_tx_kicks_failed", self.tx_kicks_failed);
    }
}
