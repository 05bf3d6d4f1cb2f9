//! TCP: RFC 9293, and what was added to it.
//!
//! | file | what it holds |
//! |---|---|
//! | `sockets`, `control` | what the application holds: fresh sockets, listeners, connections; their options |
//! | `demux` | which connection a segment is for; local ports; initial sequence numbers |
//! | `conn`, `input`, `expected`, `output`, `timeout` | one connection |
//! | `send`, `flight`, `reassembly` | its data: pushed, under way, out of order |
//! | `rtt`, `rack`, `congestion` | what it knows of the network |
//! | `segment`, `seq` | headers, sequence numbers |

mod congestion;
mod conn;
mod control;
mod counters;
mod demux;
mod expected;
mod flight;
mod input;
mod output;
mod rack;
mod reassembly;
mod rtt;
mod segment;
mod send;
mod seq;
mod sockets;
mod timeout;

use std::time::Duration;

use demi_api::time::Instant;

pub(crate) use self::congestion::Algorithm;
pub(crate) use self::conn::Settings;
pub(crate) use self::counters::Counters;
pub(crate) use self::output::PROTOCOL;
pub(crate) use self::sockets::{Env, Tcp};

/// A peer's MSS below this is taken for this: RFC 9293 §3.7.1 leaves the lower bound to the implementation, and one near
/// zero would have every byte carry a header.
const LEAST_MSS: u16 = 88;

/// Segments acknowledged without delay at the start of a connection.
const QUICK_ACKS: u8 = 16;

/// The clock of the timestamps option: milliseconds, as RFC 7323 §5.4 recommends between 1 ms and 1 s.
#[inline]
fn clock(now: Instant, offset: u32) -> u32 {
    ((now.as_nanos() / 1_000_000) as u32).wrapping_add(offset)
}

/// What a new socket begins with.
pub(crate) fn defaults(no_delay: bool, send_buffer: u32, recv_buffer: u32) -> Settings {
    Settings {
        no_delay,
        keep_alive: false,
        keep_idle: Duration::from_secs(7200),
        keep_interval: Duration::from_secs(75),
        keep_count: 9,
        // RFC 9293 §3.8.3: at least 100 s.
        user_timeout: Duration::from_secs(300),
        linger: None,
        send_buffer,
        recv_buffer,
        max_segment: u16::MAX,
    }
}
