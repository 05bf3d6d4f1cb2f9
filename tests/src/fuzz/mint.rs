//! A peer of catmint that says and does what it likes: hellos, heads, offers, credit words, at any time.
//!
//! It has a device of its own on the same fabric, and speaks by hand. Whatever it does: no panic, every operation of the application
//! ends once, the heap holds no more than was promised, and nothing is left when it has gone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::config::Config;
use demi_api::instance::Demikernel;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::op::Done;
use demi_api::sga::SgArray;
use demi_api::time::{Clock, Instant};
use demi_api::{Domain, QDesc, QToken, SocketKind};
use demi_libos_catmint::device::ideal::{Conditions, Fabric, Ideal};
use demi_libos_catmint::device::{Access, DeviceCx, Event, Qp, RdmaDevice, Region, Remote, RequestId, Then};
use demi_libos_catmint::wire::{self, Head, Hello, Kind, Name, Refusal};
use demi_libos_catmint::{Catmint, CatmintSection};

use super::input::Input;

const VICTIM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

/// More steps teach nothing.
const STEPS: usize = 400;

/// What the heap holds at the most: the receives of all peers that there may be, and what their windows let in.
const MOST_BYTES: usize = 6 << 20;

const CONFIG: &str = "[heap]\nsize_mib = 8\nlock = false\nhuge_pages = \"never\"\n[queues]\nlinger_ms = 100\n\
    [catmint]\nreceives = 8\nreceive_bytes = 512\nwindow = 8192\nlongest = 65536\nconnections = 16\npeers = 4\n";

/// Runs an instance against a peer that does what these bytes say.
pub fn mint(data: &[u8]) {
    let mut scene = Scene::new();
    let mut input = Input::new(data);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        scene.act(&mut input);
        scene.turn();
        let stats = scene.demi.heap().stats();
        assert!(stats.bytes_live <= MOST_BYTES, "{} bytes are live", stats.bytes_live);
    }
    scene.end();
}

struct Scene {
    clock: Clock,
    demi: Demikernel<Catmint>,
    listener: QDesc,
    open: Vec<QDesc>,
    pending: Vec<(QToken, Option<QDesc>)>,
    heap: Heap,
    device: Option<Ideal>,
    region: Region,
    qps: Vec<Qp>,
    requests: Vec<RequestId>,
    /// What the victim has said: its credit words, its names for connections, what it offers.
    words: Remote,
    names: Vec<Name>,
    offers: Vec<(Name, u32, Remote, u32)>,
    inbox: Vec<Event>,
}

