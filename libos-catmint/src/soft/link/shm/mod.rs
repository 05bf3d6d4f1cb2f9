//! A link made of memory: the instances of one machine, each with an address, reach each other through rings that two of them
//! share.
//!
//! An instance listens on a UNIX socket that is named like its address. Who has a packet for it connects there, makes
//! memory with a lane for each direction, hands it over with a greeting, and uses it at once. No system call is made while both sides
//! poll; one that sleeps says so in the lane and is woken by a byte on the socket.
//!
//! Invariants: the peer is not trusted. It can write to the shared memory at any time, so everything in it is copied
//! first and checked then; whatever it does, it costs no more than its own path, bounded time and bounded memory. What it
//! says its address is, is its own word: the directory's permissions say who can say so. A path
//! that ends takes the packets in it along, except those that had arrived. A child of fork has no part in its parent's
//! paths.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | what a link is made from |
//! | `greeting` | the message that a path begins with |
//! | `peer` | one path |
//! | `ring` | the two ends of a lane |
//! | `sealed` | files that can be mapped without fear |
//! | `raw` | access to memory that the peer may write |
//! | `sys` | system calls |

mod config;
mod greeting;
mod peer;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
mod ring;
mod sealed;
pub(crate) mod sys;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::time::Instant;

pub use self::config::ShmConfig;
use self::greeting::{GREETING_BYTES, Greeting};
use self::peer::Peer;
use self::raw::{Lane, lane_bytes};
pub use self::ring::{Arrived, InPlace};
use self::ring::{Receiver, Sender, Violation};
use self::sealed::Sealed;
use self::sys::{Epoll, Listener, Received};
use super::{Full, Link};
use crate::device::Fault;

/// Fruitless polls, and time, between two looks at the sockets: a system call of 0.2 µs every so often. A peer that
/// died, and one that is new, is noticed after that.
const POLLS: u32 = 2048;
const PERIOD: Duration = Duration::from_millis(10);
/// The same while somebody is expected: a new peer has connected, or we have.
const BUSY_POLLS: u32 = 64;

/// Connections that have not greeted yet: most of them, and for how long.
const MAX_STRANGERS: usize = 32;
const STRANGER_PERIOD: Duration = Duration::from_secs(1);
/// How long no connection is accepted after accepting one has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names a path of this link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShmPath {
    slot: u32,
    generation: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Shm {
    config: ShmConfig,
    listener: Listener,
    /// The listener is in the epoll set.
    listening: bool,
    accept_at: Instant,
    epoll: Epoll,
    places: Vec<Place>,
    vacant: Vec<u32>,
    /// Connected, and have not greeted yet.
    strangers: Vec<Stranger>,
    /// Numbers a stranger in the epoll set.
    stranger: u32,
    ended: VecDeque<ShmPath>,
    /// Paths that something was put in or taken out of.
    touched: Vec<u32>,
    /// Where the next round over the paths begins.
    first: usize,
    /// This process takes part in barriers.
    barriers: bool,
    /// All paths say that this side sleeps.
    armed: bool,
    polls: u32,
    look_at: Instant,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    peer: Option<Peer>,
}

#[derive(Debug)]
struct Stranger {
    number: u32,
    socket: Fd,
    until: Instant,
}

#[derive(Debug, Default)]
struct Counters {
    paths_opened: u64,
    paths_ended: u64,
    refused: u64,
    violations: u64,
    wakes: u64,
    full: u64,
}

/// What an entry of the epoll set is, beside its number.
const LISTENER: u64 = 0;
const STRANGER: u64 = 1 << 32;
const CONTROL: u64 = 2 << 32;
const PROCESS: u64 = 3 << 32;

impl Shm {
    /// Listens in the directory.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field out of its range, [`Error::AddressInUse`] if another instance has the address, and
    /// whatever else the system says to a new socket file.
    pub fn open(config: &ShmConfig) -> Result<Shm, Error> {
        config.check()?;
        let listener = Listener::bind(&config.directory.join(config.address.to_string()))?;
        let epoll = Epoll::new().map_err(sys::translate)?;
        epoll.add(&listener, LISTENER).map_err(sys::translate)?;
        Ok(Shm {
            config: config.clone(),
            listener,
            listening: true,
            accept_at: Instant::default(),
            epoll,
            places: Vec::new(),
            vacant: Vec::new(),
            strangers: Vec::new(),
            stranger: 0,
            ended: VecDeque::new(),
            touched: Vec::new(),
            first: 0,
            barriers: sys::join_barriers(),
            armed: false,
            polls: 0,
            look_at: Instant::default(),
            counters: Counters::default(),
        })
    }

    fn greeting(&self, log2: u8) -> Greeting {
        Greeting { log2, barriers: self.barriers, address: self.config.address }
    }

