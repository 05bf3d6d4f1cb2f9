//! What TCP counts, and limits that all connections share.

use std::time::Duration;

use demi_api::libos::Cx;
use demi_api::time::Instant;

use super::gaps::Gaps;

/// Challenge acknowledgements per second, over all connections, on average: RFC 5961 §7.
const CHALLENGES_PER_SECOND: u32 = 1000;

/// How long a closed descriptor's connection waits for the peer's FIN.
const FIN_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) retransmitted: u64,
    pub(crate) timeouts: u64,
    pub(crate) tail_loss_probes: u64,
    pub(crate) recoveries: u64,
    pub(crate) out_of_order: u64,
    pub(crate) duplicate_acks: u64,
    pub(crate) copied_bytes: u64,
    /// Of those: in segments above the threshold, whose bytes lay in too many buffers for one packet.
    pub(crate) copied_large_bytes: u64,
    pub(crate) window_probes: u64,
    pub(crate) keepalive_probes: u64,
    pub(crate) challenges: u64,
    pub(crate) paws_dropped: u64,
    pub(crate) without_timestamp: u64,
    pub(crate) resets_received: u64,
    pub(crate) resets_sent: u64,
    pub(crate) bad_checksum: u64,
    pub(crate) malformed: u64,
    pub(crate) backlog_full: u64,
    pub(crate) cookies_sent: u64,
    pub(crate) cookies_accepted: u64,
    pub(crate) cookies_refused: u64,
    pub(crate) paced: u64,
    pub(crate) ecn_marks: u64,
    pub(crate) ecn_echoes: u64,
    pub(crate) linger_expired: u64,
    /// Idle connections that gave memory back.
    pub(crate) rests: u64,
    /// Segments that could not be sent, and such with text that was not taken, for want of memory.
    pub(crate) no_memory: u64,
    pub(crate) no_room: u64,
    /// How long TIME-WAIT lasts, and FIN-WAIT-2 of a closed descriptor.
    pub(crate) time_wait: Duration,
    pub(crate) fin_wait: Duration,
    pub(super) gaps: Gaps,
    challenges_left: u32,
    challenges_since: Instant,
}

impl Counters {
    pub(crate) fn new(time_wait: Duration) -> Counters {
        Counters {
            time_wait,
            fin_wait: FIN_WAIT,
            challenges_left: CHALLENGES_PER_SECOND,
            ..Counters::default()
        }
    }

    /// Whether to send a challenge, which is counted then.
    pub(crate) fn may_challenge(&mut self, cx: &mut Cx<'_>) -> bool {
        if cx.now - self.challenges_since >= Duration::from_secs(1) {
            self.challenges_since = cx.now;
            // A limit that is known would tell whoever uses it up what others are sent.
            self.challenges_left = CHALLENGES_PER_SECOND / 2 + cx.rng.u32(..CHALLENGES_PER_SECOND);
        }
        let may = self.challenges_left > 0;
        self.challenges_left -= u32::from(may);
        self.challenges += u64::from(may);
        may
    }

    pub(crate) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let all = [
            ("tcp_received", self.received),
            ("tcp_sent", self.sent),
            ("tcp_retransmitted", self.retransmitted),
            ("tcp_timeouts", self.timeouts),
            ("tcp_tail_loss_probes", self.tail_loss_probes),
            ("tcp_recoveries", self.recoveries),
            ("tcp_out_of_order", self.out_of_order),
            ("tcp_duplicate_acks", self.duplicate_acks),
            ("tcp_copied_bytes", self.copied_bytes),
            ("tcp_copied_large_bytes", self.copied_large_bytes),
            ("tcp_window_probes", self.window_probes),
            ("tcp_keepalive_probes", self.keepalive_probes),
            ("tcp_challenges", self.challenges),
            ("tcp_paws_dropped", self.paws_dropped),
            ("tcp_without_timestamp", self.without_timestamp),
            ("tcp_resets_received", self.resets_received),
            ("tcp_resets_sent", self.resets_sent),
            ("tcp_bad_checksum", self.bad_checksum),
            ("tcp_malformed", self.malformed),
            ("tcp_backlog_full", self.backlog_full),
            ("tcp_cookies_sent", self.cookies_sent),
            ("tcp_cookies_accepted", self.cookies_accepted),
            ("tcp_cookies_refused", self.cookies_refused),
            ("tcp_paced", self.paced),
            ("tcp_ecn_marks", self.ecn_marks),
            ("tcp_ecn_echoes", self.ecn_echoes),
            ("tcp_linger_expired", self.linger_expired),
            ("tcp_rests", self.rests),
            ("tcp_no_memory", self.no_memory),
            ("tcp_no_room", self.no_room),
        ];
        for (name, value) in all {
            visit(name, value);
        }
    }
}
