//! Somebody on the wire who sends whatever segments he likes, and looks at those that come back.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use demi_libos_catnip::device::{DeviceCx, Frame, Loopback, Queue};
use smoltcp::wire::{IpAddress, TcpPacket};

use crate::world::World;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const ECE: u8 = 64;
pub(crate) const CWR: u8 = 128;

/// His own address; he answers for all others but the hosts' as well.
pub(crate) const RAW: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// The second host.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A segment to be sent, or one that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seg {
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) shift: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) stamps: Option<(u32, u32)>,
    pub(crate) ecn: u8,
    pub(crate) data: Vec<u8>,
}

impl Seg {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    fn options(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(mss) = self.mss {
            bytes.extend([2, 4]);
            bytes.extend(mss.to_be_bytes());
        }
        if let Some(shift) = self.shift {
            bytes.extend([1, 3, 3, shift]);
        }
        if self.sack {
            bytes.extend([1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.stamps {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        bytes
    }

    fn read(ecn: u8, tcp: &[u8]) -> Seg {
        let half = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        let header = usize::from(tcp[12] >> 4) * 4;
        let mut seg = Seg {
            ports: (half(0), half(2)),
            seq: word(4),
            ack: word(8),
            flags: tcp[13],
            window: half(14),
            ecn,
            data: tcp[header..].to_vec(),
            ..Seg::default()
        };
        let mut at = 20;
        while at < header {
            match tcp[at] {
                0 => break,
                1 => {
                    at += 1;
                    continue;
                }
                2 => seg.mss = Some(half(at + 2)),
                3 => seg.shift = Some(tcp[at + 2]),
                4 => seg.sack = true,
                8 => seg.stamps = Some((word(at + 2), word(at + 6))),
                _ => {}
            }
            at += usize::from(tcp[at + 1]);
        }
        seg
    }
}

pub(crate) struct Raw {
    device: Loopback,
    heap: Heap,
    inbox: Vec<Frame>,
    /// Segments that have arrived, whoever they were for.
    pub(crate) seen: VecDeque<Seg>,
    /// How many have.
    pub(crate) count: usize,
    /// Arrived segments are counted only.
    pub(crate) blind: bool,
}

impl Raw {
    pub(crate) fn new(world: &World) -> Raw {
        Raw {
            device: world.wire.plug([2, 0, 0, 0, 0, 9], 1500).unwrap(),
            heap: Heap::new(&HeapConfig { size: 8 << 20, lock: false, ..HeapConfig::default() }).unwrap(),
            inbox: Vec::new(),
            seen: VecDeque::new(),
            count: 0,
            blind: false,
        }
    }

    fn transmit(&mut self, now: Instant, bytes: &[u8]) {
        let frame = Frame::new(SgArray::copy_from(&self.heap, bytes).unwrap());
        self.device.tx_burst(&DeviceCx { heap: &self.heap, now }, &mut VecDeque::from([frame]));
    }

    /// Sends a segment to the second host, from whichever address.
    pub(crate) fn send_from(&mut self, now: Instant, from: Ipv4Addr, seg: &Seg) {
        let options = seg.options();
        let len = 20 + options.len() + seg.data.len();
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 8, 0];
        let mut ip = vec![0x45, seg.ecn, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
        ip[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
        ip.extend(from.octets());
        ip.extend(HOST.octets());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut tcp = Vec::with_capacity(len);
        tcp.extend(seg.ports.0.to_be_bytes());
        tcp.extend(seg.ports.1.to_be_bytes());
        tcp.extend(seg.seq.to_be_bytes());
        tcp.extend(seg.ack.to_be_bytes());
        tcp.extend([(((20 + options.len()) / 4) << 4) as u8, seg.flags]);
        tcp.extend(seg.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&options);
        tcp.extend(&seg.data);
        TcpPacket::new_unchecked(&mut tcp[..]).fill_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(HOST));
        bytes.extend(&ip);
        bytes.extend(&tcp);
        self.transmit(now, &bytes);
    }

    /// Takes what has arrived, and answers who asks for an Ethernet address.
    pub(crate) fn look(&mut self, now: Instant) {
        let mut inbox = std::mem::take(&mut self.inbox);
        while self.device.rx_burst(&DeviceCx { heap: &self.heap, now }, &mut inbox) > 0 {}
        for frame in inbox.drain(..) {
            let bytes = frame.data.to_vec();
            if bytes[12..14] == [8, 6] && bytes[20..22] == [0, 1] && bytes[38..42] == RAW.octets() {
                let mut reply = bytes[6..12].to_vec();
                reply.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9]);
                reply.extend(&bytes[38..42]);
                reply.extend(&bytes[22..32]);
                self.transmit(now, &reply);
            }
            if bytes[12..14] == [8, 0] && bytes[23] == 6 {
                self.count += 1;
                if !self.blind {
                    let end = 14 + usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
                    self.seen.push_back(Seg::read(bytes[15] & 3, &bytes[34..end]));
                }
            }
        }
        self.inbox = inbox;
    }

    /// Sends a segment from his own address, and lets the hosts do what they have to do about it at once.
    pub(crate) fn send(&mut self, world: &World, seg: &Seg) {
        self.send_from(world.now(), RAW, seg);
        self.settle(world);
    }

    /// Lets the hosts work until they have nothing left to do for now.
    pub(crate) fn settle(&mut self, world: &World) {
        for _ in 0..5 {
            for host in &world.hosts {
                host.poll().unwrap();
            }
            self.look(world.now());
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, world: &World, time: std::time::Duration) {
        let end = world.now() + time;
        self.settle(world);
        loop {
            let deadlines = world.hosts.iter().filter_map(|host| host.next_deadline().unwrap());
            match deadlines.min() {
                Some(next) if next <= end => world.clock.set(next.max(world.now())),
                _ => break,
            }
            self.settle(world);
        }
        world.clock.set(end);
        self.settle(world);
    }

    /// The only segment that has arrived.
    #[track_caller]
    pub(crate) fn one(&mut self) -> Seg {
        assert_eq!(self.seen.len(), 1, "{:#?}", self.seen);
        self.seen.pop_front().unwrap()
    }

    #[track_caller]
    pub(crate) fn none(&mut self) {
        assert_eq!(self.seen.len(), 0, "{:#?}", self.seen);
    }
}
