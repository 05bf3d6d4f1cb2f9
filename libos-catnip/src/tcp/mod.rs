//! TCP: RFC 9293, and what was added to it.
//!
//! | file | what it holds |
//! |---|---|
//! | `arrive` | what comes from the network finds its socket |
//! | `sockets`, `control` | what the application holds: fresh sockets, listeners, connections; their options |
//! | `listen`, `cookies` | handshakes that others begin, and those of which nothing is kept |
//! | `demux` | which connection a segment is for; local ports; initial sequence numbers |
//! | `conn`, `input`, `output`, `timeout` | one connection |
//! | `known`, `expected`, `brief`, `plain` | the short ways of what is ordinary |
//! | `time_wait` | what is left of one |
//! | `send`, `flight`, `reassembly`, `small` | its data: pushed, under way, out of order; in small pieces |
//! | `rtt`, `rack`, `congestion` | what it knows of the network |
//! | `info` | what of it a program may see |
//! | `gaps` | when what was pushed was pushed |
//! | `segment`, `seq` | headers, sequence numbers |

mod arrive;
mod brief;
mod congestion;
mod conn;
mod control;
mod cookies;
mod counters;
mod demux;
mod expected;
mod flight;
mod gaps;
mod info;
mod input;
mod known;
mod listen;
mod output;
mod plain;
mod rack;
mod reassembly;
mod rtt;
mod segment;
mod send;
mod seq;
mod small;
mod sockets;
mod time_wait;
mod timeout;

use std::net::IpAddr;
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

/// How connections are run, whatever their sockets' options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) algorithm: Algorithm,
    /// How long a closed descriptor's connection goes on, unless its socket says otherwise.
    pub(crate) linger: Duration,
    pub(crate) time_wait: Duration,
    pub(crate) pacing: bool,
    pub(crate) ecn: EcnPolicy,
    pub(crate) syn_cookies: SynCookies,
    /// Handshakes that a listener keeps at a time.
    pub(crate) half_open: usize,
}

/// Whether to agree on congestion marks: RFC 3168.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EcnPolicy {
    Off,
    /// With peers that ask for it.
    Accept,
    /// And ask for it.
    On,
}

impl EcnPolicy {
    /// The answer to one that asks.
    fn accepting(self) -> Ecn {
        if self == EcnPolicy::Off { Ecn::Off } else { Ecn::On }
    }

    fn asking(self) -> Ecn {
        if self == EcnPolicy::On { Ecn::On } else { Ecn::Off }
    }
}

/// What a connection does about congestion marks: RFC 3168 §6.1.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ecn {
    Off,
    /// Both sides have asked, but one SYN of ours did not: marks are reported, and none are asked for.
    Echo,
    On,
}

/// When handshakes are kept in the peer's hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SynCookies {
    Off,
    /// While a listener has as many under way as it keeps.
    Auto,
    Always,
}

/// RFC 7323 §2.3: the least shift that makes a whole buffer expressible.
fn recv_shift(buffer: u32) -> u8 {
    (0..14).find(|shift| buffer >> shift <= u32::from(u16::MAX)).unwrap_or(14)
}

/// RFC 9293 §3.7.1: the segment size of a peer that does not name one.
fn default_mss(remote: IpAddr) -> u16 {
    if remote.is_ipv4() { 536 } else { 1220 }
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
