//! What is known of a TCP connection, in the terms of Linux's `struct tcp_info`, and as its bytes.
//!
//! Invariant: fields are in the order of that structure, which has no padding, so that bytes are the fields one after the
//! other. Not in here: what each field means in full, which is the manual's (`tcp(7)`) and the kernel's to say.

/// A field is zero where a libOS does not know it.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The state of a connection, and figures of it. What a libOS does not know is zero.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct TcpInfo {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl TcpInfo {
            /// Bytes of the structure.
            pub const BYTES: usize = 0 $(+ size_of::<$type>())*;

            /// As the C structure has it.
            pub fn to_bytes(&self) -> [u8; TcpInfo::BYTES] {
                let mut bytes = [0; TcpInfo::BYTES];
                let mut rest = &mut bytes[..];
                $(
                    let (field, behind) = rest.split_at_mut(size_of::<$type>());
                    field.copy_from_slice(&self.$name.to_ne_bytes());
                    rest = behind;
                )*
                debug_assert!(rest.is_empty(), "BYTES is the sum of all fields");
                bytes
            }

            /// From the C structure, of which an older kernel may know the begin only.
            pub fn from_bytes(mut bytes: &[u8]) -> TcpInfo {
                let mut info = TcpInfo::default();
                $(
                    let Some((field, behind)) = bytes.split_first_chunk() else { return info };
                    info.$name = <$type>::from_ne_bytes(*field);
                    bytes = behind;
                )*
                let _ = bytes;
                info
            }
        }
    };
}

fields! {
    /// The state, by the kernel's numbers: [`TcpInfo::ESTABLISHED`] and others.
    state: u8,
    /// Of congestion control, by the kernel's numbers.
    ca_state: u8,
    /// Timeouts in a row.
    retransmits: u8,
    /// Unanswered probes in a row.
    probes: u8,
    /// How often the timeout is doubled.
    backoff: u8,
    /// What was agreed upon: [`TcpInfo::TIMESTAMPS`] and others.
    options: u8,
    /// Shifts of windows: what the peer's is shifted by in the low half, ours in the high one.
    scales: u8,
    /// Flags of the kernel's own.
    flags: u8,
    /// Retransmission timeout, microseconds.
    rto: u32,
    /// Time by which acknowledgements are delayed, microseconds.
    ato: u32,
    /// Most bytes of payload in a segment that is sent.
    snd_mss: u32,
    /// The same of one that is received, by estimate.
    rcv_mss: u32,
    /// Segments under way; of a listener, connections that wait to be accepted.
    unacked: u32,
    /// Segments acknowledged ahead of others; of a listener, its backlog.
    sacked: u32,
    /// Segments taken for lost.
    lost: u32,
    /// Segments under way for another time.
    retrans: u32,
    /// Always zero.
    fackets: u32,
    /// Milliseconds since data was sent.
    last_data_sent: u32,
    /// Always zero.
    last_ack_sent: u32,
    /// Milliseconds since data came.
    last_data_recv: u32,
    /// Milliseconds since an acknowledgement came.
    last_ack_recv: u32,
    /// Bytes that a packet may have on the path.
    pmtu: u32,
    /// Bytes that the receive window may grow to, for now.
    rcv_ssthresh: u32,
    /// Smoothed round-trip time, microseconds.
    rtt: u32,
    /// How it varies, microseconds.
    rttvar: u32,
    /// Slow start threshold, segments.
    snd_ssthresh: u32,
    /// Congestion window, segments.
    snd_cwnd: u32,
    /// Most bytes of payload in a segment that the peer may send.
    advmss: u32,
    /// Segments by which others may be overtaken.
    reordering: u32,
    /// The receiver's own estimate of the round-trip time, microseconds.
    rcv_rtt: u32,
    /// Bytes that the receive buffer is sized for.
    rcv_space: u32,
    /// Segments that were sent again, ever.
    total_retrans: u32,
    /// Bytes per second that are sent.
    pacing_rate: u64,
    /// Bytes per second that may be sent at the most.
    max_pacing_rate: u64,
    /// Bytes acknowledged, ever.
    bytes_acked: u64,
    /// Bytes received in order, ever.
    bytes_received: u64,
    /// Segments sent, ever.
    segs_out: u32,
    /// Segments received, ever.
    segs_in: u32,
    /// Bytes pushed and not yet sent.
    notsent_bytes: u32,
    /// Least round-trip time, microseconds.
    min_rtt: u32,
    /// Segments with data received, ever.
    data_segs_in: u32,
    /// Segments with data sent, ever.
    data_segs_out: u32,
    /// Bytes per second that arrive.
    delivery_rate: u64,
    /// Microseconds with data under way or to be sent.
    busy_time: u64,
    /// Of these, limited by the peer's window.
    rwnd_limited: u64,
    /// Of these, limited by the send buffer.
    sndbuf_limited: u64,
    /// Segments delivered, ever.
    delivered: u32,
    /// Of these, with a mark of congestion.
    delivered_ce: u32,
    /// Bytes of data sent, ever.
    bytes_sent: u64,
    /// Of these, sent again.
    bytes_retrans: u64,
    /// Reports of duplicates, ever.
    dsack_dups: u32,
    /// Times that segments were seen to overtake others.
    reord_seen: u32,
    /// Segments received out of order, ever.
    rcv_ooopack: u32,
    /// The peer's window, bytes.
    snd_wnd: u32,
    /// Our window, bytes.
    rcv_wnd: u32,
    /// Times that the path was chosen anew.
    rehash: u32,
}

#[allow(missing_docs, reason = "the states of RFC 9293 §3.3.2, by the kernel's numbers")]
impl TcpInfo {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECEIVED: u8 = 3;
    pub const FIN_WAIT_1: u8 = 4;
    pub const FIN_WAIT_2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSED: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

impl TcpInfo {
    /// Of `options`: RFC 7323's timestamps.
    pub const TIMESTAMPS: u8 = 1;
    /// Of `options`: selective acknowledgements.
    pub const SACK: u8 = 2;
    /// Of `options`: shifts of windows.
    pub const WINDOW_SCALE: u8 = 4;
    /// Of `options`: explicit congestion notification.
    pub const ECN: u8 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let bytes: [u8; TcpInfo::BYTES] = std::array::from_fn(|at| at as u8);
        let info = TcpInfo::from_bytes(&bytes);
        assert_eq!((info.state, info.rto.to_ne_bytes()), (0, [8, 9, 10, 11]));
        assert_eq!(info.to_bytes(), bytes);
    }

    #[test]
    fn of_an_older_kernel_the_rest_is_zero() {
        let old = TcpInfo::from_bytes(&[1; 104]);
        assert_eq!((old.total_retrans, old.pacing_rate, old.rehash), (0x0101_0101, 0, 0));
        assert_eq!(TcpInfo::from_bytes(&[]), TcpInfo::default());
    }
}
