//! memif: a NIC made of memory that two processes share, by the memif protocol, version 2.
//!
//! The peer is another [`Memif`], DPDK's `net_memif`, VPP, or whatever else speaks the protocol: one [`Role::Server`],
//! one [`Role::Client`], agreed over a UNIX socket. The client makes a region of memory with a ring and buffers for
//! each direction; a frame is copied into a buffer, and out of it on the other side. No system call is made per burst
//! while both sides poll; one that sleeps asks for an interrupt by a flag in its ring.
//!
//! Invariant: the peer is not trusted. It can write to the shared memory at any time, so everything in it is copied first
//! and checked then; whatever it does, it costs no more than its own link, bounded time and bounded memory. A link that
//! ends takes the frames in it along: then nothing is received, what is sent is dropped and counted, and the device
//! connects or accepts again by itself.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | what a device is made from |
//! | `protocol` | the messages on the socket |
//! | `control` | the handshake, both roles |
//! | `connection` | the control channel over time: listen, connect, end, again |
//! | `link` | what the handshake yields: rings and interrupts |
//! | `ring` | filling and emptying |
//! | `region` | files that can be mapped without fear |
//! | `raw` | access to memory that the peer may write |
//! | `sys` | system calls |
//! | `counters` | the account |
//!
//! What is not in here: more than one ring in each direction, and the zero-copy mode of other implementations, which
//! would let the peer write to the instance's heap.

mod config;
mod connection;
mod control;
mod counters;
mod early;
mod link;
mod protocol;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
mod region;
mod ring;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::sga::MAX_SEGMENTS;
use demi_api::time::Instant;

pub use self::config::{MemifConfig, Role};
use self::connection::Connection;
use self::counters::Counters;
use self::early::Early;
use self::ring::Violation;
use super::{Caps, DeviceCx, Frame, Queue};

/// Fruitless polls, and time, between two looks at the control socket while there is a link: a system call of 0.2 µs
/// every so often. A peer that died is noticed after that.
const UP_POLLS: u32 = 4096;
const UP_PERIOD: Duration = Duration::from_millis(10);

/// The same without a link.
const DOWN_POLLS: u32 = 64;
const DOWN_PERIOD: Duration = Duration::from_millis(1);

/// When to look for room in a full ring, if nothing else happens: the protocol has no signal for it.
const ROOM_PERIOD: Duration = Duration::from_micros(50);

/// A memif device: one queue.
///
/// ```
/// use demi_libos_catnip::device::Queue;
/// use demi_libos_catnip::device::memif::{Memif, MemifConfig, Role};
///
/// let server = MemifConfig { socket: "@memif-example".into(), role: Role::Server, ..Default::default() };
/// let device = Memif::open(&server)?;
/// assert_eq!(device.caps().mtu, 1500);
/// assert!(!device.is_up(), "until a client comes");
/// # Ok::<(), demi_api::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Memif {
    caps: Caps,
    max_frame: usize,
    connection: Connection,
    counters: Counters,
    /// Fruitless polls until the next look at the control socket.
    polls: u32,
    look_at: Instant,
    /// The last burst found the ring full, at that time.
    full_since: Option<Instant>,
    /// Sent without a link.
    early: Early,
    /// There was a link when the device was last armed.
    was_up: bool,
}

impl Memif {
    /// Opens the device: a server listens from now on, a client connects when it is polled.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a field out of its range, [`Error::AddressInUse`] if another process listens at the
    /// socket or a file that is no socket is in its place, and whatever else the system says to a new socket file.
    pub fn open(config: &MemifConfig) -> Result<Memif, Error> {
        config.check()?;
        let caps = Caps {
            mac: config.mac(),
            mtu: config.mtu,
            max_segs: MAX_SEGMENTS,
            max_seg_len: usize::MAX,
            tx_checksum: false,
            zero_copy: false,
        };
        Ok(Memif {
            caps,
            max_frame: config.max_frame(),
            connection: Connection::open(config.clone())?,
            counters: Counters::default(),
            polls: 0,
            look_at: Instant::default(),
            full_since: None,
            early: Early::default(),
            was_up: false,
        })
    }

    /// Whether there is a peer.
    pub fn is_up(&self) -> bool {
        self.connection.link.is_some()
    }

    /// Why the last connection, or attempt to agree on one, ended; for people to read.
    pub fn last_end(&self) -> Option<&str> {
        self.connection.last_end()
    }

    #[cold]
    fn look(&mut self, cx: &DeviceCx<'_>) {
        let now = cx.now;
        self.connection.look(now, &mut self.counters);
        self.counters.tx_no_link += self.early.expire(now) as u64;
        if self.is_up() && !self.early.is_empty() {
            let mut frames = self.early.take();
            self.tx_burst(cx, &mut frames);
            self.counters.tx_no_link += frames.len() as u64;
        }
        let (polls, period) = if self.is_up() { (UP_POLLS, UP_PERIOD) } else { (DOWN_POLLS, DOWN_PERIOD) };
        self.polls = polls;
        self.look_at = now + period;
    }

    #[cold]
    fn violated(&mut self, cx: &DeviceCx<'_>, violation: Violation) {
        self.connection.violated(cx.now, violation, &mut self.counters);
    }
}

impl Queue for Memif {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let before = inbox.len();
        if let Some(link) = &mut self.connection.link {
            link.mask();
            match link.rx.receive(cx.heap, self.max_frame, inbox, &mut self.counters) {
                // Frames go before the end of the link: what a peer sent before it closed still arrives.
                Ok(0) => {}
                Ok(count) => return count,
                Err(violation) => {
                    self.violated(cx, violation);
                    return inbox.len() - before;
                }
            }
        }
        if self.polls == 0 || cx.now >= self.look_at {
            self.look(cx);
        } else {
            self.polls -= 1;
        }
        0
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        self.full_since = None;
        if outbox.is_empty() {
            return 0;
        }
        let Some(link) = &mut self.connection.link else {
            let count = outbox.len();
            self.counters.tx_no_link += self.early.keep(cx.now, outbox) as u64;
            return count;
        };
        let before = outbox.len();
        match link.tx.send(self.max_frame, outbox, &mut self.counters) {
            Ok(sent) => {
                if sent.wake {
                    self.counters.interrupts_sent += 1;
                    link.tx_interrupt.signal();
                }
                if sent.full {
                    self.counters.tx_full += 1;
                    self.full_since = Some(cx.now);
                }
            }
            Err(violation) => self.violated(cx, violation),
        }
        before - outbox.len()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let room = self.full_since.map(|since| since + ROOM_PERIOD);
        self.connection.next_deadline().into_iter().chain(room).min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.connection.epoll().as_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.look(cx);
        if self.is_up() != self.was_up {
            // Whoever waits for that has something to do now.
            self.was_up = self.is_up();
            return false;
        }
        let Some(link) = &mut self.connection.link else { return true };
        let outcome = link.unmask().and_then(|work| match self.full_since {
            Some(_) => Ok(work || link.tx.has_room()?),
            None => Ok(work),
        });
        match outcome {
            Ok(work) => !work,
            Err(violation) => {
                self.violated(cx, violation);
                false
            }
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
    }
}