    /// Connects to who listens at an address. What is sent before it has looked lies in the lane until it does.
    fn connect(&mut self, to: IpAddr) -> Option<ShmPath> {
        let control = sys::connect(&self.config.directory.join(to.to_string()))?;
        let log2 = self.config.ring_log2;
        let file = Sealed::create(2 * lane_bytes(log2)).ok()?;
        let [forth, back] = Lane::map_pair(&file, log2).ok()?;
        if !sys::send(&control, &self.greeting(log2).encode(), Some(file.as_fd())) {
            return None;
        }
        self.polls = self.polls.min(BUSY_POLLS);
        // How the other side sleeps is not known until it answers.
        self.admit(Peer::new(to, control, Sender::new(forth), Receiver::new(back), false))
    }

    fn admit(&mut self, peer: Peer) -> Option<ShmPath> {
        let slot = match self.vacant.pop() {
            Some(slot) => slot,
            None if self.places.len() < self.config.peers => {
                self.places.push(Place::default());
                (self.places.len() - 1) as u32
            }
            None => {
                self.counters.refused += 1;
                return None;
            }
        };
        let added = self.epoll.add(&peer.control, CONTROL | u64::from(slot)).is_ok()
            && peer.process.as_ref().is_none_or(|it| self.epoll.add(it, PROCESS | u64::from(slot)).is_ok());
        if !added {
            self.forget(&peer);
            self.vacant.push(slot);
            return None;
        }
        peer.sleep(self.armed);
        self.counters.paths_opened += 1;
        let place = &mut self.places[slot as usize];
        place.peer = Some(peer);
        Some(ShmPath { slot, generation: place.generation })
    }

    /// Takes a peer's descriptors out of the epoll set.
    fn forget(&self, peer: &Peer) {
        self.epoll.delete(&peer.control);
        if let Some(process) = &peer.process {
            self.epoll.delete(process);
        }
    }

    /// Ends a path.
    #[cold]
    fn end(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        let Some(peer) = place.peer.take() else { return };
        self.ended.push_back(ShmPath { slot, generation: place.generation });
        place.generation = place.generation.wrapping_add(1);
        self.vacant.push(slot);
        self.counters.paths_ended += 1;
        self.forget(&peer);
    }

    #[cold]
    fn violated(&mut self, slot: u32, _violation: Violation) {
        self.counters.violations += 1;
        self.end(slot);
    }

    #[inline]
    fn find(&mut self, path: ShmPath) -> Option<&mut Peer> {
        let place = self.places.get_mut(path.slot as usize)?;
        if place.generation == path.generation { place.peer.as_mut() } else { None }
    }

    /// Looks at the sockets.
    #[cold]
    fn look(&mut self, now: Instant) {
        self.polls = if self.strangers.is_empty() { POLLS } else { BUSY_POLLS };
        self.look_at = now + PERIOD;
        if !self.listening && now >= self.accept_at {
            self.listening = self.epoll.add(&self.listener, LISTENER).is_ok();
        }
        for number in self.epoll.ready() {
            let low = number as u32;
            match number & !0xFFFF_FFFF {
                LISTENER => self.accept(now),
                STRANGER => self.meet(low),
                CONTROL => {
                    let joined = self.barriers;
                    if let Some(peer) = self.places.get_mut(low as usize).and_then(|it| it.peer.as_mut()) {
                        peer.hear(joined);
                    }
                }
                PROCESS => {
                    if let Some(peer) = self.places.get_mut(low as usize).and_then(|it| it.peer.as_mut()) {
                        peer.dead = true;
                    }
                }
                _ => {}
            }
        }
        self.strangers.retain(|stranger| now < stranger.until);
    }

    fn accept(&mut self, now: Instant) {
        while self.strangers.len() < MAX_STRANGERS {
            let Ok(socket) = self.listener.accept() else { break };
            let Some(socket) = socket else { return };
            let number = self.stranger;
            self.stranger = number.wrapping_add(1);
            if self.epoll.add(&socket, STRANGER | u64::from(number)).is_ok() {
                self.strangers.push(Stranger { number, socket, until: now + STRANGER_PERIOD });
                // Most have greeted before they are accepted.
                self.meet(number);
            }
        }
        // Too many at once, or no descriptor left: who waits is looked at later.
        self.epoll.delete(&self.listener);
        self.listening = false;
        self.accept_at = now + ACCEPT_PAUSE;
    }

    /// Reads a stranger's greeting, if it is there.
    fn meet(&mut self, number: u32) {
        let Some(at) = self.strangers.iter().position(|stranger| stranger.number == number) else { return };
        let (bytes, len, memory) = match sys::receive(&self.strangers[at].socket) {
            Received::Nothing => return,
            Received::Closed => ([0; GREETING_BYTES], 0, None),
            Received::Message(bytes, len, memory) => (bytes, len, memory),
        };
        let socket = self.strangers.swap_remove(at).socket;
        self.epoll.delete(&socket);
        let greeted = Greeting::decode(&bytes[..len]).and_then(|greeting| {
            let memory = memory.ok_or("a greeting without memory")?;
            let file = Sealed::check(memory, 2 * lane_bytes(greeting.log2))?;
            let lanes = Lane::map_pair(&file, greeting.log2).map_err(|_| "memory that cannot be mapped")?;
            Ok((greeting, lanes))
        });
        let Ok((greeting, [back, forth])) = greeted else {
            self.counters.refused += 1;
            return;
        };
        if !sys::send(&socket, &self.greeting(greeting.log2).encode(), None) {
            return;
        }
        let barriers = greeting.barriers && self.barriers;
        let (tx, rx) = (Sender::new(forth), Receiver::new(back));
        self.admit(Peer::new(greeting.address, socket, tx, rx, barriers));
    }

