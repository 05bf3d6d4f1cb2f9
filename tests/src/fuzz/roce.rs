//! A hostile peer of the soft RDMA provider: any packets, requests and answers of any numbers for a queue pair, and any datagrams
//! for its connection manager.
//!
//! Whatever it does: no panic, no byte is read or written but what its keys allow at that moment, each posting ends once, and
//! no buffer is lost.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use demi_api::memalloc::{Buf, BufMut, HeapConfig, HugePages};
use demi_api::time::Instant;
use demi_api::{Heap, SgArray};
use demi_libos_catmint::device::{Access, Atomic, Event, Grant, ListenId, Qp, Region, Remote, Then};
use demi_libos_catmint::soft::cm;
use demi_libos_catmint::soft::rc::{Host, Memory, Params, QueuePair, Sink};
use demi_libos_catmint::soft::wire::{
    Aeth, AtomicEth, Envelope, Header, IpService, MAX_HEADER_LEN, Mad, NakCode, Operation, Psn, Qpn, Reth,
    RnrTimer, Syndrome, Tail,
};

use super::input::Input;

const US: Qp = Qp(1);
const MTU: usize = 256;
/// Bytes of what is granted, of the regions, and of what nobody may see.
const READABLE: u8 = 0x47;
const OURS: u8 = 0x51;
const SECRET: u8 = 0xEE;
const LEN: usize = 1000;
const RECEIVE: usize = 700;

thread_local! {
    static HEAP: Heap = Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false })
        .expect("4 MiB can be had");
}

/// Any bytes as packets, headers, management datagrams and private data.
pub fn roce_wire(data: &[u8]) {
    if let Ok((envelope, content)) = Envelope::open(data) {
        assert!(envelope.ends.source().is_ipv4() == envelope.ends.destination().is_ipv4());
        let _ = Header::parse(content);
    }
    if let Ok((header, payload)) = Header::parse(data) {
        // What was understood is said again in the same words, but for reserved bits.
        let mut out = [0; MAX_HEADER_LEN];
        let len = header.emit(payload.len(), &mut out);
        let mut again = out[..len].to_vec();
        again.extend_from_slice(payload);
        again.resize(again.len().next_multiple_of(4), 0);
        assert_eq!(Header::parse(&again), Ok((header, payload)));
        let front = &data[..data.len().min(MAX_HEADER_LEN)];
        let (same, range) = Header::parse_front(front, data.len()).expect("it is the same packet");
        assert!(same == header && &data[range] == payload);
    }
    if let Ok(mad) = Mad::parse(data) {
        let again = mad.emit();
        assert_eq!(Mad::parse(&again), Ok(mad));
    }
    if let Ok((service, user)) = IpService::parse(data) {
        let again = service.emit(user);
        assert_eq!(IpService::parse(&again).map(|(service, _)| service), Ok(service));
    }
}

/// A queue pair between an application that works with it and a peer that does what it likes.
pub fn roce_peer(data: &[u8]) {
    HEAP.with(|heap| {
        let mut input = Input::new(data);
        let mut bench = Bench::new(heap);
        while !input.is_empty() {
            bench.act(&mut input);
            bench.is_safe();
            if bench.qp.failed().is_some() {
                bench.end();
                bench = Bench::new(heap);
            }
        }
        bench.end();
    });
    HEAP.with(|heap| assert_eq!(heap.stats().objects_live, 0, "buffers are held"));
}

struct Bench<'h> {
    heap: &'h Heap,
    now: Instant,
    qp: QueuePair,
    receives: VecDeque<BufMut>,
    memory: Memory,
    events: Vec<Event>,
    wire: Recorder,
    grant: Option<Grant>,
    /// The peer may read the first, write the second, and neither the third nor the fourth.
    places: [Remote; 4],
    regions: [Region; 2],
    /// Of another queue pair.
    foreign: Grant,
    secret: Buf,
    told: u64,
    ended: u64,
    posted: u64,
    lent: usize,
}

/// Looks at what goes out.
struct Recorder {
    /// The link takes this many more.
    room: usize,
    may_read: bool,
    /// Number of the last request.
    asked: Psn,
    /// Which request is expected, as far as was said.
    expected: Psn,
}

