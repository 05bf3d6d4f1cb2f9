//! A libOS inside one instance: sockets that reach each other, and logs that live as long as it does.
//!
//! Stream sockets have a listener's backlog, a bounded send buffer, both half-closes, linger and reset; datagram
//! sockets a bounded receive queue that drops when it is full; logs positions, cursors and truncation. Sockets
//! hand over the very buffers that were pushed; a log keeps its elements outside the heap, as a disk would.
//!
//! Invariants: a queue is looked at only when something happened to it, so queues with nothing but an outstanding
//! pop cost a turn nothing, however many there are (`queues_visited` counts the looks). Everything that happens,
//! happens in a visit, whatever the flavour: flavours differ in when it is called, in nothing else.
//!
//! | file | what it holds |
//! |---|---|
//! | `turn` | visits: doing what there is to do for a queue |
//! | `agenda` | what is to be looked at, and when |
//! | `pipe` | one direction of a connection |
//! | `stream` | connect, accept, close of stream sockets |
//! | `datagram` | datagram sockets |
//! | `log` | logs |
//! | `names` | who is bound where |
//! | `options` | socket options: kept, and mostly without effect |

mod agenda;
mod datagram;
mod log;
mod names;
mod options;
mod pipe;
mod stream;
mod turn;

use std::collections::{BTreeSet, VecDeque};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use demi_api::desc::QueueTable;
use demi_api::libos::{Cx, Setup};
use demi_api::op::{Op, Step};
use demi_api::time::Instant;
use demi_api::{
    Addr, Domain, Error, LibOs, OpenOptions, OptionName, Position, QDesc, QToken, QueueKind, SeekTo,
    Shutdown, SocketKind, SocketOption,
};

use self::agenda::{Agenda, Work};
use self::datagram::Datagram;
use self::log::{Handle, Logs};
use self::names::Names;
use self::options::Options;
use self::pipe::{PipeId, Pipes};
use self::stream::{Connecting, Ends, Listener};
use self::turn::Turn;

/// Queues looked at in one turn at the most.
const VISITS_PER_TURN: usize = 64;

/// The in-process libOS. `TURNS` is how long an effect may take, in turns of the wait loop:
///
/// - 0: everything that can be done is done when the call returns;
/// - 1: everything happens in the next turn, so nothing completes on the spot;
/// - more: each effect takes a random time of 1 to `TURNS` turns, from the instance's generator, and streams are
///   cut at random places.
#[derive(Debug)]
pub struct Loopback<const TURNS: u64 = 1> {
    queues: QueueTable<Queue>,
    pipes: Pipes,
    names: Names,
    logs: Logs,
    agenda: Agenda,
    /// Directions whose sender is closed, by when they are given up.
    lingering: BTreeSet<(Instant, PipeId)>,
    linger: Duration,
    visits: u64,
    datagrams_dropped: u64,
    /// Never readable: nothing happens in here while the instance sleeps.
    silent: PipeReader,
    _silence: PipeWriter,
}

#[derive(Debug)]
struct Queue {
    domain: Domain,
    bound: Option<Addr>,
    options: Options,
    /// It is on the agenda.
    scheduled: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Fresh,
    Listener(Listener),
    Connecting(Connecting),
    Stream(Ends),
    Datagram(Datagram),
    Log(Handle),
}

impl<const TURNS: u64> LibOs for Loopback<TURNS> {
    const NAME: &'static str = "loopback";

    fn create(setup: Setup<'_>) -> Result<Self, Error> {
        let (silent, silence) = std::io::pipe().map_err(|_| Error::TooManyFiles)?;
        Ok(Loopback {
            queues: QueueTable::new(setup.tag, setup.config.queues.max),
            pipes: Pipes::default(),
            names: Names::default(),
            logs: Logs::default(),
            agenda: Agenda::default(),
            lingering: BTreeSet::new(),
            linger: Duration::from_millis(setup.config.queues.linger_ms),
            visits: 0,
            datagrams_dropped: 0,
            silent,
            _silence: silence,
        })
    }

    fn socket(&mut self, _: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        let state = match kind {
            SocketKind::Stream => State::Fresh,
            SocketKind::Datagram => State::Datagram(Datagram::default()),
        };
        self.queues.insert(Queue::new(domain, state))
    }

