//! One device with its heap, and two of them that are driven together.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::net::{self, Net, Weather};
use crate::device::{DeviceCx, Event, Fault, ListenId, Qp, RdmaDevice, RequestId, Then};
use crate::soft::link::shm::{Shm, ShmConfig};
use crate::soft::link::udp::{RawChoice, Udp, UdpConfig};
use crate::soft::{Settings, Soft};

/// A device, and what it has told.
pub(super) struct Side {
    pub(super) device: Box<dyn RdmaDevice>,
    pub(super) heap: Heap,
    pub(super) address: IpAddr,
    pub(super) events: Vec<Event>,
}

impl Side {
    pub(super) fn new(device: Box<dyn RdmaDevice>, address: IpAddr) -> Side {
        let config = HeapConfig { size: 16 << 20, huge_pages: HugePages::Never, lock: false };
        Side { device, heap: Heap::new(&config).unwrap(), address, events: Vec::new() }
    }

    /// Calls the device.
    pub(super) fn call<R>(
        &mut self,
        now: Instant,
        call: impl FnOnce(&mut dyn RdmaDevice, &DeviceCx<'_>) -> R,
    ) -> R {
        call(&mut *self.device, &DeviceCx { heap: &self.heap, now })
    }

    /// Posts receives.
    pub(super) fn receives(&mut self, now: Instant, count: usize, len: usize) {
        for _ in 0..count {
            let buffer = self.heap.alloc(len).unwrap();
            self.call(now, |device, cx| device.receive(cx, buffer)).unwrap();
        }
    }

    pub(super) fn array(&self, bytes: &[u8]) -> SgArray {
        SgArray::copy_from(&self.heap, bytes).unwrap()
    }

    pub(super) fn send(&mut self, now: Instant, qp: Qp, head: &[u8], data: &[u8], then: Then) -> bool {
        let data = self.array(data);
        self.call(now, |device, cx| device.send(cx, qp, head, data, then)).is_ok()
    }

    pub(super) fn turn(&mut self, now: Instant) -> usize {
        let Side { device, heap, events, .. } = self;
        let cx = DeviceCx { heap, now };
        let count = device.poll(&cx, events);
        device.flush(&cx);
        count
    }

    /// Takes the first event that `is_it` says something about.
    pub(super) fn take<R>(&mut self, is_it: impl Fn(&Event) -> Option<R>) -> Option<R> {
        let at = self.events.iter().position(|event| is_it(event).is_some())?;
        let found = is_it(&self.events[at]);
        self.events.remove(at);
        found
    }

    pub(super) fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        self.events.retain(|event| match event {
            Event::Received { message, .. } => {
                messages.push(message.to_vec());
                false
            }
            _ => true,
        });
        messages
    }
}

/// Two sides, and the time.
pub(super) struct World {
    pub(super) sides: Vec<Side>,
    pub(super) now: Instant,
    /// The wire, if it is one in virtual time.
    pub(super) wire: Option<net::Shared>,
    /// Packets are lost.
    pub(super) is_bad: bool,
    _directory: Option<tempfile::TempDir>,
}

pub(super) const TRIES: usize = 20_000;

pub(super) fn settings(seed: u64) -> Settings {
    Settings { seed, ..Settings::default() }
}

impl World {
    pub(super) fn net(seed: u64, weather: Weather, mtu: usize) -> World {
        let wire = net::wire(seed, weather);
        let sides = (1..=2).map(|number| {
            let address = IpAddr::from([10, 0, 0, number]);
            let device = Soft::new(Net::plug(&wire, address, mtu), settings(seed * 2 + u64::from(number)));
            Side::new(Box::new(device), address)
        });
        World {
            sides: sides.collect(),
            now: Instant::default(),
            wire: Some(wire),
            is_bad: weather.loss > 0,
            _directory: None,
        }
    }

