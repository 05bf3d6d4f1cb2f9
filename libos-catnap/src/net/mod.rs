//! All sockets, and the turn that keeps them going.
//!
//! | file | what it holds |
//! |---|---|
//! | `socket` | one socket and what it has become |
//! | `stream` | pushes and pops of a byte stream |
//! | `datagram` | pushes and pops of whole messages |
//! | `ops` | where an operation begins and is recalled |
//! | `connections` | accept and connect |
//! | `control` | bind, listen, options, addresses, shutdown |
//! | `closing` | what is left to do once a descriptor is gone |

mod closing;
mod connections;
mod control;
mod datagram;
mod ops;
mod socket;
mod stream;

use std::time::Duration;

use demi_api::addr::Domain;
use demi_api::desc::QueueTable;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::time::Instant;

use crate::catnap::Queue;
use crate::config::CatnapSection;
use crate::counters::Counters;
use crate::deadlines::Deadlines;
use crate::readiness::Readiness;
use crate::receive::Receiver;
use crate::sys::epoll::Interest;
use demi_api::slab::{Key, Slab};
use socket::{Socket, State};

/// When to try again what the kernel gives no notice of.
const RETRY: Duration = Duration::from_millis(1);

/// Fruitless tries of spinning sockets in one turn, and at least one of each. Whatever else a turn does comes once in so many: on the way there
/// and back a packet would wait.
const TRIES_PER_TURN: usize = 8;

/// Deadlines served in one turn.
const DEADLINES_PER_TURN: usize = 64;

/// What a socket's own code works with.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) receiver: Receiver,
    pub(crate) counters: Counters,
}

/// What came of an operation's first try; `None`: it waits. Smaller than a `Step`, which is made once, last.
pub(crate) type Tried<T> = Option<Result<T, Error>>;

/// What came of one socket's turn.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Turn {
    /// Operations completed.
    done: usize,
    /// The turn ended by its bound, not for want of readiness.
    more: bool,
}

#[derive(Debug)]
pub(crate) struct Net {
    sockets: Slab<Socket>,
    pub(crate) readiness: Readiness,
    deadlines: Deadlines,
    /// Sockets whose time begins to run with the next turn: between turns, `now` may be long past.
    unclocked: Vec<Key>,
    /// Sockets with pushes to be sent together in the next turn.
    unsent: Vec<Key>,
    pub(crate) io: Io,
    max_queues: usize,
    linger: Duration,
    connect_timeout: Option<Duration>,
}

impl Net {
    pub(crate) fn new(section: &CatnapSection, max_queues: usize, linger: Duration) -> Result<Net, Error> {
        Ok(Net {
            sockets: Slab::new(),
            readiness: Readiness::new(section)?,
            deadlines: Deadlines::default(),
            unclocked: Vec::new(),
            unsent: Vec::new(),
            io: Io {
                receiver: Receiver::new(section.recv_bytes, section.copy_threshold),
                counters: Counters::default(),
            },
            max_queues,
            linger,
            connect_timeout: section.connect_timeout(),
        })
    }

    /// One turn: what was left over, what is tried directly, what the kernel reports, what has fallen due.
    #[inline]
    pub(crate) fn poll(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        if !self.unclocked.is_empty() {
            self.start_clocks(cx.now);
        }
        if !self.unsent.is_empty() {
            done += self.send_gathered(queues, cx);
        }
        if self.readiness.again() > 0 {
            done += self.go_on(queues, cx);
        }
        for _ in 0..(TRIES_PER_TURN / self.readiness.spinning().max(1)).max(1) {
            done += self.try_spinners(cx);
            if self.readiness.is_probe_due() {
                let found = self.probe(queues, cx);
                self.readiness.probed(found);
                done += found;
            }
            if done > 0 || self.readiness.spinning() == 0 {
                break;
            }
        }
        if self.deadlines.next().is_some_and(|next| next <= cx.now) {
            done += self.serve_deadlines(queues, cx);
        }
        done
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Registers what is tried directly, and looks once more. False: there is work.
    pub(crate) fn arm(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> bool {
        if !self.unsent.is_empty() {
            return false;
        }
        let mut place = 0;
        while let Some(key) = self.readiness.spinner(place) {
            let Some(socket) = self.sockets.get(key) else {
                self.readiness.forget_spinner(place);
                continue;
            };
            if socket.waits_to_receive() && self.register(key, Interest::Read).is_err() {
                return false;
            }
            place += 1;
        }
        self.probe(queues, cx) == 0 && self.readiness.again() == 0
    }

    /// Sends what was pushed since the last turn and not tried then.
    fn send_gathered(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        while let Some(key) = self.unsent.pop() {
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.unsent = false;
                done += self.run(queues, cx, key, false, true);
            }
        }
        done
    }

    fn go_on(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for _ in 0..self.readiness.again() {
            let Some(key) = self.readiness.take_again() else { break };
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.watch.taken_again();
                done += self.run(queues, cx, key, true, true);
            }
        }
        done
    }