impl Sink for Recorder {
    fn packet(&mut self, header: &[u8], payload: &[&[u8]]) -> bool {
        let Some(room) = self.room.checked_sub(1) else { return false };
        self.room = room;
        let mut packet = header.to_vec();
        payload.iter().for_each(|piece| packet.extend_from_slice(piece));
        packet.resize(packet.len().next_multiple_of(4), 0);
        let (header, payload) = Header::parse(&packet).expect("what goes out is sound");
        assert!(payload.len() <= MTU);
        match header.operation {
            Operation::ReadFirst(_)
            | Operation::ReadMiddle
            | Operation::ReadLast(_)
            | Operation::ReadOnly(_) => {
                assert!(payload.iter().all(|byte| *byte == READABLE), "a secret is told");
                assert!(payload.is_empty() || self.may_read, "the key was taken away");
            }
            Operation::Acknowledge(Aeth { syndrome: Syndrome::Ack { .. }, .. }) => {
                self.expected = header.psn + 1;
            }
            Operation::Acknowledge(_) => self.expected = header.psn,
            Operation::AtomicAcknowledge(..) => {}
            _ => {
                assert!(payload.iter().all(|byte| *byte == OURS), "a secret is told");
                self.asked = header.psn;
            }
        }
        true
    }
}

impl<'h> Bench<'h> {
    fn new(heap: &'h Heap) -> Bench<'h> {
        let [asked, expected] = [0x00FF_FFF0, 0x00FF_FFFA].map(Psn::new);
        let mut params = Params::new(US, Qpn::new(9), MTU, asked, expected);
        params.set_depth(16, 64);
        (params.initiator_depth, params.responder_resources) = (3, 3);
        let mut memory = Memory::new(1);
        let filled = |byte: u8| heap.copy_from(&[byte; LEN]).expect("there is memory");
        let whole = filled(SECRET);
        let mut middle = heap.alloc(3 * LEN).expect("there is memory");
        middle.fill(SECRET);
        middle[LEN..2 * LEN].fill(READABLE);
        let granted = middle.freeze().slice(LEN..2 * LEN);
        let (grant, readable) = memory.grant(US, granted).expect("there are keys");
        let (foreign, denied) = memory.grant(Qp(2), filled(SECRET)).expect("there are keys");
        let writable = Access { write: true, atomic: true, read: false };
        let regions =
            [writable, Access::default()].map(|access| memory.region(LEN, access).expect("there is memory"));
        let [written, closed] = regions.map(|region| memory.place(region).expect("it was made"));
        Bench {
            heap,
            now: Instant::from_nanos(1_000_000),
            qp: QueuePair::new(params),
            receives: VecDeque::new(),
            memory,
            events: Vec::new(),
            wire: Recorder { room: 0, may_read: true, asked, expected },
            grant: Some(grant),
            places: [readable, written, denied, closed],
            regions,
            foreign,
            secret: whole,
            told: 0,
            ended: 0,
            posted: 0,
            lent: 0,
        }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=7 => self.request(input),
            8..=10 => self.answer(input),
            11 | 12 => self.post(input),
            13 => {
                if self.receives.len() < 4 {
                    self.receives.push_back(self.heap.alloc(RECEIVE).expect("there is memory"));
                    self.lent += 1;
                }
            }
            14 => {
                let time = Duration::from_micros(1 << (input.byte() % 20));
                self.now = self.now + time;
                let mut host =
                    Host { receives: &mut self.receives, memory: &mut self.memory, events: &mut self.events };
                self.qp.tick(self.now, &mut host);
            }
            _ => match self.grant.take() {
                Some(grant) if input.byte() & 1 == 0 => {
                    let data = self.memory.revoke(grant).expect("it was not revoked yet");
                    assert_eq!(data[..], [READABLE; LEN]);
                    assert!(self.memory.read(US, self.places[0], 1).is_err());
                }
                grant => self.grant = grant,
            },
        }
        self.wire.room = usize::from(input.byte() % 8);
        self.wire.may_read = self.memory.read(US, self.places[0], 1).is_ok();
        let mut host =
            Host { receives: &mut self.receives, memory: &mut self.memory, events: &mut self.events };
        self.qp.transmit(self.now, &mut self.wire, &mut host);
    }

    /// Where the peer says that it wants to.
    fn place(&self, input: &mut Input<'_>) -> Remote {
        let which = input.byte();
        let place = self.places[usize::from(which % 4)];
        let offset = match input.byte() {
            0..128 => 0,
            small @ 128..224 => i32::from(small - 128) * 8,
            _ => input.offset().cast_signed(),
        };
        let key = if which >= 0xF0 { input.word() } else { place.key };
        Remote { addr: place.addr.wrapping_add_signed(offset.into()), key }
    }

