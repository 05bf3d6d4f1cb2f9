//! Sockets between the instances that share an interface, and who is there.
//!
//! Every instance listens under a name that its interface and its first queue make, and calls the others once, when it
//! starts. The names belong to the network namespace and go with the process that has them, so nothing is left behind;
//! the end of a connection tells of the end of a sibling.
//!
//! Invariants: a sibling is one whose process had this user's rights when it called or began to listen, as the kernel
//! says, and who began with a greeting of this version. There is a bounded number of them, and a look at them takes
//! bounded time and never blocks.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::time::Instant;
use rustix::event::{Timespec, epoll};
use rustix::io::{self, Errno};
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_peercred};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, send, socket_with,
};

use super::message::{self, Message};
use super::sys;

/// Most connections: two for each of the queues that an interface has at the most.
const MOST: usize = 512;
/// Most packets that one look yields.
const READY: usize = 16;
/// Bytes of the largest packet, and more.
const PACKET: usize = 128 << 10;
/// What may be under way to a sibling, in bytes.
const SEND_BUFFER: usize = 1 << 20;
/// Between two attempts to take a name.
const PAUSE: Duration = Duration::from_millis(5);
/// A sibling that has read nothing for so long does not turn, for now.
const DEAF: Duration = Duration::from_millis(5);
/// How long a call may go without a greeting.
const GREETING: Duration = Duration::from_secs(1);
/// What the listening socket is called among events; connections have numbers from 1.
const LISTENER: u64 = 0;

/// Connections to siblings.
#[derive(Debug)]
pub(super) struct Mesh {
    listener: Fd,
    interface: u32,
    own: u16,
    watch: Fd,
    peers: Vec<Peer>,
    /// Somebody has come or gone.
    changed: bool,
    /// Connections with something to be read.
    ready: Vec<u64>,
    next_number: u64,
    /// Where packets are received.
    room: Vec<u8>,
}

#[derive(Debug)]
struct Peer {
    fd: Fd,
    number: u64,
    /// The first of its queues, once it has said so.
    id: Option<u16>,
    /// What it had not read when it was last looked at, and since when it has read nothing. Of one that has not said who it
    /// is: when it called.
    unread: usize,
    since: Instant,
}

