//! Proportional rate reduction: RFC 9937. What is sent in recovery is in proportion to what is delivered, so that the
//! window has come down to the threshold when recovery ends, without a pause and without a burst.

#[derive(Clone, Debug, Default)]
pub(super) struct Prr {
    /// RecoverFS: bytes on the way when recovery began.
    flight: u32,
    /// prr_delivered.
    delivered: u32,
    /// DeliveredData: by the last acknowledgment alone.
    latest: u32,
    /// prr_out.
    out: u32,
    /// Of that, what was sent in answer to the last acknowledgment.
    answered: u32,
    /// SafeACK: the last acknowledgment advanced, and showed nothing more to be lost.
    safe: bool,
}

impl Prr {
    pub(super) fn begin(flight: u32) -> Prr {
        Prr { flight: flight.max(1), ..Prr::default() }
    }

    /// An acknowledgment has come.
    #[inline]
    pub(super) fn delivered(&mut self, bytes: u32) {
        self.delivered = self.delivered.saturating_add(bytes);
        self.latest = bytes;
        self.answered = 0;
        self.safe = false;
    }

    /// Whether that acknowledgment showed recovery to go well.
    #[inline]
    pub(super) fn judged(&mut self, safe: bool) {
        self.safe = safe;
    }

    /// What may be sent now, with `pipe` on the way. RFC 9937 §6, the algorithm in its order: sndcnt, less what it was
    /// used for since the last acknowledgment.
    #[inline]
    pub(super) fn quota(&self, pipe: u32, ssthresh: u32, mss: u32) -> u32 {
        // As it was when the acknowledgment came.
        let (pipe, out) = (pipe.saturating_sub(self.answered), self.out.saturating_sub(self.answered));
        let sndcnt = if pipe > ssthresh {
            let share =
                (u64::from(self.delivered) * u64::from(ssthresh)).div_ceil(u64::from(self.flight.max(1)));
            u32::try_from(share).unwrap_or(u32::MAX).saturating_sub(out)
        } else {
            // PRR-CRB: at most what was delivered. PRR-SSRB, when all goes well: a segment more.
            let more = if self.safe { mss } else { 0 };
            let limit = self.delivered.saturating_sub(out).max(self.latest).saturating_add(more);
            limit.min(ssthresh - pipe)
        };
        // The retransmission that recovery begins with is sent in any case.
        let sndcnt = if out == 0 { sndcnt.max(mss) } else { sndcnt };
        sndcnt.saturating_sub(self.answered)
    }

    #[inline]
    pub(super) fn sent(&mut self, bytes: u32) {
        self.out = self.out.saturating_add(bytes);
        self.answered = self.answered.saturating_add(bytes);
    }
}
