//! The control channel over time: listen or connect, shake hands, notice the end, begin again.
//!
//! Invariants: there is a link only while its control channel is open. A look at the control channel does a bounded
//! number of system calls and never blocks. A connection that comes while there is one already is refused; a handshake
//! that takes too long ends, so nobody holds the device by doing nothing.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::time::Instant;

use super::config::{MemifConfig, Role};
use super::control::{End, Handshake, Next, hello};
use super::counters::Counters;
use super::link::Link;
use super::protocol::{Message, padded, text};
use super::ring::Violation;
use super::sys::{self, Epoll, Listener, Received, Source};

/// Messages taken, and connections accepted, at one look.
const MESSAGES_PER_LOOK: usize = 16;
const ACCEPTS_PER_LOOK: usize = 4;

/// How long a handshake may take. Two processes that poll need microseconds.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// Pauses between attempts to connect: the first, and the longest; each is twice the one before it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// Pause after the system had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything but frames.
#[derive(Debug)]
pub(super) struct Connection {
    config: MemifConfig,
    epoll: Epoll,
    /// A server's.
    listener: Option<Listener>,
    channel: Option<Channel>,
    pub(super) link: Option<Box<Link>>,
    /// When a client connects again, or a server listens again.
    retry_at: Option<Instant>,
    pause: Duration,
    last_end: Option<String>,
}

#[derive(Debug)]
struct Channel {
    socket: Fd,
    /// Until the link is up.
    handshake: Option<Handshake>,
    deadline: Instant,
}

impl Connection {
    /// Listens, or is ready to connect.
    pub(super) fn open(config: MemifConfig) -> Result<Connection, Error> {
        let epoll = Epoll::new().map_err(sys::translate)?;
        let listener = match config.role {
            Role::Server => Some(Listener::bind(&config.socket)?),
            Role::Client => None,
        };
        if let Some(listener) = &listener {
            epoll.add(listener, Source::Listener).map_err(sys::translate)?;
        }
        let retry_at = listener.is_none().then(Instant::default);
        Ok(Connection {
            config,
            epoll,
            listener,
            channel: None,
            link: None,
            retry_at,
            pause: FIRST_PAUSE,
            last_end: None,
        })
    }

    pub(super) fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Why the last control channel ended.
    pub(super) fn last_end(&self) -> Option<&str> {
        self.last_end.as_deref()
    }

