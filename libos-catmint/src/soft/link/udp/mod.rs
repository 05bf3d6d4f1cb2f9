//! A link over a network: RoCEv2 as it stands on the wire, UDP to port 4791 with an invariant CRC, to peers of any make.
//!
//! The checksum covers the identification of an IPv4 packet. Who sends has none, as nothing is fragmented; what others
//! have put there only a raw socket shows. So packets go out through a UDP socket and come in through a raw one, where that is permitted,
//! and otherwise through the same, from peers that have no identification either. IPv6 has no such field.
//!
//! Invariant: nothing is shown whose checksum is not right. Loss, reordering and duplicates are for the connections to
//! notice.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | what a link is made from |
//! | `sys` | system calls |

mod config;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::MAX_SEGMENTS;
use demi_api::time::Instant;

pub use self::config::{RawChoice, UdpConfig};
use super::{FRONT, Full, Link, Packet};
use crate::device::Fault;
use crate::soft::wire::{Ends, Envelope, PORT, padding};

/// Bytes of the longest packet: headers of IP and UDP, transport headers, payload and checksum, and one more, so that a
/// longer one is told from it.
const MOST: usize = 60 + 8 + FRONT + 4096 + 4 + 1;
/// How often it is looked whether the address is still there.
const LOOK: Duration = Duration::from_secs(1);
/// When to try again what found no room.
const AGAIN: Duration = Duration::from_micros(100);
/// Header, payload in as many pieces as a message has, padding, checksum.
const PIECES: usize = 1 + (MAX_SEGMENTS + 1) + 2;

/// See the module.
#[derive(Debug)]
pub struct Udp {
    config: UdpConfig,
    udp: Fd,
    raw: Option<Fd>,
    wait: Fd,
    bytes: Box<[u8; MOST]>,
    is_up: bool,
    look_at: Instant,
    /// A packet found no room since the last turn.
    is_full: bool,
    now: Instant,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    sent: u64,
    full: u64,
    received: u64,
    refused: u64,
}

impl Udp {
    /// Opens the sockets.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field out of its range, [`Error::AddressNotAvailable`] if no interface has the address,
    /// [`Error::AddressInUse`] if another instance has it, or the kernel has an rxe device, [`Error::PermissionDenied`]
    /// without CAP_NET_RAW where that is required.
    pub fn open(config: &UdpConfig) -> Result<Udp, Error> {
        config.check()?;
        let udp = sys::open(config.address)?;
        let raw = match (config.raw, config.address) {
            (RawChoice::Never, _) | (_, IpAddr::V6(_)) => None,
            (RawChoice::Require, _) => Some(sys::open_raw(config.address, &udp)?),
            (RawChoice::Auto, _) => match sys::open_raw(config.address, &udp) {
                Err(Error::PermissionDenied) => None,
                raw => Some(raw?),
            },
        };
        Ok(Udp {
            config: config.clone(),
            wait: sys::epoll(raw.as_ref().unwrap_or(&udp))?,
            udp,
            raw,
            bytes: Box::new([0; MOST]),
            is_up: true,
            look_at: Instant::default(),
            is_full: false,
            now: Instant::default(),
            counters: Counters::default(),
        })
    }

    #[cold]
    fn look(&mut self, now: Instant) {
        self.look_at = now + LOOK;
        self.is_up = sys::is_here(self.config.address);
    }
}

/// A packet that was right, in private memory.
#[derive(Debug)]
pub struct Sound<'a> {
    front: [u8; FRONT],
    bytes: &'a [u8],
}

impl Packet for Sound<'_> {
    type Payload<'a>
        = &'a [u8]
    where
        Self: 'a;

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn front(&self) -> &[u8; FRONT] {
        &self.front
    }

    fn payload(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

impl Link for Udp {
    type Path = IpAddr;
    type Packet<'a> = Sound<'a>;

    const LOSSLESS: bool = false;

    fn mtu(&self) -> usize {
        self.config.mtu.into()
    }

    fn address(&self) -> IpAddr {
        self.config.address
    }

    fn path(&mut self, _now: Instant, to: IpAddr) -> Result<IpAddr, Fault> {
        if !self.is_up {
            return Err(Fault::Down);
        }
        if sys::is_routed(self.config.address, to) { Ok(to) } else { Err(Fault::Unreachable) }
    }

    fn peer(&self, path: IpAddr) -> Option<IpAddr> {
        Some(path)
    }

    fn send(&mut self, path: IpAddr, headers: &[u8], payload: &[&[u8]]) -> Result<(), Full> {
        let Some(ends) = Ends::new(self.config.address, path) else { return Ok(()) };
        let sum = Envelope::new(ends, PORT).icrc(headers, payload.iter().copied());
        let pad = padding(payload.iter().map(|piece| piece.len()).sum());
        let parts = std::iter::once(headers).chain(payload.iter().copied()).chain([&[0; 3][..pad], &sum[..]]);
        let pieces: ArrayVec<IoSlice<'_>, PIECES> = parts.take(PIECES).map(IoSlice::new).collect();
        if !sys::send(&self.udp, path, &pieces) {
            self.is_full = true;
            self.counters.full += 1;
            return Err(Full);
        }
        self.counters.sent += 1;
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, now: Instant, most: usize, mut each: impl FnMut(IpAddr, &Sound<'_>)) -> usize {
        self.now = now;
        self.is_full = false;
        if now >= self.look_at {
            self.look(now);
        }
        let mut count = 0;
        while count < most {
            let socket = self.raw.as_ref().unwrap_or(&self.udp);
            let Some((len, from)) = sys::receive(socket, &mut self.bytes[..]) else { break };
            count += 1;
            let bytes = self.bytes.get(..len).unwrap_or_default();
            let opened = if self.raw.is_some() {
                Envelope::open(bytes).map(|(envelope, packet)| (envelope.ends.source(), packet)).ok()
            } else {
                Ends::new(from.ip(), self.config.address)
                    .map(|ends| Envelope::new(ends, from.port()))
                    .and_then(|envelope| Some((from.ip(), envelope.check(bytes).ok()?)))
            };
            let Some((from, bytes)) = opened else {
                self.counters.refused += 1;
                continue;
            };
            self.counters.received += 1;
            let mut front = [0; FRONT];
            let len = bytes.len().min(FRONT);
            front[..len].copy_from_slice(&bytes[..len]);
            each(from, &Sound { front, bytes });
        }
        count
    }

    fn ended(&mut self) -> Option<IpAddr> {
        None
    }

    fn is_up(&self) -> bool {
        self.is_up
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(if self.is_full { self.now + AGAIN } else { self.look_at })
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }

    /// The sockets say by themselves what they have.
    fn arm(&mut self, _now: Instant) -> bool {
        true
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let Counters { sent, full, received, refused } = self.counters;
        visit("udp_sent", sent);
        visit("udp_full", full);
        visit("udp_received", received);
        visit("udp_refused", refused);
    }
}