impl Mesh {
    /// Takes the first name that is free, as soon as one is, and listens. `queues`: those that stand for the names; which of
    /// them it is comes back.
    pub(super) fn listen(interface: u32, queues: &[u16], wait: Duration) -> Result<(Mesh, usize), Error> {
        let failed = |errno: Errno| Error::Config(format!("cannot listen for other instances: {errno}"));
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map(Fd::from).map_err(failed)?;
        let mut left = wait;
        let (listener, place) = loop {
            match take_name(interface, queues) {
                Ok(taken) => break taken,
                Err(Errno::ADDRINUSE) if !left.is_zero() => {
                    thread::sleep(PAUSE.min(left));
                    left = left.saturating_sub(PAUSE);
                }
                Err(Errno::ADDRINUSE) => {
                    return Err(Error::Config(format!(
                        "AF_XDP: each of the {} parts of the shared interface has its instance (`ss -xlp` shows them as \
                         @demi-xdp-{interface}-*): end one, or raise `share`",
                        queues.len()
                    )));
                }
                Err(errno) => return Err(failed(errno)),
            }
        };
        listen(&listener, MOST as i32).map_err(failed)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&watch, &listener, data, epoll::EventFlags::IN).map_err(failed)?;
        let mesh = Mesh {
            listener,
            interface,
            own: queues[place],
            watch,
            peers: Vec::new(),
            changed: false,
            ready: Vec::with_capacity(READY),
            next_number: LISTENER + 1,
            room: vec![0; PACKET],
        };
        Ok((mesh, place))
    }

    /// Calls whoever listens for any of the queues.
    pub(super) fn call_all(&mut self, queues: u32) -> io::Result<()> {
        for id in 0..queues.min(256) as u16 {
            if id == self.own {
                continue;
            }
            let fd = socket()?;
            let name = name(self.interface, id)?;
            let mut patience = 20;
            let called = loop {
                match connect(&fd, &name) {
                    // It has many calls that it has not answered.
                    Err(Errno::AGAIN) if patience > 0 => {
                        patience -= 1;
                        thread::sleep(PAUSE);
                    }
                    called => break called,
                }
            };
            match called {
                Ok(()) => {}
                // Nobody is there, or nobody who answers, who must not keep anybody from starting.
                Err(Errno::CONNREFUSED | Errno::AGAIN) => continue,
                Err(errno) => return Err(errno),
            }
            if !is_same_user(&fd) {
                continue;
            }
            let mut greeting = Vec::new();
            message::put_hello(&mut greeting, self.own);
            if transmit(&fd, &greeting).is_ok() {
                self.add(fd, Some(id), Instant::default());
            }
        }
        Ok(())
    }

    /// Those who have said who they are. There may be two connections to one.
    pub(super) fn ids(&self) -> impl Iterator<Item = u16> + '_ {
        self.peers.iter().filter_map(|peer| peer.id)
    }

    /// Where the connection to a sibling is: the latest, as an earlier one is as good, or that of a process that has died.
    fn place_of(&self, id: u16) -> Option<usize> {
        self.peers.iter().rposition(|peer| peer.id == Some(id))
    }

    /// Whether a sibling lets what it is told lie, as one does that computes for long, or was stopped.
    pub(super) fn is_deaf(&mut self, id: u16, now: Instant) -> bool {
        let Some(place) = self.place_of(id) else { return false };
        let peer = &mut self.peers[place];
        if peer.unread == 0 || now - peer.since < DEAF {
            return false;
        }
        peer.note_read(now);
        now - peer.since >= DEAF
    }

    /// Takes in who is calling. True: somebody is known now who was not.
    pub(super) fn welcome(&mut self, now: Instant) -> bool {
        self.accept(now);
        let strangers: Vec<u64> =
            self.peers.iter().filter(|peer| peer.id.is_none()).map(|peer| peer.number).collect();
        let before = self.ids().count();
        for number in strangers {
            let mut room = [0; 64];
            let Some(place) = self.peers.iter().position(|peer| peer.number == number) else { continue };
            match recv(&self.peers[place].fd, &mut room[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((_, len)) => self.introduce(place, room.get(..len)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.remove(place),
            }
        }
        self.ids().count() > before
    }

    /// Whether somebody has called of late, and not said who it is.
    pub(super) fn has_strangers(&self, now: Instant) -> bool {
        self.peers.iter().any(|peer| peer.id.is_none() && now - peer.since < GREETING)
    }

    /// Sends a packet. False: it is lost.
    pub(super) fn send(&mut self, id: u16, packet: &[u8], now: Instant) -> bool {
        let Some(place) = self.place_of(id) else { return false };
        let peer = &mut self.peers[place];
        peer.note_read(now);
        match transmit(&peer.fd, packet) {
            Ok(()) => {
                peer.unread = sys::unread(&peer.fd);
                true
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => false,
            Err(_) => {
                self.remove(place);
                false
            }
        }
    }

    /// Finds out who has sent something.
    pub(super) fn look(&mut self) {
        let mut events = [const {
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }
        }; READY];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.watch, &mut events[..], Some(&at_once)).unwrap_or(0);
        self.ready.clear();
        self.ready.extend(events[..count].iter().map(|event| event.data.u64()));
    }

    pub(super) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next packet of those that the last look found: where it lies, and how many bytes it has.
    pub(super) fn receive(&mut self, now: Instant) -> Option<(Vec<u8>, usize)> {
        while let Some(number) = self.ready.pop() {
            if number == LISTENER {
                self.accept(now);
                continue;
            }
            let Some(place) = self.peers.iter().position(|peer| peer.number == number) else { continue };
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            self.room.resize(PACKET, 0);
            let len = match recv(&self.peers[place].fd, &mut self.room[..], flags) {
                Ok((_, len)) if (1..=PACKET).contains(&len) => len,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                // It has ended, or speaks another language.
                Ok(_) | Err(_) => {
                    self.remove(place);
                    continue;
                }
            };
            if self.peers[place].id.is_some() {
                return Some((std::mem::take(&mut self.room), len));
            }
            let room = std::mem::take(&mut self.room);
            self.introduce(place, room.get(..len));
            self.room = room;
        }
        None
    }

    /// Notes who somebody says to be, or forgets one who does not know how to say it.
    fn introduce(&mut self, place: usize, greeting: Option<&[u8]>) {
        match greeting.and_then(|greeting| message::messages(greeting).next()) {
            Some(Ok(Message::Hello { id })) if id != self.own => {
                // The latest connection of a sibling is the last.
                let mut peer = self.peers.remove(place);
                peer.id = Some(id);
                self.peers.push(peer);
                self.changed = true;
            }
            _ => self.remove(place),
        }
    }

    /// Takes back where a packet lay, for the next one.
    pub(super) fn recycle(&mut self, room: Vec<u8>) {
        self.room = room;
    }

    /// Whether somebody has come or gone since the last call.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn remove(&mut self, place: usize) {
        self.peers.remove(place);
        self.changed = true;
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..READY {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(fd) if self.peers.len() < MOST && is_same_user(&fd) => self.add(fd.into(), None, now),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }

    fn add(&mut self, fd: Fd, id: Option<u16>, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        // With less room, more is lost.
        let _ = set_socket_send_buffer_size(&fd, SEND_BUFFER);
        let data = epoll::EventData::new_u64(number);
        if epoll::add(&self.watch, &fd, data, epoll::EventFlags::IN).is_ok() {
            self.peers.push(Peer { fd, number, id, unread: 0, since: now });
        }
    }
}

impl Peer {
    /// Finds out whether it has read anything since it was last looked at.
    fn note_read(&mut self, now: Instant) {
        let unread = sys::unread(&self.fd);
        if unread == 0 || unread < self.unread {
            self.since = now;
        }
        self.unread = unread;
    }
}

impl AsFd for Mesh {
    /// Polls readable when a look is worth it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

fn take_name(interface: u32, queues: &[u16]) -> io::Result<(Fd, usize)> {
    let socket = socket()?;
    for (place, queue) in queues.iter().enumerate() {
        match bind(&socket, &name(interface, *queue)?) {
            Ok(()) => return Ok((socket, place)),
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::ADDRINUSE)
}

fn socket() -> io::Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map(Fd::from)
}

fn name(interface: u32, queue: u16) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new_abstract_name(format!("demi-xdp-{interface}-{queue}").as_bytes())
}

fn is_same_user(fd: impl AsFd) -> bool {
    socket_peercred(fd).is_ok_and(|other| other.uid == rustix::process::geteuid())
}

fn transmit(fd: impl AsFd, packet: &[u8]) -> io::Result<()> {
    send(fd, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
}