    fn request(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let place = self.place(input);
        let len = match input.byte() {
            small @ 0..128 => u32::from(small) * 2,
            long @ 128..224 => u32::from(long) * 4,
            _ => input.offset(),
        };
        let reth = Reth { address: place.addr, key: place.key, len };
        let word = AtomicEth {
            address: place.addr,
            key: place.key,
            swap_or_add: input.byte().into(),
            compare: input.byte().into(),
        };
        let tail = match input.byte() % 4 {
            0 => Tail::Immediate(7),
            1 => Tail::Invalidate(place.key),
            _ => Tail::Plain,
        };
        let immediate = input.byte().is_multiple_of(4).then_some(9);
        let operation = match kind % 11 {
            0 => Operation::SendFirst,
            1 => Operation::SendMiddle,
            2 => Operation::SendLast(tail),
            3 => Operation::SendOnly(tail),
            4 => Operation::WriteFirst(reth),
            5 => Operation::WriteMiddle,
            6 => Operation::WriteLast(immediate),
            7 => Operation::WriteOnly(reth, immediate),
            8 => Operation::ReadRequest(reth),
            9 => Operation::CompareSwap(word),
            _ => Operation::FetchAdd(word),
        };
        let ask = input.byte() & 1 == 0;
        let fitting = match operation {
            Operation::SendFirst
            | Operation::SendMiddle
            | Operation::WriteFirst(_)
            | Operation::WriteMiddle => MTU,
            _ => len as usize % (MTU + 1),
        };
        let size = match input.byte() {
            0..224 => fitting,
            other => usize::from(other) * 2 % (MTU + 40),
        };
        self.give(input, operation, ask, size);
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let syndrome = match input.byte() % 16 {
            0 => Syndrome::Nak(NakCode::Sequence),
            1 => Syndrome::RnrNak(RnrTimer::at_least(Duration::from_micros(input.byte().into()))),
            2 if input.byte().is_multiple_of(8) => Syndrome::Nak(NakCode::RemoteAccess),
            _ => Syndrome::Ack { credits: 31 },
        };
        let aeth = Aeth { syndrome, msn: input.word() & 0x00FF_FFFF };
        let operation = match input.byte() % 8 {
            0 => Operation::ReadFirst(aeth),
            1 => Operation::ReadMiddle,
            2 => Operation::ReadLast(aeth),
            3 => Operation::ReadOnly(aeth),
            4 => Operation::AtomicAcknowledge(aeth, 3),
            _ => Operation::Acknowledge(aeth),
        };
        let size = match input.byte() {
            small @ 0..64 => usize::from(small),
            _ => MTU,
        };
        self.give(input, operation, false, size);
    }

    /// With a number near what fits, or any.
    fn give(&mut self, input: &mut Input<'_>, operation: Operation, ask: bool, size: usize) {
        let is_answer = matches!(
            operation,
            Operation::ReadFirst(_)
                | Operation::ReadMiddle
                | Operation::ReadLast(_)
                | Operation::ReadOnly(_)
                | Operation::AtomicAcknowledge(..)
                | Operation::Acknowledge(_)
        );
        let offset = input.offset();
        let psn = if is_answer { self.wire.asked } else { self.wire.expected } + offset;
        if !is_answer && offset == 0 {
            self.wire.expected += 1;
        }
        let mut header = Header::new(Qpn::new(1), psn, operation);
        header.ack_request = ask;
        let payload = [0x99; 2 * MTU + 40];
        let mut host =
            Host { receives: &mut self.receives, memory: &mut self.memory, events: &mut self.events };
        self.qp.packet(self.now, &header, &&payload[..size], &mut host);
    }

    fn post(&mut self, input: &mut Input<'_>) {
        let cookie = self.posted;
        let far = Remote { addr: 8, key: 1 };
        let len = usize::from(input.half()) % 1500;
        let data = || -> SgArray { self.heap.copy_from(&vec![OURS; len]).expect("there is memory").into() };
        let done = match input.byte() % 5 {
            0 => self.qp.send(&[OURS; 16], data(), Then::Tell(cookie)).is_ok(),
            1 => self.qp.write(far, data(), Then::Tell(cookie)).is_ok(),
            2 => self.qp.write_word(far, u64::from_ne_bytes([OURS; 8]), Then::Tell(cookie)).is_ok(),
            3 => self.qp.read(far, self.heap.alloc(len).expect("there is memory"), cookie).is_ok(),
            _ => self.qp.atomic(far, Atomic::FetchAdd(1), cookie).is_ok(),
        };
        self.posted += u64::from(done);
    }