    pub(super) fn shm() -> World {
        let directory = tempfile::tempdir().unwrap();
        let sides = (1..=2).map(|number| {
            let address = IpAddr::from([10, 0, 0, number]);
            let path = directory.path().to_owned();
            let config = ShmConfig { directory: path, address, ring_log2: 4, ..ShmConfig::default() };
            Side::new(Box::new(Soft::new(Shm::open(&config).unwrap(), settings(number.into()))), address)
        });
        World {
            sides: sides.collect(),
            now: Instant::default(),
            wire: None,
            is_bad: false,
            _directory: Some(directory),
        }
    }

    pub(super) fn udp(raw: RawChoice) -> World {
        static USED: AtomicU8 = AtomicU8::new(1);
        let number = USED.fetch_add(2, Ordering::Relaxed);
        let sides = (number..number + 2).map(|number| {
            let address = IpAddr::from([127, 47, 92, number]);
            let config = UdpConfig { address, raw, mtu: 4096 };
            Side::new(Box::new(Soft::new(Udp::open(&config).unwrap(), settings(number.into()))), address)
        });
        World { sides: sides.collect(), now: Instant::default(), wire: None, is_bad: false, _directory: None }
    }

    /// One turn of both, and time goes on: to whatever comes next, where it is virtual.
    pub(super) fn turn(&mut self) {
        for side in &mut self.sides {
            side.turn(self.now);
        }
        self.pass();
    }

    /// Time goes on.
    pub(super) fn pass(&mut self) {
        let Some(wire) = &self.wire else {
            self.now = self.now + Duration::from_micros(100);
            return;
        };
        let deadlines = self.sides.iter().filter_map(|side| side.device.next_deadline());
        let next = deadlines.chain(wire.borrow().next()).min();
        let soon = self.now + Duration::from_micros(1);
        self.now = next.map_or(soon, |next| next.max(soon));
        wire.borrow_mut().set_now(self.now);
    }

    /// Turns until `found` yields something.
    pub(super) fn until<R>(&mut self, what: &str, mut found: impl FnMut(&mut World) -> Option<R>) -> R {
        for _ in 0..TRIES {
            if let Some(found) = found(self) {
                return found;
            }
            self.turn();
        }
        let events: Vec<_> = self.sides.iter().map(|side| &side.events).collect();
        panic!("no {what} until {:?}; there is {events:?}", self.now);
    }

    /// Turns until nothing has happened for a while.
    pub(super) fn settle(&mut self) {
        for _ in 0..50 {
            self.turn();
        }
    }

    pub(super) fn listen(&mut self, side: usize) -> (ListenId, SocketAddr) {
        let at = SocketAddr::new(self.sides[side].address, 0);
        self.sides[side].call(self.now, |device, cx| device.listen(cx, at)).unwrap()
    }

    pub(super) fn request(&mut self, side: usize) -> (RequestId, Vec<u8>) {
        self.until("request", |world| {
            world.sides[side].take(|event| match event {
                Event::Request { id, hello, .. } => Some((*id, hello.clone())),
                _ => None,
            })
        })
    }

    pub(super) fn established(&mut self, side: usize, qp: Qp) -> Vec<u8> {
        self.until("connection", |world| {
            world.sides[side].take(|event| match event {
                Event::Established { qp: it, hello } if *it == qp => Some(hello.clone()),
                _ => None,
            })
        })
    }

    pub(super) fn gone(&mut self, side: usize, qp: Qp) -> Fault {
        self.until("end", |world| {
            world.sides[side].take(|event| match event {
                Event::Gone { qp: it, why } if *it == qp => Some(*why),
                _ => None,
            })
        })
    }

    /// Connects the first to the second: the queue pair of each, with receives.
    pub(super) fn connect(&mut self) -> [Qp; 2] {
        let (_, at) = self.listen(1);
        let now = self.now;
        for side in &mut self.sides {
            side.receives(now, 64, 16 << 10);
        }
        let ours = self.sides[0].call(now, |device, cx| device.connect(cx, at, b"hello")).unwrap();
        let (request, _) = self.request(1);
        let now = self.now;
        let theirs = self.sides[1].call(now, |device, cx| device.accept(cx, request, b"welcome")).unwrap();
        self.established(0, ours);
        self.established(1, theirs);
        [ours, theirs]
    }
}
