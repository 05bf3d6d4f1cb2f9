//! What the shim knows of a process: the instance, the sockets and epoll sets that it has taken on, and who sleeps.
//!
//! Everything here lies behind one lock, and nothing of the instance's memory leaves it: data is copied in and out
//! while it is held. Nobody sleeps holding it. Results are taken from the instance by [`State::pump`] alone, which
//! carries each to its socket and tells whoever waits for it.

mod adopt;
mod datagram;
mod epoll;
mod listener;
mod pump;
mod ready;
mod socket;
mod stream;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::instance::Demikernel;
use demi_api::libos::{LibOs, SocketOption};
use demi_api::memalloc::Pool;
use demi_api::op::Completion;
use demi_api::slab::{Key, Slab};
use rustix::io::Errno;

use crate::carrier::Carrier;
use crate::config::PreloadSection;
use crate::errno::errno;
use crate::sys;
use crate::table::TABLE;

pub(crate) use self::epoll::{Epoll, Interest};
pub(crate) use self::pump::{Routes, What};
pub(crate) use self::ready::Sleeper;
pub(crate) use self::socket::{Role, Socket};
pub(crate) use self::stream::Receive;

/// As many as a superblock of the heap has room for.
const SCANT_PUSHES: usize = (256 << 10) / stream::SCANT;

/// Bytes that a connection may have in any case.
const LEAST_SHARE: usize = 4096;

/// What a descriptor of the program's can name.
pub(crate) enum Object {
    Socket(Box<Socket>),
    Epoll(Box<Epoll>),
}

/// All there is, behind the lock.
pub(crate) struct State<C: Carrier> {
    demi: Option<Demikernel<C::LibOs>>,
    /// Why there is no instance, once one could not be made.
    unmade: Option<Errno>,
    /// Connections for which there was no memory to receive into, and when that is tried again.
    starved: Vec<Key>,
    feed_at: Option<Instant>,
    /// Memory for the least that a connection can do, when there is no other.
    scant: Option<Pool>,
    /// The instance's own descriptors.
    kept: Vec<i32>,
    settings: Option<Settings>,
    objects: Slab<Object>,
    /// Connections that have a queue, and what all of them have of the heap: written and not delivered, received and not
    /// read.
    streams: usize,
    unsent: usize,
    held: usize,
    routes: Routes,
    /// Turns of the instance that found nothing done before them, and when the last was.
    turns: u64,
    turned: Option<Instant>,
    results: Vec<Completion>,
    /// Whose each of them is.
    whose: Vec<Option<(Key, What)>>,
    sleepers: Slab<Sleeper>,
    /// Threads that sleep on the instance's descriptor.
    asleep: usize,
    /// When the first of them wakes by itself.
    awake_at: Option<Instant>,
    /// The instance was used since it was last prepared for sleep.
    disturbed: bool,
}

/// What the configuration says.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) section: PreloadSection,
}

impl<C: Carrier> State<C> {
    pub(crate) const fn new() -> State<C> {
        State {
            demi: None,
            unmade: None,
            starved: Vec::new(),
            feed_at: None,
            scant: None,
            kept: Vec::new(),
            settings: None,
            objects: Slab::new(),
            streams: 0,
            unsent: 0,
            held: 0,
            routes: Routes::new(),
            turns: 0,
            turned: None,
            results: Vec::new(),
            whose: Vec::new(),
            sleepers: Slab::new(),
            asleep: 0,
            awake_at: None,
            disturbed: false,
        }
    }

    /// The configuration, read at its first use. One that cannot be read claims nothing.
    pub(crate) fn settings(&mut self) -> Result<&Settings, Errno> {
        if let Some(unmade) = self.unmade {
            return Err(unmade);
        }
        if self.settings.is_none() {
            let read = Config::from_env().and_then(|config| {
                let section = PreloadSection::load(&config)?;
                Ok(Settings { config, section })
            });
            self.settings = match read {
                Ok(settings) => Some(settings),
                Err(error) => return Err(self.give_up(&error)),
            };
        }
        self.settings.as_ref().ok_or(Errno::NODEV)
    }

    pub(crate) fn section(&self) -> PreloadSection {
        self.settings.as_ref().map(|settings| settings.section.clone()).unwrap_or_default()
    }

    /// Bytes that a program may be ahead of the libOS with a socket, which has `own` of them now.
    fn send_bytes(&self, own: usize) -> usize {
        let Some(settings) = &self.settings else { return 0 };
        settings.section.send_bytes.min(self.portion(settings, 2, self.unsent - own))
    }

    /// Bytes that are received ahead of the program, of which `own` are here now.
    fn recv_bytes(&self, own: usize) -> usize {
        let Some(settings) = &self.settings else { return 0 };
        settings.section.recv_bytes.min(self.portion(settings, 4, self.held - own))
    }