    #[inline]
    fn try_spinners(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        let mut place = 0;
        while let Some(key) = self.readiness.spinner(place) {
            let Some(socket) = self.sockets.get_mut(key) else {
                self.readiness.forget_spinner(place);
                continue;
            };
            let turn = match &mut socket.state {
                State::Stream(stream) => stream.run_pops(&socket.fd, &mut self.io, cx),
                State::Datagram(datagram) => datagram.run_pops(&socket.fd, &mut self.io, cx),
                State::Fresh | State::Listener(_) | State::Connecting(_) => Turn::default(),
            };
            done += turn.done;
            if turn.done > 0 {
                let waits = socket.waits_to_send();
                self.readiness.hit(&socket.fd, &mut socket.watch, waits, &mut self.io.counters);
            } else if self.readiness.miss(&mut socket.watch)
                && self.readiness.spinning() > 1
                && self.demote(key)
            {
                continue;
            }
            place += 1;
        }
        done
    }

    /// Takes a socket out of the spin set, into the kernel's if an operation waits. False: it has to stay.
    #[cold]
    fn demote(&mut self, key: Key) -> bool {
        let Some(socket) = self.sockets.get(key) else { return false };
        if socket.waits_to_receive() && self.register(key, Interest::Read).is_err() {
            return false;
        }
        if let Some(socket) = self.sockets.get_mut(key) {
            self.readiness.leave(&mut socket.watch, key);
        }
        true
    }

    fn probe(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for place in 0..self.readiness.probe(&mut self.io.counters) {
            let ready = self.readiness.event(place);
            done += self.run(queues, cx, ready.key, ready.read, ready.write);
        }
        done
    }

    /// Lets one socket do what it can.
    fn run(
        &mut self,
        queues: &mut QueueTable<Queue>,
        cx: &mut Cx<'_>,
        key: Key,
        read: bool,
        write: bool,
    ) -> usize {
        let Some(socket) = self.sockets.get_mut(key) else { return 0 };
        let mut turns = [Turn::default(); 2];
        match &mut socket.state {
            State::Fresh => {}
            State::Listener(_) => return self.run_accepts(queues, cx, key),
            State::Connecting(_) => return self.run_connect(cx, key),
            State::Stream(stream) => {
                if read {
                    turns[0] = stream.run_pops(&socket.fd, &mut self.io, cx);
                }
                if write {
                    turns[1] = stream.run_pushes(&socket.fd, &mut self.io, cx);
                }
            }
            State::Datagram(datagram) => {
                if read {
                    turns[0] = datagram.run_pops(&socket.fd, &mut self.io, cx);
                }
                if write {
                    turns[1] = datagram.run_pushes(&socket.fd, &mut self.io, cx);
                }
            }
        }
        if turns[0].more || turns[1].more {
            self.readiness.put_again(&mut socket.watch, key);
        }
        if write {
            self.sent(cx, key);
        }
        turns[0].done + turns[1].done
    }

    /// After a chance to send: what is left decides what to wait for.
    fn sent(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.has_pushes() {
            let announced = socket.watch.announces_room();
            self.plan_look(key, cx.now);
            if !announced {
                self.await_room(key);
            }
        } else if socket.closing {
            self.remove(key);
        } else if matches!(socket.state, State::Datagram(_)) || socket.domain == Domain::Unix {
            // TCP reports room only after a lack of it; these report every packet that leaves the queue.
            self.readiness.narrow(&socket.fd, &mut socket.watch, key, &mut self.io.counters);
        }
    }

    fn serve_deadlines(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for _ in 0..DEADLINES_PER_TURN {
            let Some((at, key)) = self.deadlines.take_due(cx.now) else { break };
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            if socket.deadline != Some(at) {
                continue;
            }
            socket.deadline = None;
            let expired = socket.expires.is_some_and(|expires| expires <= cx.now);
            done += match &socket.state {
                State::Connecting(_) if expired => self.connect_expired(cx, key),
                _ if expired => self.linger_expired(cx, key),
                _ => self.run(queues, cx, key, false, true),
            };
        }
        done
    }

    fn start_clocks(&mut self, now: Instant) {
        while let Some(key) = self.unclocked.pop() {
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            let limit = match &socket.state {
                State::Connecting(_) => self.connect_timeout,
                _ if socket.closing => Some(socket.linger.unwrap_or(self.linger)),
                _ => None,
            };
            socket.expires = limit.map(|limit| now + limit);
            self.plan_look(key, now);
        }
    }

    /// Sets the time of the next look, if there is anything to look for that no event brings.
    fn plan_look(&mut self, key: Key, now: Instant) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let retry = socket.must_retry().then(|| now + RETRY);
        let next = [retry, socket.expires].into_iter().flatten().min();
        if std::mem::replace(&mut socket.deadline, next) != next
            && let Some(at) = next
        {
            self.deadlines.set(at, key);
        }
    }

    fn register(&mut self, key: Key, interest: Interest) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        self.readiness.register(&socket.fd, &mut socket.watch, key, interest, &mut self.io.counters)
    }
}
