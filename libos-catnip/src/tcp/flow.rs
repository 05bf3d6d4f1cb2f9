//! The short way up for the next packet of a conversation that is under way: its headers differ from those of the last one
//! in a few fields only, so that they are compared as bytes and not taken apart.
//!
//! Invariant: what passes here would come out of [`Ip::receive`] and [`Tcp::receive`] with the same result; whatever there
//! could be a question about is left to those, with nothing changed. A flow is one of a packet that has passed them, holds
//! for as long as the own addresses are what they were then (the routes' epoch), and names its connection by a key that
//! outlives neither the connection nor its place in the table of ends.

use std::net::IpAddr;

use demi_api::slab::Key;

use super::conn::Io;
use super::demux::Ends;
use super::expected::Next;
use super::segment::{Flags, HEADER, TIMESTAMPS};
use super::seq::SeqNum;
use super::sockets::{Env, Socket, Tcp};
use crate::device::{Checksum, Frame};
use crate::ip::{Ip, checksum};

/// Flows that are remembered, by the ports' lowest bits.
const FLOWS: usize = 16;

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// Where the segment's text begins.
const TEXT: usize = ETHERNET + IPV4 + HEADER + TIMESTAMPS;

/// The headers of a segment whose only option is timestamps.
type Headers = [u8; TEXT];

/// What the headers of one conversation's packets have in common.
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

/// The flows of late, each where its ports say.
#[derive(Debug)]
pub(super) struct Flows([Flow; FLOWS]);

impl Default for Flows {
    fn default() -> Flows {
        // Of nobody: no key is like this.
        Flows([Flow { front: 0, addrs: 0, ports: 0, epoch: 0, key: Key::NONE }; FLOWS])
    }
}

impl Flow {
    #[inline]
    fn of(head: &Headers, epoch: u32) -> Flow {
        Flow {
            front: u128::from_ne_bytes(part(head, 0)),
            addrs: u64::from_ne_bytes(part(head, 26)),
            ports: u32::from_ne_bytes(part(head, 34)),
            epoch,
            key: Key::NONE,
        }
    }

    /// Whether it is the same but for the key.
    #[inline]
    fn is(&self, other: &Flow) -> bool {
        let same = (self.front ^ other.front, self.addrs ^ other.addrs, self.ports ^ other.ports);
        same == (0, 0, 0) && self.epoch == other.epoch
    }

    #[inline]
    fn place(&self) -> usize {
        let [_, from, _, to] = self.ports.to_ne_bytes();
        usize::from(from ^ to) % FLOWS
    }
}

#[inline]
fn part<const N: usize>(head: &Headers, at: usize) -> [u8; N] {
    std::array::from_fn(|n| head[at + n])
}

#[inline]
fn half(head: &Headers, at: usize) -> u16 {
    u16::from_be_bytes(part(head, at))
}

#[inline]
fn word(head: &Headers, at: usize) -> u32 {
    u32::from_be_bytes(part(head, at))
}

impl Tcp {
    /// Takes a frame, if it is the next of a known flow. False: nothing was done.
    #[inline]
    pub(crate) fn receive_known(&mut self, env: &mut Env<'_, '_>, frame: &mut Frame) -> bool {
        let [only] = frame.data.segments() else { return false };
        let Some(head) = only.first_chunk::<TEXT>() else { return false };
        let same = Flow::of(head, env.ip.epoch());
        let flow = &self.flows.0[same.place()];
        if !flow.is(&same) {
            return false;
        }
        let key = flow.key;
        let end = ETHERNET + usize::from(half(head, 16));
        let flags = Flags(head[47] & !Flags::PSH.0);
        // Not a fragment, of TCP, with nothing but timestamps behind the fixed header, and no flag that means anything.
        let plain = half(head, 20) & 0x3fff == 0
            && head[23] == 6
            && head[46] == ((HEADER + TIMESTAMPS) / 4 << 4) as u8
            && word(head, 54) == 0x0101_080a
            && flags == Flags::ACK
            && (TEXT..=only.len()).contains(&end);
        if !plain || checksum::sum(&head[ETHERNET..ETHERNET + IPV4]) != 0xffff {
            return false;
        }
        // The addresses are part of the pseudo-header, and lie before the segment.
        if frame.checksum == Checksum::Unknown {
            let rest = u32::from(super::PROTOCOL) + (end - ETHERNET - IPV4) as u32;
            if checksum::fold(checksum::sum(&only[ETHERNET + 12..end]) + rest) != 0xffff {
                return false;
            }
        }
        let next = Next {
            seq: SeqNum(word(head, 38)),
            ack: SeqNum(word(head, 42)),
            window: half(head, 48),
            timestamps: Some((word(head, 58), word(head, 62))),
            len: (end - TEXT) as u32,
            pushed: head[47] & Flags::PSH.0 != 0,
        };
        let ecn = head[15] & 3;
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return false };
        if !entry.conn.expects(&next, ecn) {
            return false;
        }
        env.ip.count_delivered();
        self.counters.received += 1;
        if let [only] = frame.data.segments_mut() {
            only.truncate(end);
            only.advance(TEXT);
        }
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        entry.conn.take_expected(&mut io, &next, &mut frame.data);
        entry.settle_timers(env.cx.now, key, &mut self.soon, &mut self.wheel);
        true
    }

    /// What is to be compared with flows, of a frame that is of none; before anything is taken off it.
    #[inline]
    pub(crate) fn flow_of(&self, ip: &Ip, frame: &Frame) -> Option<Flow> {
        let [only] = frame.data.segments() else { return None };
        Some(Flow::of(only.first_chunk()?, ip.epoch()))
    }

    /// Notes that packets of this flow are for a connection between these addresses, if there is one.
    pub(crate) fn learn_flow(&mut self, mut flow: Flow, local: IpAddr, remote: IpAddr) {
        let [from_high, from_low, to_high, to_low] = flow.ports.to_ne_bytes();
        let local_port = u16::from_be_bytes([to_high, to_low]);
        let remote_port = u16::from_be_bytes([from_high, from_low]);
        let Some(key) = self.demux.find(&Ends { local, remote, local_port, remote_port }) else { return };
        if let Some(Socket::Connection(_)) = self.sockets.get(key) {
            flow.key = key;
            self.flows.0[flow.place()] = flow;
        }
    }
}