    /// What must hold after every step.
    fn is_safe(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::Received { message, .. } => {
                    assert!(message.len() <= RECEIVE && message.iter().all(|byte| *byte == 0x99));
                    self.lent -= 1;
                    self.told += 1;
                }
                Event::Sent { cookie: Some(cookie), .. }
                | Event::Read { cookie, .. }
                | Event::Fetched { cookie, .. } => {
                    assert_eq!(cookie, self.ended, "postings end once, in order");
                    self.ended += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.ended <= self.posted);
        assert!(self.secret.iter().all(|byte| *byte == SECRET));
        assert!(self.memory.bytes(self.regions[1]).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)));
        assert!(self.qp.deadline().is_none_or(|at| at.since(self.now) < Duration::from_secs(10)));
    }

    /// After all, everything comes back.
    fn end(mut self) {
        let fault = demi_libos_catmint::device::Fault::Disconnected;
        let mut host =
            Host { receives: &mut self.receives, memory: &mut self.memory, events: &mut self.events };
        self.qp.fail(fault, &mut host);
        self.is_safe();
        assert_eq!(self.ended, self.posted, "a posting has no end");
        assert_eq!(self.receives.len(), self.lent, "a receive is lost");
        assert!(self.receives.iter().all(|receive| receive.len() == RECEIVE));
        let other = self.memory.revoke(self.foreign).expect("nobody else can revoke it");
        assert_eq!(other[..], [SECRET; LEN]);
        if let Some(grant) = self.grant {
            assert!(self.memory.revoke(grant).is_some_and(|data| data[..] == [READABLE; LEN]));
        }
    }
}

/// A connection manager between an application that connects, accepts and leaves, and peers that say what they like.
pub fn roce_cm(data: &[u8]) {
    const BACKLOG: usize = 4;
    let mut input = Input::new(data);
    let addr = |last: u8| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
    let config = cm::Config { backlog: BACKLOG, connections: 16, ..cm::Config::default() };
    let mut manager = cm::Manager::new(config, 1);
    manager.listen(ListenId(1), SocketAddr::new(addr(1), 7));
    let mut now = Instant::from_nanos(1);
    let mut events = Vec::new();
    let mut names = Vec::new();
    let mut requests = Vec::new();
    // What was said last, as material.
    let mut said = vec![0; 256];
    let mut qps = 0;
    while !input.is_empty() {
        let offer = cm::Offer { qpn: Qpn::new(input.byte().into()), psn: Psn::new(5) };
        let mut sent_for = 0;
        match input.byte() % 8 {
            0 => {
                let (from, to) = (SocketAddr::new(addr(1), 9), SocketAddr::new(addr(input.byte() % 4), 7));
                names.extend(manager.connect(now, Qp(qps), offer, from, to, b"hello"));
                qps += 1;
            }
            1 => {
                if let Some(id) = requests.pop() {
                    names.extend(manager.accept(now, id, Qp(qps), offer, b"hello").map(|(name, _)| name));
                    qps += 1;
                }
            }
            2 => {
                if let Some(id) = requests.pop() {
                    manager.reject(now, id, input.run());
                }
            }
            3 => {
                if !names.is_empty() {
                    let at = usize::from(input.byte()) % names.len();
                    manager.disconnect(now, names.swap_remove(at));
                }
            }
            4 => {
                now = now + Duration::from_millis(1 << (input.byte() % 12));
                manager.tick(now, &mut events);
            }
            _ => {
                // The last thing that was said, as another message, with names exchanged and some bytes changed.
                let mut mad = said.clone();
                mad[17] = 0x10 + input.byte() % 8;
                if input.byte() & 1 == 0 {
                    let (ours, theirs) = mad[24..32].split_at_mut(4);
                    ours.swap_with_slice(theirs);
                }
                for _ in 0..input.byte() % 6 {
                    let (at, value) = (input.byte(), input.byte());
                    mad[usize::from(at)] = value;
                }
                let from = addr(input.byte() % 4);
                manager.datagram(now, from, addr(1), &mad, &mut events);
                sent_for = 1;
            }
        }
        let mut answers = 0;
        while let Some(datagram) = manager.outgoing() {
            assert!(Mad::parse(&datagram.mad).is_ok(), "what goes out is sound");
            said = datagram.mad.to_vec();
            answers += 1;
        }
        assert!(sent_for == 0 || answers <= 1, "no more goes out than came in");
        for event in events.drain(..) {
            if let cm::Event::Request { id, .. } = event {
                requests.push(id);
            }
        }
        assert!(manager.connections() <= 16);
    }
    // All that is left ends by itself, but for what the application has to say.
    for name in names {
        manager.disconnect(now, name);
    }
    for id in requests {
        manager.reject(now, id, b"");
    }
    for _ in 0..1000 {
        let Some(at) = manager.deadline() else { break };
        now = now.max(at);
        manager.tick(now, &mut events);
        while manager.outgoing().is_some() {}
    }
    assert_eq!(manager.deadline(), None, "it never ends");
    assert_eq!(manager.connections(), 0);
}