    fn sleep(&mut self, sleeps: bool) {
        self.armed = sleeps;
        self.places.iter().filter_map(|place| place.peer.as_ref()).for_each(|peer| peer.sleep(sleeps));
    }
}

impl Link for Shm {
    type Path = ShmPath;
    type Packet<'a> = Arrived<'a>;

    const LOSSLESS: bool = true;

    fn mtu(&self) -> usize {
        raw::PAGE
    }

    fn address(&self) -> IpAddr {
        self.config.address
    }

    fn path(&mut self, _now: Instant, to: IpAddr) -> Result<ShmPath, Fault> {
        let known = (0_u32..).zip(&self.places).find_map(|(slot, place)| {
            let peer = place.peer.as_ref()?;
            (peer.address == to && !peer.dead).then_some(ShmPath { slot, generation: place.generation })
        });
        known.or_else(|| self.connect(to)).ok_or(Fault::Unreachable)
    }

    fn peer(&self, path: ShmPath) -> Option<IpAddr> {
        let place = self.places.get(path.slot as usize)?;
        let peer = place.peer.as_ref().filter(|_| place.generation == path.generation)?;
        Some(peer.address)
    }

    #[inline]
    fn send(&mut self, path: ShmPath, headers: &[u8], payload: &[&[u8]]) -> Result<(), Full> {
        let Some(peer) = self.find(path) else { return Ok(()) };
        match peer.tx.send(headers, payload) {
            Ok(true) => {
                if !peer.touched {
                    peer.touched = true;
                    self.touched.push(path.slot);
                }
                Ok(())
            }
            Ok(false) => {
                peer.full = true;
                self.counters.full += 1;
                Err(Full)
            }
            Err(violation) => {
                self.violated(path.slot, violation);
                Ok(())
            }
        }
    }

    #[inline]
    fn flush(&mut self) {
        while let Some(slot) = self.touched.pop() {
            if let Some(peer) = &mut self.places[slot as usize].peer {
                self.counters.wakes += u64::from(peer.wake());
            }
        }
    }

    #[inline]
    fn receive(&mut self, now: Instant, most: usize, mut each: impl FnMut(ShmPath, &Arrived<'_>)) -> usize {
        if self.armed {
            self.sleep(false);
            // What has woken us may lie in a socket.
            self.look_at = now;
        }
        let (mut count, paths) = (0, self.places.len());
        for turn in 0..paths {
            let slot = if self.first + turn < paths { self.first + turn } else { self.first + turn - paths };
            let place = &mut self.places[slot];
            let Some(peer) = &mut place.peer else { continue };
            let path = ShmPath { slot: slot as u32, generation: place.generation };
            match peer.rx.receive(most - count, |packet| each(path, packet)) {
                Ok(0) if peer.dead => self.end(path.slot),
                Ok(0) => {}
                Ok(received) => {
                    count += received;
                    if !peer.touched {
                        peer.touched = true;
                        self.touched.push(path.slot);
                    }
                    if count >= most {
                        self.first = (slot + 1) % paths;
                        break;
                    }
                }
                Err(violation) => self.violated(path.slot, violation),
            }
        }
        // Also when there is always something: others want to be heard, too.
        if now >= self.look_at || (count == 0 && self.polls == 0) {
            self.look(now);
        } else if count == 0 {
            self.polls -= 1;
        }
        count
    }

    fn ended(&mut self) -> Option<ShmPath> {
        self.ended.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let accept = (!self.listening).then_some(self.accept_at);
        self.strangers.iter().map(|stranger| stranger.until).chain(accept).min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn arm(&mut self, now: Instant) -> bool {
        self.flush();
        self.look(now);
        self.sleep(true);
        if self.barriers {
            sys::barrier();
        } else {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
        let mut work = !self.ended.is_empty();
        for slot in 0..self.places.len() {
            let Some(peer) = &mut self.places[slot].peer else { continue };
            match peer.has_work() {
                Ok(there_is) => work |= there_is || peer.dead,
                Err(violation) => {
                    self.violated(slot as u32, violation);
                    work = true;
                }
            }
        }
        if work {
            self.sleep(false);
        }
        !work
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let Counters { paths_opened, paths_ended, refused, violations, wakes, full } = self.counters;
        visit("shm_paths_opened", paths_opened);
        visit("shm_paths_ended", paths_ended);
        visit("shm_refused", refused);
        visit("shm_violations", violations);
        visit("shm_wakes", wakes);
        visit("shm_full", full);
    }
}
