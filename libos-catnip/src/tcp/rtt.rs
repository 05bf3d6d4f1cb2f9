//! The round-trip time and the retransmission timeout: RFC 6298.
