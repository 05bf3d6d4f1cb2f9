//! RACK-TLP: loss by time, and probes for the tail. RFC 8985.
//!
//! A segment is lost when one that was sent enough later has been delivered. Enough is a fraction of the least
//! round-trip time, which grows while the peer reports duplicates.
//!
//! Not in here: the segments themselves, whose times of transmission the caller keeps, and the timers.

use std::time::Duration;

use demi_api::time::Instant;

use super::segment::Block;
use super::seq::SeqNum;

/// RFC 8985 §7.2: what the peer may hold an acknowledgment back for, in nanoseconds, unless it is known better.
pub(crate) const MAX_ACK_DELAY: u64 = 200_000_000;

/// RFC 8985 §7.2: the probe timeout while nothing was measured.
const INITIAL_PTO: u64 = 1_000_000_000;

/// No probe comes earlier, in nanoseconds: over memory twice the round-trip time is less than a peer is held up for now and
/// then by whatever else its core does. The granularity of RFC 6298 §2.3.
const LEAST_PTO: u64 = 1_000_000;

/// RFC 8985 §6.2 step 4: recoveries without a duplicate, after which the window shrinks again.
const PERSIST: u8 = 16;

/// RFC 5681 §3.2: segments delivered out of order that are taken for a loss.
pub(crate) const DUP_THRESH: u32 = 3;

/// What RACK keeps of a connection: RFC 8985 §5.3.
#[derive(Clone, Debug)]
pub(crate) struct Rack {
    /// When the segment was sent that was sent last of all that were delivered, and its end.
    xmit: Instant,
    end_seq: SeqNum,
    /// The highest end that was delivered.
    fack: Option<SeqNum>,
    /// Nanoseconds; the round-trip time of that segment.
    rtt: u64,
    /// Nanoseconds.
    reo_wnd: u64,
    /// Where the round ends in which a duplicate was reported.
    dsack_round: Option<SeqNum>,
    /// Where the probe ends that is out: RFC 8985 §7.1.
    tlp_end: Option<SeqNum>,
    tlp_retransmitted: bool,
    reo_wnd_mult: u8,
    reo_wnd_persist: u8,
    reordering_seen: bool,
    /// Whether `xmit`, `end_seq` and `rtt` are of any segment.
    delivered_any: bool,
}

const _: () = assert!(size_of::<Rack>() <= 64);

/// A segment that was newly acknowledged, selectively or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    /// When it was sent the last time.
    pub(crate) xmit_time: Instant,
    /// The sequence number behind it.
    pub(crate) end_seq: SeqNum,
    /// Whether it was sent more than once.
    pub(crate) retransmitted: bool,
    /// Whether the timestamp that came with the acknowledgment is older than the last transmission; false without
    /// timestamps.
    pub(crate) echo_is_older: bool,
}

/// What an acknowledgment says to the reordering window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reordering {
    pub(crate) una: SeqNum,
    pub(crate) nxt: SeqNum,
    /// The acknowledgment reports a duplicate: [`dsack`](super::flight::dsack).
    pub(crate) dsack: bool,
    /// In fast recovery, or in that after a timeout.
    pub(crate) in_recovery: bool,
    /// This acknowledgment ends recovery.
    pub(crate) exits_recovery: bool,
    /// Segments on the scoreboard; bytes over the maximum segment size will do.
    pub(crate) segs_sacked: u32,
    pub(crate) min_rtt: Option<Duration>,
    pub(crate) srtt: Option<Duration>,
}

/// What becomes of a segment that is not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// To be retransmitted.
    Lost,
    /// Lost unless it is acknowledged within that time: the reordering timer.
    After(Duration),
    /// Nothing that was sent later has been delivered.
    Unknown,
}

/// What an acknowledgment says of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Probe {
    /// No probe is out, or it is still open what became of it.
    Open,
    /// Nothing was lost.
    Delivered,
    /// The probe has repaired a loss: the congestion control must react as to any.
    Repaired,
}

