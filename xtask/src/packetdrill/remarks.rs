//! What this project says to scripts that fail: why, and whether that is as it shall be.

const LIMITED: &str = "without pacing, slow start grows by eight segments for an acknowledgement at most (RFC 9406 §4.3); the \
    script acknowledges, or expects, what a longer burst would have sent";
const LIMITED_TRANSMIT: &str = "the window grows by all that is acknowledged, also while what was reordered comes in; Linux lets \
    it stand for so long";

/// By the beginning of a script's path.
const REMARKS: [(&str, &str); 12] = [
    ("tcp/blocking/blocking-write", LIMITED),
    ("tcp/cubic/cubic-bulk-166k", LIMITED),
    ("tcp/cubic/cubic-hystart", LIMITED),
    (
        "tcp/cubic/cubic-rto-ss-ca-cwnd-bump",
        "the timeout is 250 ms: RFC 6298 with 200 ms at the least; Linux adds at least 200 ms to the round trip",
    ),
    (
        "tcp/fast_retransmit/fr-4pkt-fack-last-mss",
        "the reordering timer fires after a round trip and a quarter, 25 ms (RFC 8985 §7.1); the script has Linux's tick in it",
    ),
    ("tcp/limited_transmit", LIMITED_TRANSMIT),
    (
        "tcp/shutdown/shutdown-rd-wr",
        "after SHUT_RD nothing can be read any more; Linux still hands out what comes",
    ),
    (
        "tcp/slow_start/slow-start-after-win-update",
        "a closed window is probed with a byte (RFC 9293 §3.8.6.1), by Linux with none",
    ),
    ("tcp/tcp_info/tcp-info-sndbuf-limited", LIMITED),
    (
        "tcp/ts_recent/invalid_ack",
        "what acknowledges something never sent is answered (RFC 9293 §3.10.7.4, RFC 5961 §5.2); Linux drops it in silence. Its \
        timestamp is not taken, which is what the script is about",
    ),
    ("tcp/ts_recent/reset_tsval", "a reset has no timestamp, as it may be (RFC 7323 §3.2)"),
    (
        "tcp/user_timeout/user_timeout",
        "the peer is told by a reset when the timeout has passed, not when it speaks next",
    ),
];

/// What is said to a script.
pub(crate) fn of(name: &str) -> &'static str {
    REMARKS.iter().find(|(begin, _)| name.starts_with(begin)).map_or("", |(_, remark)| remark)
}
