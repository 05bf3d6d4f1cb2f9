//! The short way up for what nearly every frame is: a whole IPv4 packet without options, for us, in one segment.
//!
//! Invariant: whatever passes here would pass [`Ip::receive`] as well, with the same result; anything that there could
//! be a question about is left to that.

use std::net::Ipv4Addr;

use crate::device::Frame;

use super::addr::{Cast, is_unicast4};
use super::{About, ETHERNET, IPV4, Ip, TCP, UDP, checksum};

impl Ip {
    /// Strips a frame down to its transport header, if it is an ordinary one. `None`: it is as it was.
    #[inline]
    pub(crate) fn receive_ordinary(&mut self, frame: &mut Frame) -> Option<About> {
        let [only] = frame.data.segments_mut() else { return None };
        let head: &[u8; ETHERNET + IPV4] = only.first_chunk()?;
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        // For us alone, not from us, IPv4 with a header of five words, not a fragment.
        let plain = head[..6] == self.mac
            && head[6..12] != self.mac
            && half(12) == 0x0800
            && head[14] == 0x45
            && half(20) & 0x3fff == 0;
        let (total, protocol) = (usize::from(half(16)), head[23]);
        if !plain || total < IPV4 || ETHERNET + total > only.len() {
            return None;
        }
        let (remote, local) = (Ipv4Addr::from_bits(word(26)), Ipv4Addr::from_bits(word(30)));
        let stranger = is_unicast4(remote)
            && !remote.is_loopback()
            && !self.routes.is_own4(remote)
            && !self.routes.is_broadcast(remote);
        let ours = match protocol {
            TCP => true,
            // Some of it may be for the address configuration.
            UDP => self.dhcp.is_none(),
            _ => false,
        };
        if !(stranger && ours && self.routes.is_own4(local)) {
            return None;
        }
        if checksum::fold(checksum::sum(&head[ETHERNET..])) != 0xffff {
            return None;
        }
        let ecn = head[15] & 3;
        only.truncate(ETHERNET + total);
        only.advance(ETHERNET + IPV4);
        self.counters.delivered += 1;
        let (local, remote) = (local.into(), remote.into());
        Some(About { local, remote, protocol, ecn, checksum: frame.checksum, cast: Cast::Unicast })
    }
}
