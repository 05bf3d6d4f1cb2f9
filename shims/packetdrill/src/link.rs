//! The other end of the wire: raw IP packets for packetdrill, frames for the stack.
//!
//! All other hosts are here, and have one Ethernet address. Questions for it are answered on the spot, so that a script
//! sees nothing of neighbours; the stack's own addresses are nobody else's, and what routers and groups are told goes
//! nowhere.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use demi_api::Error;
use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use demi_libos_catnip::device::{DeviceCx, Frame, Loopback, Queue, Wire};

use crate::looks::{arrange, fold, sum};

/// The stack's Ethernet address.
pub(crate) const STACK: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Everybody else's.
const OTHERS: [u8; 6] = [2, 0, 0, 0, 0, 2];

const HEADER: usize = 14;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

const ICMP6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Packets kept for packetdrill, at the most: the newest are dropped beyond.
const KEPT: usize = 65_536;

pub(crate) struct Link {
    end: Loopback,
    own: Vec<IpAddr>,
    inbox: Vec<Frame>,
    outbox: VecDeque<Frame>,
    left: VecDeque<(Instant, Vec<u8>)>,
}

impl Link {
    /// The end of `wire` that is not the stack's, which has the addresses `own`.
    pub(crate) fn new(wire: &Wire, mtu: usize, own: Vec<IpAddr>) -> Result<Link, Error> {
        let end = wire.plug(OTHERS, mtu).map_err(|errno| Error::System(errno.raw_os_error()))?;
        Ok(Link { end, own, inbox: Vec::new(), outbox: VecDeque::new(), left: VecDeque::new() })
    }

    /// Sends a packet to the stack.
    pub(crate) fn send(&mut self, heap: &Heap, now: Instant, packet: &[u8]) -> Result<(), Error> {
        let kind = match packet.first().map(|byte| byte >> 4) {
            Some(4) => IPV4,
            Some(6) => IPV6,
            _ => return Err(Error::Invalid("a packet begins with 4 or 6")),
        };
        let frame = [&STACK[..], &OTHERS, &kind.to_be_bytes(), packet].concat();
        self.transmit(heap, now, &frame)
    }

    /// The oldest packet that has left the stack, and when it did.
    pub(crate) fn receive(&mut self) -> Option<(Instant, Vec<u8>)> {
        self.left.pop_front()
    }

    /// Takes what the stack has sent. False: nothing.
    pub(crate) fn exchange(&mut self, heap: &Heap, now: Instant) -> bool {
        let mut inbox = std::mem::take(&mut self.inbox);
        let count = self.end.rx_burst(&DeviceCx { heap, now }, &mut inbox);
        for frame in inbox.drain(..) {
            self.take(heap, now, &frame.data.to_vec());
        }
        self.inbox = inbox;
        count > 0
    }

    fn take(&mut self, heap: &Heap, now: Instant, frame: &[u8]) {
        let Some((header, body)) = frame.split_first_chunk::<HEADER>() else { return };
        let answer = match u16::from_be_bytes([header[12], header[13]]) {
            ARP => self.answer_arp(header, body),
            // With options for all routers on the way: what it tells of groups.
            IPV6 if body.get(6) == Some(&0) => return,
            IPV6 if body.get(6) == Some(&ICMP6)
                && body.get(40).is_some_and(|kind| (133..=143).contains(kind)) =>
            {
                self.answer_solicitation(body)
            }
            IPV4 | IPV6 => {
                let mut packet = body.to_vec();
                arrange(&mut packet);
                if self.left.len() < KEPT {
                    self.left.push_back((now, packet));
                }
                return;
            }
            _ => return,
        };
        if let Some(answer) = answer {
            // Without memory the question is asked again.
            let _ = self.transmit(heap, now, &answer);
        }
    }

    fn transmit(&mut self, heap: &Heap, now: Instant, frame: &[u8]) -> Result<(), Error> {
        self.outbox.push_back(Frame::new(SgArray::copy_from(heap, frame)?));
        self.end.tx_burst(&DeviceCx { heap, now }, &mut self.outbox);
        Ok(())
    }

    /// RFC 826: the answer to who has an address.
    fn answer_arp(&self, header: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let asked: [u8; 4] = body.get(24..28)?.try_into().ok()?;
        if body[6..8] != [0, 1] || self.own.contains(&asked.into()) {
            return None;
        }
        let mut out = [&header[6..12], &OTHERS, &ARP.to_be_bytes()].concat();
        out.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        out.extend(OTHERS);
        out.extend(asked);
        out.extend(&body[8..18]);
        Some(out)
    }

    /// RFC 4861 §7.2.4: the answer to a solicitation.
    fn answer_solicitation(&self, body: &[u8]) -> Option<Vec<u8>> {
        let asked: [u8; 16] = body.get(48..64)?.try_into().ok()?;
        let asker: [u8; 16] = body[8..24].try_into().ok()?;
        // Somebody without an address asks whether his own is somebody else's already.
        if body[40] != SOLICITATION
            || self.own.contains(&asked.into())
            || Ipv6Addr::from(asker).is_unspecified()
        {
            return None;
        }
        let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend(asked);
        message.extend([2, 1]);
        message.extend(OTHERS);
        let pseudo = sum(&asked) + sum(&asker) + u64::from(ICMP6) + message.len() as u64;
        let check = !fold(pseudo + sum(&message));
        message[2..4].copy_from_slice(&check.to_be_bytes());
        let mut out = [&STACK[..], &OTHERS, &IPV6.to_be_bytes(), &[0x60, 0, 0, 0, 0]].concat();
        out.extend([message.len() as u8, ICMP6, 255]);
        out.extend(asked);
        out.extend(asker);
        out.extend(message);
        Some(out)
    }
}
