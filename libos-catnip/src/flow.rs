//! Conversations that are under way. The headers of their next packet differ from those of the last one in a few fields
//! only, so that they are compared as bytes and not taken apart, and who it is for is remembered.
//!
//! Invariant: what passes here would come out of [`Ip::receive`](crate::ip::Ip::receive) as a whole packet for us alone,
//! without options. A flow is that of a packet which has come that way, and holds for as long as the own addresses are
//! what they were then (the routes' epoch). That the packet is for whom the flow names is the transport protocol's affair.

use demi_api::slab::Key;

use crate::device::{Checksum, Frame};
use crate::ip::checksum::{self, Raw};
use crate::ip::{ETHERNET, IPV4};

/// Flows that are remembered, each where the ports' lowest bits say.
const FLOWS: usize = 16;

/// Bytes that tell flows apart: Ethernet, IPv4, and both ports.
const COMMON: usize = ETHERNET + IPV4 + 4;

/// What the headers of one conversation's packets have in common, and whom they are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Ethernet addresses and type, version and length of the IP header, type of service.
    front: u128,
    /// Addresses,
    addrs: u64,
    /// and ports.
    ports: u32,
    epoch: u32,
    key: Key,
}

/// The flows of late.
#[derive(Debug)]
pub(crate) struct Flows([Flow; FLOWS]);

impl Flow {
    #[inline(always)]
    fn of(head: &[u8; COMMON], epoch: u32) -> Flow {
        Flow {
            front: u128::from_ne_bytes(part(head, 0)),
            addrs: u64::from_ne_bytes(part(head, 26)),
            ports: u32::from_ne_bytes(part(head, 34)),
            epoch,
            key: Key::NONE,
        }
    }

    /// Of a frame, before anything is taken off it.
    pub(crate) fn of_frame(frame: &Frame, epoch: u32) -> Option<Flow> {
        let [only] = frame.data.segments() else { return None };
        Some(Flow::of(only.first_chunk()?, epoch))
    }

    /// The ports: the sender's and ours.
    pub(crate) fn ports(&self) -> (u16, u16) {
        let [from_high, from_low, to_high, to_low] = self.ports.to_ne_bytes();
        (u16::from_be_bytes([from_high, from_low]), u16::from_be_bytes([to_high, to_low]))
    }

    /// Whether it is the same but for the key.
    #[inline(always)]
    fn is(&self, other: &Flow) -> bool {
        let same = (self.front ^ other.front, self.addrs ^ other.addrs, self.ports ^ other.ports);
        same == (0, 0, 0) && self.epoch == other.epoch
    }

    #[inline(always)]
    fn place(&self) -> usize {
        let [_, from, _, to] = self.ports.to_ne_bytes();
        usize::from(from ^ to) % FLOWS
    }
}

impl Default for Flows {
    fn default() -> Flows {
        // Of no packet: no Ethernet type is zero.
        Flows([Flow { front: 0, addrs: 0, ports: 0, epoch: 0, key: Key::NONE }; FLOWS])
    }
}

impl Flows {
    /// Whom a packet is for that begins like this, if it is of a known flow.
    #[inline(always)]
    pub(crate) fn find(&self, head: &[u8], epoch: u32) -> Option<Key> {
        let flow = Flow::of(head.first_chunk()?, epoch);
        let known = &self.0[flow.place()];
        (known.is(&flow) && known.key != Key::NONE).then_some(known.key)
    }

    /// Notes a packet that was of no known flow. True: so was the last one that fell to the same place, and it is worth
    /// finding out whom they are for.
    pub(crate) fn note(&mut self, flow: &Flow) -> bool {
        let known = &mut self.0[flow.place()];
        let again = known.is(flow);
        if !again {
            *known = *flow;
        }
        again
    }

    /// Notes whom the flow's packets are for.
    pub(crate) fn learn(&mut self, flow: &Flow, key: Key) {
        self.0[flow.place()] = Flow { key, ..*flow };
    }
}

/// Where an IPv4 packet ends that fills a frame of `len` bytes from its beginning, or all but some padding. `None`: it is
/// a fragment, of another protocol, or longer than the frame.
#[inline(always)]
pub(crate) fn end_of(head: &[u8], len: usize, protocol: u8) -> Option<usize> {
    let end = ETHERNET + usize::from(half(head, 16));
    // Fragmentation, hops that are left, and the protocol, at once.
    (word(head, 20) & 0x3fff_00ff == u32::from(protocol) && end <= len).then_some(end)
}

/// Whether the checksums of such a packet are right, as far as nobody else vouches for them.
#[inline(always)]
pub(crate) fn is_sound(packet: &[u8], protocol: u8, state: Checksum) -> bool {
    let header = packet.get(ETHERNET..).and_then(|packet| packet.first_chunk());
    let Some(header): Option<&[u8; IPV4]> = header else { return false };
    if checksum::sum_ipv4(header) != 0xffff {
        return false;
    }
    // The addresses are part of the pseudo-header, and lie before the transport header.
    let rest = u32::from(protocol) + (packet.len() - ETHERNET - IPV4) as u32;
    state != Checksum::Unknown || Raw::of(&packet[ETHERNET + 12..]).and(rest).is_whole()
}

#[inline(always)]
fn part<const N: usize>(head: &[u8], at: usize) -> [u8; N] {
    let part = head.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().unwrap_or([0; N])
}

/// Two bytes of a header; zero, where it ends before.
#[inline(always)]
pub(crate) fn half(head: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(part(head, at))
}

/// Four bytes of a header; zero, where it ends before.
#[inline(always)]
pub(crate) fn word(head: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(part(head, at))
}
