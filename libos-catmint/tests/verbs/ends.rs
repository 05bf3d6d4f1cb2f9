//! Two ends of a queue pair, driven by hand in one thread.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use demi_api::memalloc::{Buf, BufMut, Heap, HeapConfig};
use demi_api::sga::SgArray;
use demi_api::time::Clock;
use demi_libos_catmint::device::{DeviceCx, Event, Fault, ListenId, Qp, RdmaDevice, Then};
use demi_libos_catmint::verbs::{Verbs, VerbsConfig};

use super::Place;

/// What nothing here may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of each receive.
pub(super) const RECEIVE: usize = 8192;
pub(super) const HELLO: &[u8] = b"DEMI hello of 16";

pub(super) struct End {
    // The device before its memory.
    pub(super) device: Verbs,
    pub(super) heap: Heap,
    clock: Clock,
    pub(super) events: VecDeque<Event>,
    inbox: Vec<Event>,
}

impl End {
    pub(super) fn with(config: &VerbsConfig) -> End {
        let heap =
            Heap::new(&HeapConfig { size: 32 << 20, ..HeapConfig::default() }).expect("there is memory");
        let device = Verbs::open(&heap, config).expect("the device can be opened");
        End { device, heap, clock: Clock::start(), events: VecDeque::new(), inbox: Vec::new() }
    }

    pub(super) fn open() -> End {
        End::with(&VerbsConfig { receives: 256, ..VerbsConfig::default() })
    }

    /// The device and what a call of it is given.
    pub(super) fn both(&mut self) -> (&mut Verbs, DeviceCx<'_>) {
        (&mut self.device, DeviceCx { heap: &self.heap, now: self.clock.now() })
    }

    pub(super) fn turn(&mut self) {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.poll(&cx, &mut self.inbox);
        self.device.flush(&cx);
        self.events.extend(self.inbox.drain(..));
    }

    /// Takes the first event that suits out of those that have come.
    pub(super) fn find<T>(&mut self, suits: impl Fn(&Event) -> bool, then: impl Fn(Event) -> T) -> Option<T> {
        let at = self.events.iter().position(suits)?;
        self.events.remove(at).map(then)
    }

    pub(super) fn receives(&mut self, count: usize) {
        for _ in 0..count {
            let into = self.heap.alloc(RECEIVE).expect("there is room");
            let (device, cx) = self.both();
            device.receive(&cx, into).expect("the queue has room");
        }
        let (device, cx) = self.both();
        device.flush(&cx);
    }

    /// Posts a message that there must be room for.
    pub(super) fn send(&mut self, qp: Qp, head: &[u8], data: SgArray, then: Then) {
        let (device, cx) = self.both();
        device.send(&cx, qp, head, data, then).expect("there is room");
    }

    pub(super) fn listen(&mut self, addr: SocketAddr) -> (ListenId, SocketAddr) {
        let (device, cx) = self.both();
        device.listen(&cx, addr).expect("the address is the device's")
    }

    pub(super) fn filled(&self, len: usize, seed: u64) -> BufMut {
        let mut buffer = self.heap.alloc(len).expect("there is room");
        buffer.copy_from_slice(&pattern(len, seed));
        buffer
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.device.counters(&mut |counter, value| {
            if counter == name {
                found = Some(value);
            }
        });
        found.unwrap_or_else(|| panic!("there is a counter {name}"))
    }

    /// The next message.
    pub(super) fn message(&mut self) -> Option<(Qp, Buf)> {
        self.find(
            |event| matches!(event, Event::Received { .. }),
            |event| match event {
                Event::Received { qp, message } => (qp, message),
                _ => unreachable!("it is one"),
            },
        )
    }

    /// Why a queue pair has ended, if it has.
    pub(super) fn gone(&mut self) -> Option<(Qp, Fault)> {
        self.find(
            |event| matches!(event, Event::Gone { .. }),
            |event| match event {
                Event::Gone { qp, why } => (qp, why),
                _ => unreachable!("it is one"),
            },
        )
    }
}