    fn bind(&mut self, _: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        let queue = self.queues.get_mut(qd)?;
        let kind = match &queue.state {
            State::Fresh if queue.bound.is_none() => SocketKind::Stream,
            State::Datagram(_) if queue.bound.is_none() => SocketKind::Datagram,
            State::Log(_) => return Err(Error::NotSupported("a socket call on a log")),
            _ => return Err(Error::AlreadyConnected),
        };
        queue.bound = Some(self.names.bind(kind, queue.domain, addr, qd)?);
        Ok(())
    }

    fn listen(&mut self, _: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        let queue = self.queues.get_mut(qd)?;
        match queue.state {
            State::Fresh if queue.bound.is_some() => queue.state = State::Listener(Listener::new(backlog)),
            State::Fresh => return Err(Error::Invalid("bind before listen")),
            State::Datagram(_) | State::Log(_) => return Err(Error::NotSupported("listen on this queue")),
            State::Listener(_) | State::Connecting(_) | State::Stream(_) => {
                return Err(Error::AlreadyConnected);
            }
        }
        Ok(())
    }

    fn open(&mut self, _: &mut Cx<'_>, path: &Path, options: &OpenOptions) -> Result<QDesc, Error> {
        if demi_api::libos::names_region(path) {
            return Err(Error::NotSupported("regions of memory"));
        }
        let handle = self.logs.open(path, options)?;
        self.queues.insert(Queue::new(Domain::Unix, State::Log(handle)))
    }