impl Rack {
    /// Before anything was delivered.
    pub(crate) fn new() -> Rack {
        Rack {
            xmit: Instant::default(),
            end_seq: SeqNum(0),
            fack: None,
            rtt: 0,
            reo_wnd: 0,
            dsack_round: None,
            tlp_end: None,
            tlp_retransmitted: false,
            reo_wnd_mult: 1,
            reo_wnd_persist: 0,
            reordering_seen: false,
            delivered_any: false,
        }
    }

    /// RFC 8985 §6.2 steps 2 and 3, once for each segment that is newly acknowledged, in any order. Times in nanoseconds.
    #[inline]
    pub(crate) fn on_delivered(&mut self, segment: Delivered, now: Instant, min_rtt: Option<u64>) {
        let Delivered { xmit_time, end_seq, retransmitted, echo_is_older } = segment;
        // Step 3. A retransmission that arrives late says nothing about the order on the way.
        let fack = self.fack.unwrap_or(end_seq);
        self.fack = Some(fack.max(end_seq));
        self.reordering_seen |= end_seq < fack && !retransmitted;
        // Step 2: what was acknowledged may be the transmission before the last.
        let rtt = now.nanos_since(xmit_time);
        if retransmitted && (echo_is_older || min_rtt.is_some_and(|least| rtt < least)) {
            return;
        }
        self.rtt = rtt;
        if !self.delivered_any || sent_after(xmit_time, end_seq, self.xmit, self.end_seq) {
            self.delivered_any = true;
            (self.xmit, self.end_seq) = (xmit_time, end_seq);
        }
    }

    /// RFC 8985 §6.2 step 4, once for each acknowledgment, before the first [`is_lost`](Rack::is_lost).
    pub(crate) fn update_reo_wnd(&mut self, ack: &Reordering) {
        if self.dsack_round.is_some_and(|end| ack.una >= end) {
            self.dsack_round = None;
        }
        if self.dsack_round.is_none() && ack.dsack {
            self.dsack_round = Some(ack.nxt);
            self.reo_wnd_mult = self.reo_wnd_mult.saturating_add(1);
            self.reo_wnd_persist = PERSIST;
        } else if ack.exits_recovery {
            self.reo_wnd_persist = self.reo_wnd_persist.saturating_sub(1);
            if self.reo_wnd_persist == 0 {
                self.reo_wnd_mult = 1;
            }
        }
        if !self.reordering_seen && (ack.in_recovery || ack.segs_sacked >= DUP_THRESH) {
            self.reo_wnd = 0;
            return;
        }
        let quarter = nanos(ack.min_rtt.unwrap_or_default()) / 4;
        let window = quarter.saturating_mul(u64::from(self.reo_wnd_mult));
        self.reo_wnd = window.min(ack.srtt.map_or(u64::MAX, nanos));
    }

    /// RFC 8985 §6.2 step 5, for a segment that is not acknowledged and was sent last at `xmit_time`.
    #[inline]
    pub(crate) fn is_lost(&self, xmit_time: Instant, end_seq: SeqNum, now: Instant) -> Fate {
        if !self.delivered_any || !sent_after(self.xmit, self.end_seq, xmit_time, end_seq) {
            return Fate::Unknown;
        }
        self.overdue(xmit_time, now)
    }

    /// RFC 8985 §6.3: the retransmission timer has expired. The first segment is lost in any case; the caller asks for
    /// the others.
    pub(crate) fn is_lost_on_rto(&self, xmit_time: Instant, now: Instant) -> bool {
        self.overdue(xmit_time, now) == Fate::Lost
    }

    #[inline]
    fn overdue(&self, xmit_time: Instant, now: Instant) -> Fate {
        let deadline = xmit_time.as_nanos().saturating_add(self.rtt).saturating_add(self.reo_wnd);
        match deadline.saturating_sub(now.as_nanos()) {
            0 => Fate::Lost,
            remaining => Fate::After(Duration::from_nanos(remaining)),
        }
    }

