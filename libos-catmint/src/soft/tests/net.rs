//! A network in the process: seeded loss, duplication, delay and reordering, in virtual time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use demi_api::fd::Fd;
use demi_api::time::Instant;

use crate::device::Fault;
use crate::soft::link::{FRONT, Full, Link, Packet};

/// What happens to packets, per mille.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) twice: u32,
    /// Delayed by up to a millisecond, and so overtaken.
    pub(super) late: u32,
    /// The sender is told that there is no room.
    pub(super) full: u32,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) weather: Weather,
    rng: fastrand::Rng,
    number: u64,
    /// Under way, by when they arrive.
    packets: BTreeMap<(Instant, u64), (IpAddr, IpAddr, Vec<u8>)>,
    /// Ends that are plugged in.
    ends: Vec<IpAddr>,
    /// Ends whose port is down.
    pub(super) down: Vec<IpAddr>,
    pub(super) sent: u64,
    now: Instant,
}

pub(super) type Shared = Rc<RefCell<Wire>>;

pub(super) fn wire(seed: u64, weather: Weather) -> Shared {
    Rc::new(RefCell::new(Wire {
        weather,
        rng: fastrand::Rng::with_seed(seed),
        number: 0,
        packets: BTreeMap::new(),
        ends: Vec::new(),
        down: Vec::new(),
        sent: 0,
        now: Instant::default(),
    }))
}

impl Wire {
    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// When the next packet arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.packets.keys().next().map(|(at, _)| *at)
    }

    fn put(&mut self, from: IpAddr, to: IpAddr, packet: &[u8]) {
        let late = if self.rng.u32(..1000) < self.weather.late { self.rng.u64(..1_000_000) } else { 0 };
        let at = self.now + Duration::from_nanos(1000 + late);
        self.number += 1;
        self.packets.insert((at, self.number), (from, to, packet.to_vec()));
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Net {
    wire: Shared,
    address: IpAddr,
    mtu: usize,
    never: Fd,
}

impl Net {
    pub(super) fn plug(wire: &Shared, address: IpAddr, mtu: usize) -> Net {
        wire.borrow_mut().ends.push(address);
        let never = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        Net { wire: wire.clone(), address, mtu, never: never.into() }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.wire.borrow_mut().ends.retain(|end| *end != self.address);
    }
}

/// A packet in private memory.
pub(super) struct Whole {
    front: [u8; FRONT],
    bytes: Vec<u8>,
}

impl Packet for Whole {
    type Payload<'a> = &'a [u8];

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn front(&self) -> &[u8; FRONT] {
        &self.front
    }

    fn payload(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

impl Link for Net {
    type Path = IpAddr;
    type Packet<'a> = Whole;

    const LOSSLESS: bool = false;

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn address(&self) -> IpAddr {
        self.address
    }

    fn path(&mut self, _now: Instant, to: IpAddr) -> Result<IpAddr, Fault> {
        if self.is_up() { Ok(to) } else { Err(Fault::Down) }
    }

    fn peer(&self, path: IpAddr) -> Option<IpAddr> {
        Some(path)
    }

    fn send(&mut self, path: IpAddr, headers: &[u8], payload: &[&[u8]]) -> Result<(), Full> {
        let wire = &mut *self.wire.borrow_mut();
        if wire.rng.u32(..1000) < wire.weather.full {
            return Err(Full);
        }
        wire.sent += 1;
        if wire.down.contains(&self.address) || wire.rng.u32(..1000) < wire.weather.loss {
            return Ok(());
        }
        let mut packet = [headers, &payload.concat()].concat();
        packet.resize(headers.len() + (packet.len() - headers.len()).next_multiple_of(4), 0);
        if wire.rng.u32(..1000) < wire.weather.twice {
            wire.put(self.address, path, &packet);
        }
        wire.put(self.address, path, &packet);
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, now: Instant, most: usize, mut each: impl FnMut(IpAddr, &Whole)) -> usize {
        let mut count = 0;
        while count < most {
            let mut wire = self.wire.borrow_mut();
            let due = wire.packets.iter().find(|((at, _), (_, to, _))| *at <= now && *to == self.address);
            let Some(key) = due.map(|(key, _)| *key) else { break };
            let Some((from, _, bytes)) = wire.packets.remove(&key) else { break };
            let down = wire.down.contains(&self.address);
            drop(wire);
            if !down {
                let mut front = [0; FRONT];
                let len = bytes.len().min(FRONT);
                front[..len].copy_from_slice(&bytes[..len]);
                each(from, &Whole { front, bytes });
            }
            count += 1;
        }
        // What nobody is there to receive.
        let wire = &mut *self.wire.borrow_mut();
        let ends = &wire.ends;
        wire.packets.retain(|(at, _), (_, to, _)| *at > now || ends.contains(to));
        count
    }

    fn ended(&mut self) -> Option<IpAddr> {
        None
    }

    fn is_up(&self) -> bool {
        !self.wire.borrow().down.contains(&self.address)
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.never.as_fd()
    }

    fn arm(&mut self, now: Instant) -> bool {
        self.wire.borrow().next().is_none_or(|at| at > now)
    }

    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}
}