pub(super) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Lets both turn until something is there.
pub(super) fn until<T>(
    what: &str,
    ends: &mut [&mut End],
    mut done: impl FnMut(&mut [&mut End]) -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(result) = done(ends) {
            return result;
        }
        for end in ends.iter_mut() {
            end.turn();
        }
        if begin.elapsed() > LIMIT {
            let events: Vec<_> = ends.iter().map(|end| &end.events).collect();
            panic!("{what}: not within {LIMIT:?}; there are {events:?}");
        }
    }
}

/// Two ends, and the queue pair between them.
pub(super) struct Pair {
    pub(super) a: End,
    pub(super) b: End,
    pub(super) qa: Qp,
    pub(super) qb: Qp,
}

impl Pair {
    pub(super) fn new(place: &Place) -> Pair {
        Pair::between(place, End::open(), End::open())
    }

    pub(super) fn between(place: &Place, mut a: End, mut b: End) -> Pair {
        let (_, addr) = b.listen(SocketAddr::new(place.ip, 0));
        let (qa, qb) = connect(&mut a, &mut b, addr);
        Pair { a, b, qa, qb }
    }

    /// Another queue pair between the same two.
    pub(super) fn another(&mut self, place: &Place) -> (Qp, Qp) {
        let (_, addr) = self.b.listen(SocketAddr::new(place.ip, 0));
        connect(&mut self.a, &mut self.b, addr)
    }

    pub(super) fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut End, &mut End) -> Option<T>,
    ) -> T {
        until(what, &mut [&mut self.a, &mut self.b], |ends| match ends {
            [a, b] => done(a, b),
            _ => unreachable!("there are two"),
        })
    }

    /// Both know that it has ended; why, each.
    pub(super) fn ended(&mut self) -> (Fault, Fault) {
        let (mut at_a, mut at_b) = (None, None);
        let (qa, qb) = (self.qa, self.qb);
        self.until("the end of both ends", |a, b| {
            at_a = at_a.or_else(|| a.gone());
            at_b = at_b.or_else(|| b.gone());
            Some((at_a?, at_b?))
        });
        let ((gone_a, why_a), (gone_b, why_b)) = at_a.zip(at_b).expect("both have been seen");
        assert_eq!((gone_a, gone_b), (qa, qb));
        (why_a, why_b)
    }
}

/// Connects `a` to where `b` listens.
pub(super) fn connect(a: &mut End, b: &mut End, addr: SocketAddr) -> (Qp, Qp) {
    let (device, cx) = a.both();
    let qa = device.connect(&cx, addr, HELLO).expect("there is a queue pair left");
    let (qb, hello) = accept(a, b);
    assert_eq!(hello[..HELLO.len()], *HELLO);
    let (mut at_a, mut at_b) = (None, None);
    let is_established = |event: &Event| matches!(event, Event::Established { .. });
    let parts = |event| match event {
        Event::Established { qp, hello } => (qp, hello),
        _ => unreachable!("it is one"),
    };
    let (said_to_a, said_to_b) = until("both ends are connected", &mut [a, b], |ends| {
        at_a = at_a.take().or_else(|| ends[0].find(is_established, parts));
        at_b = at_b.take().or_else(|| ends[1].find(is_established, parts));
        if at_a.is_some() && at_b.is_some() { at_a.take().zip(at_b.take()) } else { None }
    });
    let (name, hello) = said_to_a;
    assert_eq!((name, &hello[..5]), (qa, &b"hello"[..]));
    assert_eq!(said_to_b, (qb, Vec::new()));
    (qa, qb)
}

/// Takes the next request to connect.
pub(super) fn request(a: &mut End, b: &mut End) -> Event {
    let is_request = |event: &Event| matches!(event, Event::Request { .. });
    until("a request to connect", &mut [a, b], |ends| ends[1].find(is_request, |event| event))
}

fn accept(a: &mut End, b: &mut End) -> (Qp, Vec<u8>) {
    let Event::Request { id, hello, .. } = request(a, b) else { unreachable!("it is one") };
    let (device, cx) = b.both();
    (device.accept(&cx, id, b"hello to you").expect("there is a queue pair left"), hello)
}
