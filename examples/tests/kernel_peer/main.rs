//! The examples over catnip with the Linux kernel as their peer: network namespaces joined by a `veth` pair, which
//! catnip serves by AF_XDP or AF_PACKET, or by a TAP interface; IPv4 and IPv6; either side as the client.
//!
//! Everything needs root and `ip`; without them, or without the program that is to be the peer, a test says SKIPPED on
//! standard error and does nothing else. Bulk transfers move 32 MiB each way, or what `DEMI_BULK_MIB` says.

mod aside;
mod bulk;
mod http;
mod iperf3;
mod kv;
mod life;
mod net;
#[path = "../support/mod.rs"]
mod support;
mod sys;