    /// The reordering window as it is now.
    #[cfg(test)]
    pub(crate) fn reo_wnd(&self) -> Duration {
        Duration::from_nanos(self.reo_wnd)
    }

    /// Whether segments have overtaken each other on this path.
    #[cfg(test)]
    pub(crate) fn reordering_seen(&self) -> bool {
        self.reordering_seen
    }

    /// Whether a probe may be sent: RFC 8985 §7.3 allows one at a time.
    pub(crate) fn may_probe(&self) -> bool {
        self.tlp_end.is_none()
    }

    /// A probe was sent: new data, or the last segment once more. `nxt` is behind it. RFC 8985 §7.3.
    pub(crate) fn on_probe(&mut self, nxt: SeqNum, retransmitted: bool) {
        self.tlp_end = Some(nxt);
        self.tlp_retransmitted = retransmitted;
    }

    /// RFC 8985 §7.4.2, for each acknowledgment. `dsack` is the duplicate that it reports; `duplicate`: it acknowledges
    /// nothing new and carries neither data, a new window, nor a SACK option.
    #[inline]
    pub(crate) fn on_ack_of_probe(&mut self, ack: SeqNum, dsack: Option<Block>, duplicate: bool) -> Probe {
        let Some(end) = self.tlp_end.filter(|&end| ack >= end) else { return Probe::Open };
        let verdict = if !self.tlp_retransmitted || dsack.is_some_and(|(_, right)| right == end) {
            Probe::Delivered
        } else if ack > end {
            Probe::Repaired
        } else if duplicate {
            Probe::Delivered
        } else {
            return Probe::Open;
        };
        self.tlp_end = None;
        verdict
    }

    /// Recovery has begun, or the timer has expired: what the probe was for is known.
    pub(crate) fn forget_probe(&mut self) {
        self.tlp_end = None;
    }
}

/// RFC 8985 §7.2: after how many nanoseconds without an acknowledgment to probe, from the last transmission. `srtt`: 0 if
/// nothing was measured; `single`: no more than one segment is on its way. The caller takes the
/// retransmission timer instead if that expires earlier.
#[inline]
pub(crate) fn probe_timeout(srtt: u64, single: bool, max_ack_delay: u64) -> u64 {
    if srtt == 0 {
        return INITIAL_PTO;
    }
    // A single segment may have to wait for its acknowledgment.
    srtt.saturating_mul(2).max(LEAST_PTO).saturating_add(if single { max_ack_delay } else { 0 })
}

/// RFC 8985 §6.2: whether segment 1 was sent after segment 2. Those sent at the same time were sent in order.
#[inline]
fn sent_after(xmit1: Instant, end1: SeqNum, xmit2: Instant, end2: SeqNum) -> bool {
    xmit1 > xmit2 || xmit1 == xmit2 && end1 > end2
}

