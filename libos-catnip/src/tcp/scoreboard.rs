//! What the peer has acknowledged out of order: RFC 2018, RFC 6675.