    /// What a connection may have of one part in `parts` of the heap, of which others have so much: no more than all
    /// together may have, and the least when memory is short. Devices need the rest, to receive what sets free the most.
    fn portion(&self, settings: &Settings, parts: usize, others: usize) -> usize {
        if self.demi.as_ref().is_some_and(|demi| demi.heap().is_short()) {
            return LEAST_SHARE;
        }
        let part = (settings.config.heap.size_mib << 20) / parts;
        (part / self.streams.max(1)).min(part.saturating_sub(others)).max(LEAST_SHARE)
    }

    /// The instance, made at its first use.
    pub(crate) fn demi(&mut self) -> Result<Demikernel<C::LibOs>, Errno> {
        if let Some(demi) = &self.demi {
            return Ok(demi.clone());
        }
        let config = self.settings()?.config.clone();
        let (made, descriptors) = sys::above_the_crowd(|| Demikernel::new(&config));
        self.kept = descriptors;
        match made {
            Ok(demi) => {
                // Where there is no room for that, there is hardly any for anything.
                self.scant = demi.heap().pool(stream::SCANT, SCANT_PUSHES).ok();
                Ok(self.demi.insert(demi).clone())
            }
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Descriptors that the program does not know of, and does not mean when it closes all, in order.
    pub(crate) fn kept(&mut self) -> Vec<i32> {
        let mut kept = self.kept.clone();
        kept.extend(self.objects.entries_mut().filter_map(|(_, object)| match object {
            Object::Socket(socket) => socket.carried(),
            Object::Epoll(_) => None,
        }));
        kept.extend(crate::local::wakers());
        kept.sort_unstable();
        kept
    }

    /// Whether a queue for the socket takes an instance that is still to be made.
    pub(crate) fn is_unmade(&self, key: Key) -> bool {
        let is_plain = matches!(self.objects.get(key), Some(Object::Socket(socket)) if matches!(socket.role, Role::Plain { .. }));
        is_plain && self.demi.is_none()
    }

    pub(crate) fn has_instance(&self) -> bool {
        self.demi.is_some()
    }

    #[cold]
    fn give_up(&mut self, error: &demi_api::error::Error) -> Errno {
        sys::say(&format!("demi-preload: {error}; sockets stay with the kernel, or fail\n"));
        *self.unmade.insert(errno(error))
    }

    pub(crate) fn insert(&mut self, object: Object) -> Key {
        self.objects.insert(object)
    }

    pub(crate) fn socket(&mut self, key: Key) -> Result<&mut Socket, Errno> {
        match self.objects.get_mut(key) {
            Some(Object::Socket(socket)) => Ok(socket),
            Some(Object::Epoll(_)) => Err(Errno::NOTSOCK),
            None => Err(Errno::BADF),
        }
    }

    pub(crate) fn epoll(&mut self, key: Key) -> Result<&mut Epoll, Errno> {
        match self.objects.get_mut(key) {
            Some(Object::Epoll(epoll)) => Ok(epoll),
            Some(Object::Socket(_)) => Err(Errno::INVAL),
            None => Err(Errno::BADF),
        }
    }

    pub(crate) fn is_epoll(&self, key: Key) -> bool {
        matches!(self.objects.get(key), Some(Object::Epoll(_)))
    }

    /// Enters a descriptor that the kernel has just given out. What its number stood for before has gone without our knowledge,
    /// as by the C library's own hand.
    pub(crate) fn enter(&mut self, fd: i32, object: Object) {
        let key = self.objects.insert(object);
        self.enter_key(fd, key);
    }

    /// The same for what is known already.
    pub(crate) fn enter_key(&mut self, fd: i32, key: Key) {
        if let Some(before) = TABLE.clear(fd) {
            self.release(before);
        }
        TABLE.set(fd, key);
    }

    /// One more descriptor for the same object.
    pub(crate) fn share(&mut self, key: Key) {
        match self.objects.get_mut(key) {
            Some(Object::Socket(socket)) => socket.refs += 1,
            Some(Object::Epoll(epoll)) => epoll.refs += 1,
            None => {}
        }
    }

    /// One descriptor less: the last takes the object along.
    pub(crate) fn release(&mut self, key: Key) {
        let refs = match self.objects.get_mut(key) {
            Some(Object::Socket(socket)) => &mut socket.refs,
            Some(Object::Epoll(epoll)) => &mut epoll.refs,
            None => return,
        };
        *refs -= 1;
        if *refs > 0 {
            return;
        }
        match self.objects.remove(key) {
            Some(Object::Socket(socket)) => self.remove_socket(*socket),
            Some(Object::Epoll(epoll)) => self.remove_epoll(key, *epoll),
            None => {}
        }
    }

    fn remove_socket(&mut self, mut socket: Socket) {
        for at in socket.watches.drain(..) {
            self.unwatch(at);
        }
        self.wake_all(&socket.waiters);
        if let Role::Stream(stream) = &socket.role {
            self.streams = self.streams.saturating_sub(1);
            self.unsent -= stream.unsent();
            self.held -= stream.held();
        }
        let Some(demi) = &self.demi else { return };
        self.disturbed = true;
        let queues = socket.queues();
        // Who closes without having read all has not heard the peer out, and the peer is to know: RFC 1122 §4.2.2.13.
        let is_deaf = matches!(&socket.role, Role::Stream(stream) if stream.readable() > 0);
        let linger = if is_deaf { Some(Duration::ZERO) } else { socket.linger };
        if let Some(linger) = linger {
            for qd in queues.iter().flatten() {
                // A listener has no linger time, and needs none.
                let _ = demi.set_option(*qd, SocketOption::Linger(Some(linger)));
            }
        }
        for qd in queues.into_iter().flatten() {
            // It was open: only the socket knew it.
            let _ = demi.close(qd);
        }
        if let Role::Listener(listener) = socket.role {
            for (qd, _) in listener.ready {
                abandon(demi, qd);
            }
        }
        let _ = demi.poll();
    }

    /// Has the instance prepared for a sleep: the descriptor to sleep on, and until when. `None`: there is work.
    pub(crate) fn prepare_sleep(&mut self) -> Option<(i32, Option<Instant>)> {
        self.feed();
        let demi = self.demi.clone()?;
        match demi.prepare_sleep() {
            Ok(Some(limit)) => {
                let until = Instant::now().checked_add(limit);
                Some((demi.wait_fd().as_raw_fd(), until.into_iter().chain(self.feed_at).min()))
            }
            Ok(None) => {
                self.pump();
                None
            }
            Err(_) => None,
        }
    }

    pub(crate) fn spin_bounds(&self) -> (Duration, Duration) {
        let wait = self.settings.as_ref().map(|settings| &settings.config.wait);
        wait.map_or((Duration::ZERO, Duration::ZERO), |wait| {
            (Duration::from_micros(wait.spin_min_us), Duration::from_micros(wait.spin_max_us))
        })
    }

    /// Closes every queue: the process ends.
    pub(crate) fn close_all(&mut self) {
        let Some(demi) = self.demi.clone() else { return };
        for (_, object) in self.objects.entries_mut() {
            if let Object::Socket(socket) = object {
                let queues = socket.queues();
                socket.role = Role::Lost;
                for qd in queues.into_iter().flatten() {
                    let _ = demi.close(qd);
                }
            }
        }
    }

    /// Whether something that was written is still on its way.
    pub(crate) fn is_delivering(&self) -> bool {
        self.demi
            .as_ref()
            .and_then(|demi| demi.counters().ok())
            .is_some_and(|counters| counters.operations_pending > 0)
    }

    /// Before the lock is given back: if others sleep, whatever has happened must be able to wake them.
    pub(crate) fn leave(&mut self) {
        if !std::mem::take(&mut self.disturbed) || self.asleep == 0 {
            return;
        }
        for _ in 0..4 {
            let Some(demi) = &self.demi else { return };
            match demi.prepare_sleep() {
                Ok(Some(limit)) => {
                    let sooner = Instant::now()
                        .checked_add(limit)
                        .is_some_and(|at| self.awake_at.is_none_or(|awake_at| at < awake_at));
                    if sooner {
                        self.wake_one();
                    }
                    return;
                }
                Ok(None) => {
                    self.pump();
                }
                Err(_) => break,
            }
        }
        // There is always more to do: let somebody who sleeps see to it.
        self.wake_one();
    }

    /// What the child of a fork has: the kernel's sockets, and no instance. That of the parent is left alone: its
    /// memory is a copy, its devices are not.
    pub(crate) fn forget_instance(&mut self) {
        std::mem::forget(self.demi.take());
        std::mem::forget(self.scant.take());
        self.starved.clear();
        self.feed_at = None;
        self.routes = Routes::new();
        for result in self.results.drain(..) {
            std::mem::forget(result);
        }
        self.sleepers = Slab::new();
        self.kept.clear();
        self.asleep = 0;
        self.awake_at = None;
        self.disturbed = false;
        self.unmade = None;
        (self.streams, self.unsent, self.held) = (0, 0, 0);
        self.orphan_sockets();
    }
}

/// Resets a connection that nobody has accepted.
fn abandon<L: LibOs>(demi: &Demikernel<L>, qd: QDesc) {
    let _ = demi.set_option(qd, SocketOption::Linger(Some(Duration::ZERO)));
    let _ = demi.close(qd);
}