#[inline]
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn sent(ms: u64, end: u32) -> Delivered {
        Delivered { xmit_time: at(ms), end_seq: SeqNum(end), retransmitted: false, echo_is_older: false }
    }

    /// An acknowledgment of a path of 40 ms, in recovery of nothing.
    fn ack(una: u32) -> Reordering {
        Reordering {
            una: SeqNum(una),
            nxt: SeqNum(100_000),
            dsack: false,
            in_recovery: false,
            exits_recovery: false,
            segs_sacked: 0,
            min_rtt: Some(MS(40)),
            srtt: Some(MS(44)),
        }
    }

    #[test]
    fn rfc8985_6_2_what_was_sent_a_window_before_what_arrived_is_lost() {
        let mut rack = Rack::new();
        assert_eq!(rack.is_lost(at(0), SeqNum(1000), at(9000)), Fate::Unknown);
        // Sent at 0, 1, 2 and 3 ms; the third arrives.
        rack.on_delivered(sent(2, 3000), at(42), Some(40_000_000));
        rack.update_reo_wnd(&ack(0));
        assert_eq!(rack.reo_wnd(), MS(10));
        assert_eq!(rack.is_lost(at(0), SeqNum(1000), at(42)), Fate::After(MS(8)));
        assert_eq!(rack.is_lost(at(1), SeqNum(2000), at(42)), Fate::After(MS(9)));
        assert_eq!(rack.is_lost(at(3), SeqNum(4000), at(900)), Fate::Unknown);
        assert_eq!(rack.is_lost(at(0), SeqNum(1000), at(50)), Fate::Lost);
    }

    #[test]
    fn rfc8985_6_2_in_a_burst_the_sequence_decides() {
        let mut rack = Rack::new();
        rack.on_delivered(sent(5, 3000), at(45), None);
        rack.update_reo_wnd(&Reordering { segs_sacked: 3, ..ack(0) });
        assert_eq!(rack.is_lost(at(5), SeqNum(2000), at(45)), Fate::Lost);
        assert_eq!(rack.is_lost(at(5), SeqNum(4000), at(45)), Fate::Unknown);
    }

    #[test]
    fn rfc8985_6_2_step_2_an_acknowledgment_of_the_first_transmission_is_not_of_the_second() {
        let mut rack = Rack::new();
        rack.on_delivered(sent(0, 1000), at(40), Some(40_000_000));
        let again = Delivered { retransmitted: true, ..sent(50, 500) };
        rack.on_delivered(again, at(60), Some(40_000_000));
        rack.on_delivered(Delivered { echo_is_older: true, ..again }, at(100), Some(40_000_000));
        assert_eq!(rack.is_lost(at(20), SeqNum(2000), at(200)), Fate::Unknown);
        rack.on_delivered(again, at(91), Some(40_000_000));
        assert_eq!(rack.is_lost(at(20), SeqNum(2000), at(200)), Fate::Lost);
        assert!(!rack.reordering_seen());
    }

    #[test]
    fn rfc8985_6_2_step_3_and_4_without_reordering_three_segments_suffice() {
        let mut rack = Rack::new();
        rack.on_delivered(sent(1, 2000), at(41), Some(40_000_000));
        for (ack, window) in [
            (ack(0), MS(10)),
            (Reordering { segs_sacked: 2, ..ack(0) }, MS(10)),
            (Reordering { segs_sacked: 3, ..ack(0) }, MS(0)),
            (Reordering { in_recovery: true, ..ack(0) }, MS(0)),
        ] {
            rack.update_reo_wnd(&ack);
            assert_eq!(rack.reo_wnd(), window, "{ack:?}");
        }
        rack.on_delivered(sent(0, 1000), at(43), Some(40_000_000));
        assert!(rack.reordering_seen());
        rack.update_reo_wnd(&Reordering { in_recovery: true, segs_sacked: 9, ..ack(0) });
        assert_eq!(rack.reo_wnd(), MS(10));
    }

    #[test]
    fn rfc8985_6_2_step_4_duplicates_widen_the_window_once_a_round() {
        let mut rack = Rack::new();
        rack.on_delivered(sent(1, 2000), at(41), Some(40_000_000));
        rack.on_delivered(sent(0, 1000), at(43), Some(40_000_000));
        let dsack = |una, nxt| Reordering { dsack: true, nxt: SeqNum(nxt), ..ack(una) };
        for (ack, window) in [
            (dsack(0, 5000), MS(20)),
            (dsack(4000, 6000), MS(20)),
            (dsack(5000, 9000), MS(30)),
            (dsack(9000, 9500), MS(40)),
            // The smoothed round-trip time is the limit.
            (dsack(9500, 9900), MS(44)),
        ] {
            rack.update_reo_wnd(&ack);
            assert_eq!(rack.reo_wnd(), window, "{ack:?}");
        }
        // Sixteen recoveries without one, and it is as before.
        for n in 1..=16 {
            rack.update_reo_wnd(&Reordering { exits_recovery: true, ..ack(9900) });
            assert_eq!(rack.reo_wnd(), if n < 16 { MS(44) } else { MS(10) }, "recovery {n}");
        }
    }

    #[test]
    fn rfc8985_6_3_on_a_timeout_only_what_is_overdue_is_lost() {
        let mut rack = Rack::new();
        rack.on_delivered(sent(0, 1000), at(40), Some(40_000_000));
        assert!(rack.is_lost_on_rto(at(10), at(50)));
        assert!(!rack.is_lost_on_rto(at(11), at(50)));
    }

    #[test]
    fn rfc8985_7_2_the_probe_timeout() {
        const MS: u64 = 1_000_000;
        assert_eq!(probe_timeout(0, true, MAX_ACK_DELAY), 1000 * MS);
        assert_eq!(probe_timeout(40 * MS, false, MAX_ACK_DELAY), 80 * MS);
        assert_eq!(probe_timeout(40 * MS, true, MAX_ACK_DELAY), 280 * MS);
        assert_eq!(probe_timeout(u64::MAX, true, u64::MAX), u64::MAX);
    }

    #[test]
    fn rfc8985_7_4_what_became_of_a_probe() {
        let probe = |retransmitted| {
            let mut rack = Rack::new();
            assert!(rack.may_probe());
            rack.on_probe(SeqNum(1000), retransmitted);
            assert!(!rack.may_probe());
            rack
        };
        let ends_at = |right| Some((SeqNum(900), SeqNum(right)));
        // New data as a probe says nothing by itself.
        assert_eq!(probe(false).on_ack_of_probe(SeqNum(999), None, false), Probe::Open);
        assert_eq!(probe(false).on_ack_of_probe(SeqNum(1000), None, false), Probe::Delivered);
        // Case 1: both arrived.
        assert_eq!(probe(true).on_ack_of_probe(SeqNum(1000), ends_at(1000), false), Probe::Delivered);
        // Case 2: so they did, without DSACK.
        assert_eq!(probe(true).on_ack_of_probe(SeqNum(1000), None, false), Probe::Open);
        assert_eq!(probe(true).on_ack_of_probe(SeqNum(1000), None, true), Probe::Delivered);
        // Case 3: only the probe did.
        let mut rack = probe(true);
        assert_eq!(rack.on_ack_of_probe(SeqNum(1001), ends_at(900), false), Probe::Repaired);
        assert!(rack.may_probe());
        assert_eq!(rack.on_ack_of_probe(SeqNum(1001), None, false), Probe::Open);
    }

    proptest! {
        #[test]
        fn verdicts_are_monotone_in_time_and_the_window_is_bounded(
            deliveries in prop::collection::vec((any::<u32>(), any::<u64>(), any::<bool>(), any::<u64>(), any::<bool>()), 1..40),
            (xmit, end, now, later) in any::<(u64, u32, u64, u64)>(),
        ) {
            let mut rack = Rack::new();
            for (end, xmit, retransmitted, now, flag) in deliveries {
                let (xmit_time, now) = (Instant::from_nanos(xmit), Instant::from_nanos(now));
                let delivered = Delivered { xmit_time, end_seq: SeqNum(end), retransmitted, echo_is_older: flag };
                rack.on_delivered(delivered, now, Some(1_000_000));
                rack.update_reo_wnd(&Reordering { dsack: flag, exits_recovery: retransmitted, ..ack(end) });
                prop_assert!(rack.reo_wnd() <= MS(44));
            }
            let fate = |now| rack.is_lost(Instant::from_nanos(xmit), SeqNum(end), Instant::from_nanos(now));
            let (now, later) = (now.min(later), now.max(later));
            match fate(now) {
                Fate::Lost => prop_assert_eq!(fate(later), Fate::Lost),
                Fate::Unknown => prop_assert_eq!(fate(later), Fate::Unknown),
                Fate::After(left) => {
                    prop_assert_eq!(fate(now.saturating_add(left.as_nanos() as u64)), Fate::Lost);
                }
            }
        }
    }
}
