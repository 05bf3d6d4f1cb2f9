//! Two hosts and the wire between them, in virtual time: the same seed does the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use demi_api::memalloc::{BufMut, Heap, HeapConfig, HugePages};
use demi_api::time::Instant;
use fastrand::Rng;

use super::super::super::wire::{Ends, Envelope, Header, ICRC_LEN, Psn, Qpn, padding};
use super::super::{Host, Memory, Params, QueuePair, Sink};
use crate::device::{Event, Qp};

/// What the wire does to packets, each of so many in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) lost: u32,
    pub(super) doubled: u32,
    pub(super) late: u32,
    pub(super) spoiled: u32,
    /// How often the link takes no more.
    pub(super) blocked: u32,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) hosts: [TestHost; 2],
    pub(super) faults: Faults,
    pub(super) wire: Wire,
}

pub(super) struct TestHost {
    pub(super) heap: Heap,
    pub(super) qp: QueuePair,
    pub(super) receives: VecDeque<BufMut>,
    pub(super) memory: Memory,
    pub(super) events: Vec<Event>,
}

/// Packets on their way, by when they arrive, and then in the order in which they were sent.
#[derive(Default)]
pub(super) struct Wire {
    flying: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    /// Of each side.
    pub(super) packets: [u64; 2],
    pub(super) dropped: u64,
    /// Transport headers of all packets, in order, with the side that sent them, if somebody wants to know.
    pub(super) log: Option<Vec<(usize, Header)>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: u64,
    number: u64,
    to: usize,
    /// What UDP carries.
    content: Vec<u8>,
}

const LATENCY: Duration = Duration::from_micros(5);

impl World {
    pub(super) fn new(seed: u64, mtu: usize, change: impl Fn(&mut Params)) -> World {
        let mut rng = Rng::with_seed(seed);
        // Near the end of the numbers, so that they go around.
        let psns = [Psn::new(rng.u32(..)), Psn::new(0x00FF_FFF0 + rng.u32(..16))];
        let hosts = [0, 1].map(|side| {
            let mut params =
                Params::new(Qp(7), Qpn::new(20 + 1 - side as u32), mtu, psns[side], psns[1 - side]);
            change(&mut params);
            let config = HeapConfig { size: 8 << 20, huge_pages: HugePages::Never, lock: false };
            TestHost {
                heap: Heap::new(&config).unwrap(),
                qp: QueuePair::new(params),
                receives: VecDeque::new(),
                memory: Memory::new(seed + side as u64),
                events: Vec::new(),
            }
        });
        let now = Instant::from_nanos(1_000_000_000);
        World { now, rng, hosts, faults: Faults::default(), wire: Wire::default() }
    }

    /// Sends what a side has to send.
    pub(super) fn transmit(&mut self, side: usize) {
        let TestHost { qp, receives, memory, events, .. } = &mut self.hosts[side];
        let (rng, faults, now) = (&mut self.rng, self.faults, self.now);
        let mut sink = Port { wire: &mut self.wire, rng, faults, now, side };
        qp.transmit(self.now, &mut sink, &mut Host { receives, memory, events });
    }

    /// To the next packet, or the next deadline, and what follows from it. False: nothing will ever happen.
    pub(super) fn step(&mut self) -> bool {
        let mut next = self.wire.flying.peek().map(|Reverse(flying)| Instant::from_nanos(flying.at));
        for host in &self.hosts {
            let again = host.qp.is_ready().then(|| self.now + Duration::from_micros(1));
            next = [next, host.qp.deadline(), again].into_iter().flatten().min();
        }
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse(first)) = self.wire.flying.peek()
            && first.at <= self.now.as_nanos()
        {
            let Some(Reverse(flying)) = self.wire.flying.pop() else { break };
            self.arrive(flying.to, &flying.content);
        }
        for side in [0, 1] {
            let TestHost { qp, receives, memory, events, .. } = &mut self.hosts[side];
            qp.tick(self.now, &mut Host { receives, memory, events });
            self.transmit(side);
        }
        true
    }

    fn arrive(&mut self, side: usize, content: &[u8]) {
        let Ok(packet) = envelope(1 - side).check(content) else {
            self.wire.dropped += 1;
            return;
        };
        let (header, payload) = Header::parse(packet).unwrap();
        let TestHost { qp, receives, memory, events, .. } = &mut self.hosts[side];
        qp.packet(self.now, &header, &payload, &mut Host { receives, memory, events });
    }

    /// Until nothing happens any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never ends");
    }
}

impl TestHost {
    pub(super) fn post_receives(&mut self, count: usize, len: usize) {
        for _ in 0..count {
            self.receives.push_back(self.heap.alloc(len).unwrap());
        }
    }
}

struct Port<'a> {
    wire: &'a mut Wire,
    rng: &'a mut Rng,
    faults: Faults,
    now: Instant,
    side: usize,
}

impl Port<'_> {
    fn happens(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(..1000) < rate
    }
}

impl Sink for Port<'_> {
    fn packet(&mut self, header: &[u8], payload: &[&[u8]]) -> bool {
        if self.happens(self.faults.blocked) {
            return false;
        }
        let seal = envelope(self.side).icrc(header, payload.iter().copied());
        let mut content = [header, &payload.concat()].concat();
        content.resize(content.len() + padding(content.len()), 0);
        if let Some(log) = &mut self.wire.log {
            log.push((self.side, Header::parse(&content).unwrap().0));
        }
        content.extend_from_slice(&seal);
        assert!(content.len() <= 40 + 4096 + ICRC_LEN);
        self.wire.packets[self.side] += 1;
        let copies = if self.happens(self.faults.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            if self.happens(self.faults.lost) {
                self.wire.dropped += 1;
                continue;
            }
            let mut content = content.clone();
            if self.happens(self.faults.spoiled) {
                let bit = self.rng.usize(..8 * content.len());
                content[bit / 8] ^= 1 << (bit % 8);
            }
            let late = if self.happens(self.faults.late) { self.rng.u64(..60) } else { 0 };
            let at = (self.now + LATENCY + Duration::from_micros(late)).as_nanos();
            self.wire.sent += 1;
            let number = self.wire.sent;
            self.wire.flying.push(Reverse(Flying { at, number, to: 1 - self.side, content }));
        }
        true
    }
}

fn envelope(side: usize) -> Envelope {
    let addr = |side: usize| IpAddr::from(Ipv4Addr::new(10, 0, 0, side as u8));
    Envelope::new(Ends::new(addr(side), addr(1 - side)).unwrap(), 0xC000)
}