impl Scene {
    fn new() -> Scene {
        let clock = Clock::manual(Instant::from_nanos(1));
        let fabric = Fabric::new(Conditions { strict: false, depth: 32, ..Conditions::default() });
        let config = Config::parse(CONFIG, "fuzz").expect("a sound configuration");
        let section = CatmintSection::load(&config).expect("a sound section");
        let device = fabric.plug(&[VICTIM]).expect("a device");
        let rng = fastrand::Rng::with_seed(1);
        let demi = Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
            Catmint::over(&setup, &section, Box::new(device), rng)
        });
        let demi = demi.expect("an instance");
        let listener = demi.socket(Domain::Inet, SocketKind::Stream).expect("a socket");
        demi.bind(listener, SocketAddr::new(VICTIM, 80)).expect("a free port");
        demi.listen(listener, 4).expect("a listener");
        let heap = HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false };
        let heap = Heap::new(&heap).expect("a heap");
        let mut device = fabric.plug(&[STRANGER]).expect("a device");
        let cx = DeviceCx { heap: &heap, now: Instant::default() };
        device.listen(&cx, SocketAddr::new(STRANGER, 80)).expect("a listener");
        let region = device.region(4096, Access { read: true, write: true, atomic: true }).expect("a region");
        let words = Remote { addr: 0, key: 0 };
        Scene {
            clock,
            demi,
            listener,
            open: Vec::new(),
            pending: Vec::new(),
            heap,
            device: Some(device),
            region,
            qps: Vec::new(),
            requests: Vec::new(),
            words,
            names: Vec::new(),
            offers: Vec::new(),
            inbox: Vec::new(),
        }
    }

    /// Both sides work, and the application takes what is done.
    fn turn(&mut self) {
        self.demi.poll().expect("a turn");
        self.listen_in();
        self.demi.poll().expect("a turn");
        self.reap();
        assert_eq!(self.demi.counters().expect("counters").stale_posts, 0);
    }

    fn reap(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for (token, qd) in pending {
            match self.demi.wait(token, Some(Duration::ZERO)) {
                Ok(done) => match done.result {
                    Ok(Done::Accepted { qd, .. }) => self.open.push(qd),
                    Ok(Done::Connected) => self.open.extend(qd),
                    Err(_) if qd.is_some() => {
                        qd.into_iter().for_each(|qd| self.demi.close(qd).expect("open"))
                    }
                    _ => {}
                },
                Err(_) => self.pending.push((token, qd)),
            }
        }
    }

    fn listen_in(&mut self) {
        let Some(device) = &mut self.device else { return };
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        device.poll(&cx, &mut self.inbox);
        for event in self.inbox.drain(..) {
            match event {
                Event::Received { message, .. } => match wire::parse(&message) {
                    Some((_, Kind::Open { name, .. } | Kind::Accept { name })) => self.names.push(name),
                    Some((head, Kind::Offer { number, segments })) => {
                        self.offers.extend(segments.iter().map(|(at, len)| (head.to, number, *at, *len)));
                    }
                    _ => {}
                },
                Event::Request { id, hello, .. } => {
                    self.requests.push(id);
                    self.words = Hello::parse(&hello).map_or(self.words, |hello| hello.credits);
                }
                Event::Established { hello, .. } => {
                    self.words = Hello::parse(&hello).map_or(self.words, |hello| hello.credits);
                }
                Event::Gone { qp, .. } | Event::Refused { qp, .. } => self.qps.retain(|other| *other != qp),
                _ => {}
            }
        }
    }

    fn hello(&self, input: &mut Input<'_>) -> Hello {
        let place = self.device.as_ref().and_then(|device| device.place(self.region));
        let odd = input.byte();
        let or = |bit: u8, sound: u32, input: &mut Input<'_>| {
            if odd & 1 << bit == 0 { sound } else { input.offset() }
        };
        Hello {
            word: or(0, 0, input) as u16,
            id: u128::from(or(1, 7, input)),
            receives: or(2, 64, input) as u16,
            connections: or(3, 16, input) as u16,
            receive_bytes: or(4, 512, input),
            longest: or(5, 1 << 20, input),
            credits: Remote {
                addr: place.map_or(0, |place| place.addr) + u64::from(or(6, 0, input)),
                key: place.map_or(0, |place| place.key) ^ or(7, 0, input),
            },
        }
    }

    fn name(&self, input: &mut Input<'_>) -> Name {
        match input.byte() {
            at @ 0..200 if !self.names.is_empty() => self.names[usize::from(at) % self.names.len()],
            _ => Name(input.word()),
        }
    }

    /// A message that could be one, with whatever in it.
    fn kind(&self, input: &mut Input<'_>) -> Kind {
        let segment = |input: &mut Input<'_>| {
            let at = Remote { addr: input.word().into(), key: input.word() };
            (at, input.offset().max(1))
        };
        match input.byte() % 12 {
            0 | 1 => {
                Kind::Open { name: Name::new(input.half() % 20, 1), port: 80, from: input.half(), ip: VICTIM }
            }
            2 => Kind::Accept { name: Name::new(input.half() % 20, 1) },
            3 => Kind::Refuse(
                [Refusal::Nobody, Refusal::Backlog, Refusal::TooMany][usize::from(input.byte() % 3)],
            ),
            4 => Kind::End,
            5 => Kind::Close { reset: input.byte() & 1 == 1, used: input.offset() },
            6 => {
                let count = 1 + input.byte() % 8;
                Kind::Offer { number: input.offset(), segments: (0..count).map(|_| segment(input)).collect() }
            }
            7 => {
                let known = self.offers.get(usize::from(input.byte())).map(|(_, number, ..)| *number);
                Kind::Done { number: known.unwrap_or_else(|| input.offset()), read: input.byte() & 1 == 0 }
            }
            8 => Kind::Grant,
            9 => Kind::Blocked { granted: input.offset() },
            _ => Kind::Data,
        }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        if step < 128 { self.act_as_peer(step, input) } else { self.act_as_application(step, input) }
    }

    fn act_as_peer(&mut self, step: u8, input: &mut Input<'_>) {
        let hello = self.hello_bytes(step, input);
        let qp = self.qps.get(usize::from(input.byte()) % self.qps.len().max(1)).copied();
        let heap = self.heap.clone();
        let cx = DeviceCx { heap: &heap, now: self.clock.now() };
        let (kind, name) = (self.kind(input), self.name(input));
        let (offers, words) = (self.offers.len(), self.words);
        let Some(device) = &mut self.device else { return };
        match (step % 16, qp) {
            (0 | 1, _) if self.qps.len() < 8 => {
                self.qps.extend(device.connect(&cx, SocketAddr::new(VICTIM, 80), &hello));
                // What it will be told lies in these.
                for _ in 0..16 {
                    let Ok(buf) = heap.alloc(1024) else { break };
                    let _ = device.receive(&cx, buf);
                }
            }
            (2, _) => {
                if let Some(request) = self.requests.pop() {
                    self.qps.extend(device.accept(&cx, request, &hello));
                }
            }
            (3, _) => {
                if let Some(request) = self.requests.pop() {
                    device.reject(&cx, request, &hello);
                }
            }
            (4, Some(qp)) => {
                let message = input.run();
                let _ = device.send(&cx, qp, message, SgArray::new(), Then::Quiet);
            }
            (5..=10, Some(qp)) => {
                let head = Head { to: name, taken: input.offset(), granted: input.offset() };
                let data = if kind == Kind::Data { usize::from(input.half() % 600) } else { 0 };
                let Ok(data) = heap.copy_from(&vec![step; data]) else { return };
                let _ = device.send(&cx, qp, &wire::emit(head, &kind), data.into(), Then::Quiet);
            }
            (11, Some(qp)) => {
                let addr = words.addr.wrapping_add(u64::from(input.byte() % 18) * 8);
                let word = u64::from(input.word()) << 32 | u64::from(input.offset());
                let _ = device.write_word(&cx, qp, Remote { addr, ..words }, word, Then::Quiet);
            }
            (12, Some(qp)) if offers > 0 => {
                let (_, _, at, len) = self.offers[usize::from(input.byte()) % offers];
                let Ok(into) = heap.alloc(len.min(1 << 16) as usize) else { return };
                let _ = device.read(&cx, qp, at, into, 0);
            }
            (13, Some(qp)) => device.disconnect(&cx, qp),
            (14, Some(qp)) => {
                // An honest offer, which is taken back when it pleases.
                let Ok(data) = heap.copy_from(&[step; 2000]) else { return };
                let Ok((grant, at)) = device.grant(&cx, qp, data) else { return };
                let kind = Kind::Offer {
                    number: input.byte().into(),
                    segments: std::iter::once((at, 2000)).collect(),
                };
                let head = Head { to: name, taken: 0, granted: 0 };
                let _ = device.send(&cx, qp, &wire::emit(head, &kind), SgArray::new(), Then::Quiet);
                if input.byte() & 1 == 1 {
                    device.revoke(&cx, grant, 0);
                }
            }
            _ => {
                for _ in 0..8 {
                    let Ok(buf) = heap.alloc(1024) else { break };
                    let _ = device.receive(&cx, buf);
                }
            }
        }
    }

    fn hello_bytes(&self, step: u8, input: &mut Input<'_>) -> Vec<u8> {
        if step & 16 == 0 { self.hello(input).emit().to_vec() } else { input.take(56).to_vec() }
    }

    fn act_as_application(&mut self, step: u8, input: &mut Input<'_>) {
        let qd = self.open.get(usize::from(input.byte()) % self.open.len().max(1)).copied();
        match (step % 8, qd) {
            (0, _) if self.pending.len() < 64 => {
                self.pending.extend(self.demi.accept(self.listener).ok().map(|token| (token, None)));
            }
            (1, _) if self.open.len() < 16 => {
                let Ok(qd) = self.demi.socket(Domain::Inet, SocketKind::Stream) else { return };
                let to = SocketAddr::new(STRANGER, if input.byte() & 7 == 0 { 81 } else { 80 });
                match self.demi.connect(qd, to) {
                    Ok(token) => self.pending.push((token, Some(qd))),
                    Err(_) => self.demi.close(qd).expect("open"),
                }
            }
            (2 | 3, Some(qd)) if self.pending.len() < 64 => {
                self.pending.extend(self.demi.pop(qd).ok().map(|token| (token, None)));
            }
            (4 | 5, Some(qd)) if self.pending.len() < 64 => {
                let len = [3, 300, 490, 3000][usize::from(input.byte() % 4)];
                let Ok(sga) = self.demi.copy_from(&vec![1; len]) else { return };
                self.pending.extend(self.demi.push(qd, sga).ok().map(|token| (token, None)));
            }
            (6, Some(qd)) if input.byte() & 3 == 0 => {
                let _ = self.demi.shutdown(qd, demi_api::Shutdown::Write);
            }
            (6, Some(qd)) => {
                self.open.retain(|other| *other != qd);
                self.demi.close(qd).expect("open");
            }
            _ => {
                let on = Duration::from_micros(u64::from(input.half()) * 100);
                self.clock.set(self.clock.now() + on);
            }
        }
    }

    /// The stranger goes, the application closes, time passes: nothing is left.
    fn end(mut self) {
        for qd in std::mem::take(&mut self.open).into_iter().chain([self.listener]) {
            self.demi.close(qd).expect("open");
        }
        self.inbox.clear();
        self.device = None;
        for _ in 0..40 {
            self.clock.set(self.clock.now() + Duration::from_secs(1));
            self.demi.poll().expect("a turn");
            self.reap();
            for qd in std::mem::take(&mut self.open) {
                self.demi.close(qd).expect("open");
            }
        }
        let counters = self.demi.counters().expect("counters");
        assert_eq!(counters.operations_pending, 0, "{counters:#?}");
        assert_eq!(counters.stale_posts, 0);
        let left = counters.libos.iter().filter(|(name, _)| ["connections", "peers"].contains(name));
        assert!(left.clone().all(|(_, value)| *value == 0), "{:?}", left.collect::<Vec<_>>());
        // Receives are kept for the next peers.
        let stats = self.demi.heap().stats();
        assert!(stats.objects_live <= 4 * 8, "{} objects are live", stats.objects_live);
    }
}