    fn seek(&mut self, _: &mut Cx<'_>, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        match &mut self.queues.get_mut(qd)?.state {
            State::Log(handle) => self.logs.seek(handle, to),
            _ => Err(Error::NotSupported("a log call on a socket")),
        }
    }

    fn truncate(&mut self, _: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        match &self.queues.get(qd)?.state {
            State::Log(handle) => self.logs.truncate(handle, position),
            _ => Err(Error::NotSupported("a log call on a socket")),
        }
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        let State::Stream(ends) = &self.queues.get(qd)?.state else { return Err(Error::NotConnected) };
        let (incoming, outgoing) = (ends.incoming, ends.outgoing);
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            self.pipes.get_mut(outgoing).shut_write();
            self.schedule_pipe(cx, outgoing);
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            self.pipes.get_mut(incoming).shut_read();
            self.schedule_pipe(cx, incoming);
        }
        self.settle(cx);
        Ok(())
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        self.close_queue(cx, qd)?;
        self.settle(cx);
        Ok(())
    }

    fn set_option(&mut self, _: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        let queue = self.queues.get_mut(qd)?;
        if let State::Log(_) = queue.state {
            return Err(Error::NotSupported("a socket call on a log"));
        }
        queue.options.set(option);
        if let State::Stream(ends) = &queue.state {
            self.pipes.get_mut(ends.outgoing).set_capacity(queue.options.send_buffer());
        }
        Ok(())
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        self.queues.get(qd)?.options.get(name)
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        let queue = self.queues.get(qd)?;
        match (&queue.state, &queue.bound) {
            (State::Log(_), _) => Err(Error::NotSupported("a socket call on a log")),
            (State::Stream(ends), _) => Ok(ends.local.clone()),
            (_, Some(bound)) => Ok(bound.clone()),
            (_, None) => Ok(names::unbound(queue.domain)),
        }
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        match &self.queues.get(qd)?.state {
            State::Stream(ends) => Ok(ends.peer.clone()),
            State::Datagram(datagram) => datagram.peer.clone().ok_or(Error::NotConnected),
            State::Log(_) => Err(Error::NotSupported("a socket call on a log")),
            State::Fresh | State::Listener(_) | State::Connecting(_) => Err(Error::NotConnected),
        }
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        Ok(match self.queues.get(qd)?.state {
            State::Datagram(_) | State::Log(_) => QueueKind::Message,
            State::Fresh | State::Listener(_) | State::Connecting(_) | State::Stream(_) => QueueKind::Stream,
        })
    }

    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        let queue = self.queues.get_mut(qd)?;
        let work = match (&mut queue.state, op) {
            (_, Op::Pop { limit: 0 }) => return Err(Error::Invalid("a pop of at most no bytes")),
            (State::Stream(ends), Op::Pop { limit }) => {
                self.pipes.get_mut(ends.incoming).add_pop(token, *limit);
                Work::Pipe(ends.incoming)
            }
            (State::Stream(ends), Op::Push { sga, to: None }) => {
                self.pipes.get_mut(ends.outgoing).add_push(token, sga)?;
                Work::Pipe(ends.outgoing)
            }
            (State::Datagram(datagram), op @ (Op::Push { .. } | Op::Pop { .. } | Op::Connect(_))) => {
                datagram.start(queue.domain, token, op)?;
                Work::Queue(qd)
            }
            (State::Log(handle), op) => {
                handle.start(token, op)?;
                Work::Queue(qd)
            }
            (State::Listener(listener), Op::Accept) => {
                listener.accepts.push_back(token);
                Work::Queue(qd)
            }
            (State::Fresh, Op::Connect(peer)) => {
                names::check_family(queue.domain, peer)?;
                queue.state = State::Connecting(Connecting { token, peer: peer.clone() });
                Work::Queue(qd)
            }
            (State::Listener(_) | State::Connecting(_) | State::Stream(_), Op::Connect(_)) => {
                return Err(Error::AlreadyConnected);
            }
            (_, Op::Accept) => return Err(Error::Invalid("accept needs a listening socket")),
            (_, Op::Flush) => return Err(Error::NotSupported("flush of a socket")),
            (_, Op::Atomic { .. }) => return Err(Error::NotSupported("atomic operations on a socket")),
            (_, Op::Push { to: Some(_), .. }) => return Err(Error::Invalid("a stream has one peer")),
            (_, Op::Push { .. } | Op::Pop { .. }) => return Err(Error::NotConnected),
        };
        self.schedule(cx, work);
        if TURNS > 0 {
            return Ok(Step::Pending);
        }
        let mut turn = Turn { cx, caller: Some(token), answer: None };
        self.drain(&mut turn);
        Ok(turn.answer.map_or(Step::Pending, Step::Done))
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        let Ok(queue) = self.queues.get_mut(qd) else { return Err(Error::NotCancellable) };
        let recalled = match &mut queue.state {
            State::Fresh => false,
            State::Listener(listener) => take_token(&mut listener.accepts, token),
            State::Connecting(connecting) if connecting.token == token => {
                queue.state = State::Fresh;
                true
            }
            State::Connecting(_) => false,
            State::Stream(ends) => {
                let (incoming, outgoing) = (ends.incoming, ends.outgoing);
                let popping = self.pipes.get_mut(incoming).cancel_pop(token);
                popping || self.pipes.get_mut(outgoing).cancel_push(token)
            }
            State::Datagram(datagram) => datagram.cancel(token),
            State::Log(handle) => handle.cancel(token),
        };
        if !recalled {
            return Err(Error::NotCancellable);
        }
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let expired = self.expire_lingering(cx);
        self.agenda.next_turn();
        let mut turn = Turn { cx, caller: None, answer: None };
        for visits in 0..VISITS_PER_TURN {
            let Some(work) = self.agenda.take_due() else { return expired + visits };
            self.visit(&mut turn, work);
        }
        expired + VISITS_PER_TURN
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.lingering.first().map(|(at, _)| *at)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.silent.as_fd()
    }

    fn arm(&mut self, _: &mut Cx<'_>) -> bool {
        self.agenda.is_empty()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("queues_open", self.queues.len() as u64);
        visit("queues_visited", self.visits);
        visit("datagrams_dropped", self.datagrams_dropped);
        visit("connections_alive", self.pipes.len() as u64);
    }
}

impl Queue {
    fn new(domain: Domain, state: State) -> Queue {
        Queue { domain, bound: None, options: Options::default(), scheduled: false, state }
    }
}

fn take_token(tokens: &mut VecDeque<QToken>, token: QToken) -> bool {
    let place = tokens.iter().position(|other| *other == token);
    place.is_some_and(|place| tokens.remove(place).is_some())
}