    /// When a look is due although nothing is signalled.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let handshake = self.channel.as_ref().filter(|channel| channel.handshake.is_some());
        handshake.map(|channel| channel.deadline).into_iter().chain(self.retry_at).min()
    }

    /// One bounded look at everything that is not a frame.
    pub(super) fn look(&mut self, now: Instant, counters: &mut Counters) {
        counters.looks += 1;
        let ready = self.epoll.ready();
        // The channel first: one that has ended makes room for the next connection.
        if ready.contains(&Source::Control) {
            self.converse(now, counters);
        }
        if ready.contains(&Source::Interrupt)
            && let Some(link) = &self.link
            && !link.rx_interrupt.drain()
        {
            self.violated(now, Violation("Interrupt fd is not an eventfd"), counters);
        }
        if ready.contains(&Source::Listener) {
            self.accept(now, counters);
        }
        let late = |channel: &Channel| channel.handshake.is_some() && now >= channel.deadline;
        if self.channel.as_ref().is_some_and(late) {
            self.end(now, End::Refused("Handshake timed out"), counters);
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry(now);
        }
    }

    /// A peer has broken the protocol in the rings: the link ends.
    #[cold]
    pub(super) fn violated(&mut self, now: Instant, Violation(what): Violation, counters: &mut Counters) {
        counters.violations += 1;
        self.end(now, End::Refused(what), counters);
    }

    fn retry(&mut self, now: Instant) {
        match &self.listener {
            Some(listener) => {
                let listens = self.epoll.add(listener, Source::Listener).is_ok();
                self.retry_at = (!listens).then(|| now + ACCEPT_PAUSE);
            }
            None => match sys::connect(&self.config.socket) {
                Some(socket) => {
                    self.retry_at = None;
                    self.begin(now, socket, Handshake::Hello);
                }
                None => self.retry_later(now),
            },
        }
    }

    fn retry_later(&mut self, now: Instant) {
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn begin(&mut self, now: Instant, socket: Fd, handshake: Handshake) {
        if self.epoll.add(&socket, Source::Control).is_err() {
            // No memory for it now. A client tries again, as the peer of a server does.
            if self.config.role == Role::Client {
                self.retry_later(now);
            }
            return;
        }
        self.channel = Some(Channel { socket, handshake: Some(handshake), deadline: now + HANDSHAKE_LIMIT });
    }

    fn accept(&mut self, now: Instant, counters: &mut Counters) {
        for _ in 0..ACCEPTS_PER_LOOK {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(Some(socket)) if self.channel.is_some() => {
                    counters.refusals += 1;
                    sys::send(&socket, &disconnect("Already connected"), None);
                }
                Ok(Some(socket)) => {
                    if sys::send(&socket, &hello(), None) {
                        self.begin(now, socket, Handshake::Init);
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    // It stays readable: not to be woken by it again and again, look away for a while.
                    self.epoll.delete(listener);
                    self.retry_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn converse(&mut self, now: Instant, counters: &mut Counters) {
        for _ in 0..MESSAGES_PER_LOOK {
            let Some(channel) = &mut self.channel else { return };
            let outcome = match sys::receive(&channel.socket) {
                Received::Nothing => return,
                Received::Closed => Err(End::Closed),
                Received::Malformed(what) => Err(End::Refused(what)),
                Received::Message(message, attached) => match &mut channel.handshake {
                    Some(handshake) => handshake.take(&self.config, message, attached),
                    None => Err(match message {
                        Message::Disconnect { reason, .. } => End::Told(text(&reason)),
                        _ => End::Refused("Unexpected message"),
                    }),
                },
            };
            let outcome = match outcome {
                Ok(Next::Reply(reply)) => {
                    let attachment = channel.handshake.as_ref().and_then(Handshake::attachment);
                    if sys::send(&channel.socket, &reply, attachment) { Ok(()) } else { Err(End::Closed) }
                }
                Ok(Next::Up(link, confirmation)) => {
                    let told = confirmation.is_none_or(|said| sys::send(&channel.socket, &said, None));
                    let waits = told && self.epoll.add(&link.rx_interrupt, Source::Interrupt).is_ok();
                    if waits {
                        channel.handshake = None;
                        self.link = Some(link);
                        self.pause = FIRST_PAUSE;
                        counters.links += 1;
                        Ok(())
                    } else {
                        Err(End::Closed)
                    }
                }
                Err(end) => Err(end),
            };
            if let Err(end) = outcome {
                return self.end(now, end, counters);
            }
        }
    }

    /// Lets go of the channel and the link.
    fn end(&mut self, now: Instant, end: End, counters: &mut Counters) {
        let Some(channel) = self.channel.take() else { return };
        if let End::Refused(what) = end {
            counters.refusals += 1;
            sys::send(&channel.socket, &disconnect(what), None);
        }
        self.epoll.delete(&channel.socket);
        if let Some(link) = self.link.take() {
            self.epoll.delete(&link.rx_interrupt);
        }
        self.last_end = Some(match end {
            End::Closed => String::from("closed by the peer"),
            End::Told(reason) => format!("disconnected by the peer: {reason}"),
            End::Refused(what) => String::from(what),
        });
        if self.config.role == Role::Client {
            self.retry_later(now);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            sys::send(&channel.socket, &disconnect("Device closed"), None);
        }
    }
}

fn disconnect(reason: &str) -> Message {
    Message::Disconnect { code: 0, reason: padded(reason) }
}
