//! Hand-made peers that say and write what they should not. Whatever they do: no panic, no hang, and the next peer that
//! behaves gets its link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use demi_api::fd::Fd;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::net::SendFlags;

use super::*;
use crate::device::memif::protocol::{AddRing, COOKIE, Hello, Init, Message, VERSION, padded};
use crate::device::memif::raw::{Desc, Index, RingMemory, Shared};
use crate::device::memif::region::SealedFile;
use crate::device::memif::sys::{self, Listener, Received};

/// Where a well-behaved hand-made client puts its rings and buffers.
const LOG2: u8 = 4;
const RINGS: [u32; 2] = [0, 4096];
const BUFFERS: u32 = 8192;
const BUFFER: u32 = 2048;
const REGION: usize = BUFFERS as usize + 32 * BUFFER as usize;

/// What the peer under test answers: a message, or `None` if it closed the connection.
fn answer(socket: &Fd, end: &mut End) -> Option<Message> {
    let start = std::time::Instant::now();
    loop {
        end.receive();
        match sys::receive(socket) {
            Received::Nothing => assert!(start.elapsed().as_secs() < 10, "no answer"),
            Received::Closed => return None,
            Received::Message(message, _) => return Some(message),
            Received::Malformed(what) => panic!("we sent something malformed: {what}"),
        }
    }
}

/// The reason that the peer under test gives for closing.
fn refusal(socket: &Fd, end: &mut End) -> String {
    loop {
        match answer(socket, end) {
            Some(Message::Disconnect { reason, .. }) => return protocol::text(&reason),
            Some(_) => {}
            None => return String::from("closed without a word"),
        }
    }
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// A client whose every message can be falsified before it is sent.
struct RawClient {
    socket: Fd,
    file: SealedFile,
    rings: [RingMemory; 2],
    interrupts: [OwnedFd; 2],
}

impl RawClient {
    fn connect(path: &Path) -> RawClient {
        let socket = sys::connect(path).expect("the server listens");
        let file = SealedFile::create(REGION).unwrap();
        let region = Rc::new(Shared::map(&file).unwrap());
        let rings = RINGS.map(|at| RingMemory::new(&region, at as usize, LOG2).unwrap());
        for (number, ring) in rings.iter().enumerate() {
            ring.set_cookie(COOKIE);
            for slot in 0..16 {
                let offset = BUFFERS + (number as u32 * 16 + u32::from(slot)) * BUFFER;
                ring.set_desc(slot, Desc { length: BUFFER, offset, ..Desc::default() });
            }
        }
        RawClient { socket, file, rings, interrupts: [event(), event()] }
    }

    /// The messages of a good handshake, each with what goes along.
    fn script(&self) -> Vec<(Message, Option<BorrowedFd<'_>>)> {
        let init = Init { version: VERSION, id: 0, mode: 0, secret: [0; 24], name: padded("raw") };
        let ring = |number: usize| {
            let ring = AddRing {
                c2s: number == 0,
                index: 0,
                region: 0,
                offset: RINGS[number],
                ring_log2: LOG2,
                private_header: 0,
            };
            (Message::AddRing(ring), Some(self.interrupts[number].as_fd()))
        };
        vec![
            (Message::Init(init), None),
            (Message::AddRegion { index: 0, size: REGION as u64 }, Some(self.file.as_fd())),
            ring(0),
            ring(1),
            (Message::Connect { name: padded("raw") }, None),
        ]
    }

    /// Says the first `count` messages of a good handshake.
    fn say(&self, count: usize, server: &mut End) {
        assert!(matches!(answer(&self.socket, server), Some(Message::Hello(_))));
        for (message, fd) in self.script().into_iter().take(count) {
            assert!(sys::send(&self.socket, &message, fd));
            let reply = answer(&self.socket, server);
            assert!(matches!(reply, Some(Message::Ack | Message::Connected { .. })), "{reply:?}");
        }
    }

    fn up(path: &Path, server: &mut End) -> RawClient {
        let client = RawClient::connect(path);
        client.say(5, server);
        assert!(server.device.is_up());
        client
    }
}

/// A good client gets a link and a frame through.
fn recovers(server: &mut End, socket: &Path) {
    until(&mut [server], |ends| !ends[0].device.is_up());
    server.take();
    let mut client = End::open(&config(Role::Client, socket));
    until(&mut [server, &mut client], both_up);
    client.push(&pattern(700, 4));
    client.send();
    until(&mut [server], |ends| !ends[0].inbox.is_empty());
    assert_eq!(server.take(), [pattern(700, 4)]);
    drop(client);
    until(&mut [server], |ends| !ends[0].device.is_up());
}

fn server() -> (End, PathBuf) {
    let socket = socket_name();
    let mut server = End::open(&config(Role::Server, &socket));
    server.receive();
    (server, socket)
}

#[test]
fn a_hand_made_client_can_behave() {
    let (mut server, socket) = server();
    let client = RawClient::up(&socket, &mut server);
    let ring = &client.rings[0];
    ring.set_desc(0, Desc { length: 60, offset: BUFFERS, ..Desc::default() });
    ring.store(Index::Head, 1);
    assert_eq!((server.receive(), ring.load(Index::Tail)), (1, 1));
    assert_eq!(server.take(), [vec![0; 60]]);
    server.push(&[7; 60]);
    server.send();
    assert!(!server.outbox.is_empty(), "no buffer is offered");
    client.rings[1].store(Index::Head, 16);
    server.send();
    assert_eq!((client.rings[1].load(Index::Tail), client.rings[1].desc(0).length), (1, 60));
}

#[test]
fn false_messages_end_the_handshake_with_a_reason() {
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(REGION as u64).unwrap();
    let unsealed = rustix::fs::memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, REGION as u64).unwrap();
    let short = rustix::fs::memfd_create("short", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&short, SealFlags::SHRINK).unwrap();
    let (pipe_out, pipe_in) = rustix::pipe::pipe().unwrap();
    let epoll = sys::Epoll::new().unwrap();
    let region = |index, size| Message::AddRegion { index, size };
    let ring = AddRing { c2s: true, index: 0, region: 0, offset: 0, ring_log2: LOG2, private_header: 0 };
    let add = Message::AddRing;
    let event = event();
    let (whole, ev) = (REGION as u64, Some(event.as_fd()));
    let init = Init { version: VERSION, id: 0, mode: 0, secret: [0; 24], name: padded("raw") };
    let hello = Hello {
        name: padded(""),
        min_version: VERSION,
        max_version: VERSION,
        max_region: 0,
        max_s2c_ring: 0,
        max_c2s_ring: 0,
        max_ring_log2: 10,
    };
    // How many messages of a good handshake come first, what comes then, and what is said to that.
    let cases: Vec<(usize, Message, Option<BorrowedFd<'_>>, &str)> = vec![
        (0, Message::Ack, None, "Unexpected message"),
        (0, Message::Hello(hello), None, "Unexpected message"),
        (0, region(0, whole), None, "Unexpected message"),
        (0, Message::Connect { name: padded("") }, None, "Unexpected message"),
        (0, Message::Init(Init { version: 0x100, ..init }), None, "Incompatible"),
        (0, Message::Init(Init { mode: 1, ..init }), None, "ethernet"),
        (0, Message::Init(Init { id: 1, ..init }), None, "ID not found"),
        (1, Message::Init(init), None, "Unexpected message"),
        (1, region(0, whole), None, "Missing region fd"),
        (1, region(0, whole), Some(plain.as_fd()), "not a memfd"),
        (1, region(0, whole), Some(pipe_out.as_fd()), "not a memfd"),
        (1, region(0, whole), ev, "not a memfd"),
        (1, region(0, whole), Some(unsealed.as_fd()), "not sealed"),
        (1, region(0, whole), Some(short.as_fd()), "shorter"),
        (1, region(0, 0), Some(unsealed.as_fd()), "Invalid region size"),
        (1, region(0, u64::MAX), Some(unsealed.as_fd()), "too large"),
        (2, region(1, 1 << 30), Some(unsealed.as_fd()), "too large"),
        (2, region(1, u64::MAX), Some(unsealed.as_fd()), "too large"),
        (1, region(1, whole), Some(unsealed.as_fd()), "Invalid region index"),
        (1, region(65_535, whole), Some(unsealed.as_fd()), "Invalid region index"),
        (2, region(0, whole), Some(unsealed.as_fd()), "Invalid region index"),
        (2, Message::Connect { name: padded("") }, None, "Ring missing"),
        (3, Message::Connect { name: padded("") }, None, "Ring missing"),
        (2, add(ring), None, "Missing interrupt fd"),
        (2, add(ring), Some(plain.as_fd()), "not an eventfd"),
        (2, add(ring), Some(pipe_in.as_fd()), "not an eventfd"),
        (2, add(ring), Some(epoll.as_fd()), "not an eventfd"),
        (2, add(AddRing { index: 1, ..ring }), ev, "Invalid ring index"),
        (3, add(ring), ev, "Invalid ring index"),
        (5, Message::Ack, None, "Unexpected message"),
        (5, Message::Connect { name: padded("") }, None, "Unexpected message"),
    ];
    let (mut server, socket) = server();
    for (good, message, fd, reason) in cases {
        let client = RawClient::connect(&socket);
        client.say(good, &mut server);
        assert!(sys::send(&client.socket, &message, fd));
        let said = refusal(&client.socket, &mut server);
        assert!(said.contains(reason), "{said} to {message:?} behind {good}");
    }
    recovers(&mut server, &socket);
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let ring = AddRing { c2s: true, index: 0, region: 0, offset: 0, ring_log2: LOG2, private_header: 0 };
    let cases = [
        (AddRing { region: 1, ..ring }, "unknown region"),
        (AddRing { region: 65_535, ..ring }, "unknown region"),
        (AddRing { offset: REGION as u32, ..ring }, "beyond its region"),
        (AddRing { offset: u32::MAX, ..ring }, "beyond its region"),
        (AddRing { offset: REGION as u32 - 128, ..ring }, "beyond its region"),
        (AddRing { offset: 4, ..ring }, "not aligned"),
        (AddRing { ring_log2: 15, ..ring }, "too large"),
        (AddRing { ring_log2: 255, ..ring }, "too large"),
        (AddRing { offset: 8192, ..ring }, "Wrong cookie"),
    ];
    let (mut server, socket) = server();
    for (bad, reason) in cases {
        let client = RawClient::connect(&socket);
        client.say(2, &mut server);
        for ring in [bad, AddRing { c2s: false, offset: RINGS[1], ..ring }] {
            sys::send(&client.socket, &Message::AddRing(ring), Some(client.interrupts[0].as_fd()));
            assert_eq!(answer(&client.socket, &mut server), Some(Message::Ack));
        }
        sys::send(&client.socket, &Message::Connect { name: padded("") }, None);
        let said = refusal(&client.socket, &mut server);
        assert!(said.contains(reason), "{said} to {bad:?}");
    }
    recovers(&mut server, &socket);
}

#[test]
fn a_client_cannot_announce_regions_without_end() {
    let (mut server, socket) = server();
    let client = RawClient::connect(&socket);
    client.say(1, &mut server);
    for index in 0..9 {
        let region = Message::AddRegion { index, size: REGION as u64 };
        assert!(sys::send(&client.socket, &region, Some(client.file.as_fd())));
        if index < 8 {
            assert_eq!(answer(&client.socket, &mut server), Some(Message::Ack));
        }
    }
    assert!(refusal(&client.socket, &mut server).contains("Invalid region index"));
    recovers(&mut server, &socket);
}

#[test]
fn noise_on_the_socket_ends_the_connection_at_any_stage() {
    let (mut server, socket) = server();
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..300 {
        let client = RawClient::connect(&socket);
        client.say(round % 6, &mut server);
        let len = if round % 2 == 0 { 128 } else { 1 + rng.usize(..400) };
        let mut noise: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        if len == 128 {
            noise[..2].copy_from_slice(&rng.u16(..12).to_ne_bytes());
        }
        // Once the connection has ended, sending fails, and that is fine.
        for _ in 0..20 {
            let _ = rustix::net::send(&client.socket, &noise, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        for _ in 0..200 {
            server.receive();
        }
        drop(client);
        until(&mut [&mut server], |ends| !ends[0].device.is_up());
    }
    recovers(&mut server, &socket);
}

#[test]
fn a_silent_client_does_not_hold_the_device() {
    let (mut server, socket) = server();
    let silent = RawClient::connect(&socket);
    silent.say(3, &mut server);
    let deadline = server.device.next_deadline().expect("a limit for the handshake");
    let cx = DeviceCx { heap: &server.heap, now: deadline };
    server.device.rx_burst(&cx, &mut server.inbox);
    assert!(server.device.last_end().unwrap().contains("timed out"));
    recovers(&mut server, &socket);
    assert_eq!(server.device.next_deadline(), None);
}

/// What a client may write into the rings of an established link, and what the server makes of it.
#[test]
fn absurd_rings_cost_a_client_its_link() {
    type Crime = fn(&RawClient);
    let receiving: Vec<(&str, Crime)> = vec![
        ("Ring index out of range", |client| client.rings[0].store(Index::Head, 17)),
        ("Ring index out of range", |client| client.rings[0].store(Index::Head, u16::MAX)),
        ("Buffer beyond its region", |client| {
            client.rings[0].set_desc(0, Desc { length: u32::MAX, offset: BUFFERS, ..Desc::default() });
            client.rings[0].store(Index::Head, 1);
        }),
        ("Buffer beyond its region", |client| {
            client.rings[0].set_desc(0, Desc { length: 60, offset: u32::MAX, ..Desc::default() });
            client.rings[0].store(Index::Head, 1);
        }),
        ("Buffer beyond its region", |client| {
            let offset = REGION as u32 - 59;
            client.rings[0].set_desc(0, Desc { length: 60, offset, ..Desc::default() });
            client.rings[0].store(Index::Head, 1);
        }),
        ("Unknown region", |client| {
            client.rings[0].set_desc(0, Desc { length: 60, region: 1, ..Desc::default() });
            client.rings[0].store(Index::Head, 1);
        }),
        ("Chain without an end", |client| {
            client.rings[0].set_desc(0, Desc { flags: 1, length: 60, offset: BUFFERS, ..Desc::default() });
            client.rings[0].store(Index::Head, 1);
        }),
        ("Chain without an end", |client| {
            (0..16).for_each(|slot| client.rings[0].set_desc(slot, Desc { flags: 1, ..Desc::default() }));
            client.rings[0].store(Index::Head, 16);
        }),
        ("Chain without an end", |client| {
            let desc = Desc { flags: u16::MAX, length: u32::MAX, ..Desc::default() };
            (0..16).for_each(|slot| client.rings[0].set_desc(slot, desc));
            client.rings[0].store(Index::Head, 16);
        }),
        ("Unknown region", |client| {
            let first = Desc { flags: 1, length: 60, offset: BUFFERS, ..Desc::default() };
            client.rings[0].set_desc(0, first);
            client.rings[0].set_desc(1, Desc { region: 9, length: 60, ..Desc::default() });
            client.rings[0].store(Index::Head, 2);
        }),
    ];
    let sending: Vec<(&str, Crime)> = vec![
        ("Ring index out of range", |client| client.rings[1].store(Index::Head, 17)),
        ("Buffer without room", |client| {
            client.rings[1].set_desc(0, Desc::default());
            client.rings[1].store(Index::Head, 1);
        }),
        ("Buffer beyond its region", |client| {
            client.rings[1].set_desc(0, Desc { length: u32::MAX, offset: BUFFERS, ..Desc::default() });
            client.rings[1].store(Index::Head, 1);
        }),
        ("Unknown region", |client| {
            client.rings[1].set_desc(0, Desc { length: 60, region: u16::MAX, ..Desc::default() });
            client.rings[1].store(Index::Head, 1);
        }),
    ];
    let (mut server, socket) = server();
    for (reason, crime) in receiving {
        let client = RawClient::up(&socket, &mut server);
        crime(&client);
        for _ in 0..3 {
            server.receive();
        }
        assert!(refusal(&client.socket, &mut server).contains(reason), "{reason}");
    }
    for (reason, crime) in sending {
        let client = RawClient::up(&socket, &mut server);
        crime(&client);
        server.push(&pattern(60, 0));
        server.send();
        server.outbox.clear();
        assert!(refusal(&client.socket, &mut server).contains(reason), "{reason}");
    }
    assert!(server.inbox.is_empty());
    assert_eq!(server.counter("memif_violations"), 14);
    recovers(&mut server, &socket);
}

#[test]
fn an_index_does_not_move_backwards() {
    let (mut server, socket) = server();
    let client = RawClient::up(&socket, &mut server);
    client.rings[1].store(Index::Head, 8);
    server.push(&pattern(60, 0));
    server.send();
    client.rings[1].store(Index::Head, 4);
    server.push(&[0; 60]);
    server.device.full_since = Some(Instant::default());
    assert!(!server.arm(), "the link is news");
    assert!(!server.arm());
    assert!(refusal(&client.socket, &mut server).contains("Ring index out of range"));
    server.outbox.clear();
    recovers(&mut server, &socket);
}

/// Random words all over the rings while the server works on them, at the same time from another thread.
#[test]
fn scribbling_over_the_rings_is_survived() {
    let (mut server, socket) = server();
    for seed in 0..40 {
        let client = RawClient::up(&socket, &mut server);
        let copy = rustix::io::dup(&client.file).unwrap();
        let scribbler = std::thread::spawn(move || {
            let file = SealedFile::check(copy.into(), REGION as u64).unwrap();
            let region = Rc::new(Shared::map(&file).unwrap());
            let rings = RINGS.map(|at| RingMemory::new(&region, at as usize, LOG2).unwrap());
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..20_000 {
                let ring = &rings[rng.usize(..2)];
                // Mostly plausible, so that it is not over at once.
                let length = if rng.u8(..) == 0 { rng.u32(..) } else { rng.u32(..200) };
                let offset = if rng.u8(..) == 0 { rng.u32(..) } else { rng.u32(..REGION as u32 - 200) };
                let flags = u16::from(rng.u8(..) < 100);
                ring.set_desc(rng.u16(..), Desc { flags, region: 0, length, offset, metadata: rng.u32(..) });
                if rng.u8(..) < 20 {
                    ring.store(Index::Head, ring.load(Index::Tail).wrapping_add(rng.u16(..17)));
                }
                if rng.u16(..) < 3 {
                    ring.store(Index::Head, rng.u16(..));
                }
            }
        });
        while !scribbler.is_finished() {
            server.push(&pattern(14 + seed as usize * 30, 0));
            server.send();
            server.receive();
            assert!(server.inbox.iter().all(|frame| (14..=1518).contains(&frame.data.len())));
            server.inbox.clear();
            server.outbox.truncate(8);
        }
        scribbler.join().unwrap();
        drop(client);
        until(&mut [&mut server], |ends| !ends[0].device.is_up());
    }
    server.outbox.clear();
    recovers(&mut server, &socket);
}

#[test]
fn an_eventfd_cannot_be_made_to_block_us() {
    let (mut server, socket) = server();
    let client = RawClient::up(&socket, &mut server);
    for fd in &client.interrupts {
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK).unwrap();
    }
    // The interrupt that we write: its counter is full, and the flag asks for it.
    rustix::io::write(&client.interrupts[1], &(u64::MAX - 1).to_ne_bytes()).unwrap();
    client.rings[1].set_flags(0);
    client.rings[1].store(Index::Head, 16);
    server.push(&pattern(60, 1));
    assert_eq!((server.send(), server.counter("memif_interrupts_sent")), (1, 1));
    // The interrupt that we read: signalled, and emptied by the peer.
    rustix::io::write(&client.interrupts[0], &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(rustix::io::read(&client.interrupts[0], &mut [0; 8]), Ok(8));
    assert!(!server.arm(), "the link is news");
    assert!(server.arm());
    assert!(server.device.connection.link.as_ref().unwrap().rx_interrupt.drain());
    drop(client);
    recovers(&mut server, &socket);
}

/// A server that says whatever it likes to our client.
struct RawServer {
    listener: Listener,
    client: End,
}

impl RawServer {
    fn new() -> RawServer {
        let socket = socket_name();
        let listener = Listener::bind(&socket).unwrap();
        RawServer { listener, client: End::open(&config(Role::Client, &socket)) }
    }

    fn accept(&mut self) -> Fd {
        let start = std::time::Instant::now();
        loop {
            self.client.receive();
            if let Some(socket) = self.listener.accept().unwrap() {
                return socket;
            }
            assert!(start.elapsed().as_secs() < 10, "no connection");
        }
    }

    fn hello() -> Hello {
        Hello {
            name: padded("raw"),
            min_version: VERSION,
            max_version: VERSION,
            max_region: 0,
            max_s2c_ring: 0,
            max_c2s_ring: 0,
            max_ring_log2: LOG2,
        }
    }

    /// Says HELLO and `acks` times ACK; returns what the client offered by then.
    fn say(&mut self, socket: &Fd, acks: usize) -> (Option<SealedFile>, Vec<AddRing>) {
        let (mut file, mut rings) = (None, Vec::new());
        assert!(sys::send(socket, &Message::Hello(Self::hello()), None));
        for number in 0..=acks {
            let start = std::time::Instant::now();
            let (message, fd) = loop {
                self.client.receive();
                match sys::receive(socket) {
                    Received::Message(message, fd) => break (message, fd),
                    other => assert!(start.elapsed().as_secs() < 10, "{other:?}"),
                }
            };
            match message {
                Message::AddRegion { size, .. } => file = SealedFile::check(fd.unwrap(), size).ok(),
                Message::AddRing(ring) => rings.push(ring),
                _ => {}
            }
            if number < acks {
                assert!(sys::send(socket, &Message::Ack, None));
            }
        }
        (file, rings)
    }

    /// An established link, with the server's view of both rings.
    fn up(&mut self) -> (Fd, [RingMemory; 2]) {
        let socket = self.accept();
        let (file, rings) = self.say(&socket, 4);
        let region = Rc::new(Shared::map(&file.unwrap()).unwrap());
        let view = |ring: &AddRing| RingMemory::new(&region, ring.offset as usize, ring.ring_log2).unwrap();
        let views = [view(&rings[0]), view(&rings[1])];
        assert!(rings[0].c2s && !rings[1].c2s);
        assert!(sys::send(&socket, &Message::Connected { name: padded("raw") }, None));
        until(&mut [&mut self.client], |ends| ends[0].device.is_up());
        (socket, views)
    }
}

#[test]
fn false_messages_of_a_server_end_the_handshake() {
    let mut server = RawServer::new();
    let hello = RawServer::hello();
    let later = Message::Hello(Hello { min_version: VERSION + 1, max_version: VERSION + 9, ..hello });
    let connected = Message::Connected { name: padded("") };
    let cases = [
        (None, later, "Incompatible"),
        (None, Message::Ack, "Unexpected"),
        (None, connected, "Unexpected"),
        (Some(0), Message::Hello(hello), "Unexpected"),
        (Some(1), connected, "Unexpected"),
        (Some(4), Message::Ack, "Unexpected"),
        (Some(2), Message::Connect { name: padded("") }, "Unexpected"),
    ];
    for (acks, message, reason) in cases {
        let socket = server.accept();
        if let Some(acks) = acks {
            server.say(&socket, acks);
        }
        assert!(sys::send(&socket, &message, None));
        let said = refusal(&socket, &mut server.client);
        assert!(said.contains(reason), "{said} to {message:?}");
    }
    let socket = server.accept();
    sys::send(&socket, &Message::Disconnect { code: 3, reason: [b'x'; 96] }, None);
    until(&mut [&mut server.client], |ends| ends[0].device.last_end().unwrap().contains("xxx"));
    let (_socket, rings) = server.up();
    rings[1].store(Index::Tail, 1);
}

#[test]
fn absurd_rings_cost_a_server_its_link() {
    type Crime = fn(&[RingMemory; 2]);
    let crimes: Vec<(&str, Crime)> = vec![
        ("Ring index out of range", |rings| rings[1].store(Index::Tail, 17)),
        ("Ring index out of range", |rings| rings[1].store(Index::Tail, u16::MAX)),
        ("Length beyond the buffer", |rings| {
            rings[1].set_desc(0, Desc { length: 2049, ..Desc::default() });
            rings[1].store(Index::Tail, 1);
        }),
        ("Length beyond the buffer", |rings| {
            rings[1].set_desc(0, Desc { length: u32::MAX, offset: u32::MAX, ..Desc::default() });
            rings[1].store(Index::Tail, 1);
        }),
        ("Chain without an end", |rings| {
            (0..16).for_each(|slot| rings[1].set_desc(slot, Desc { flags: 1, ..Desc::default() }));
            rings[1].store(Index::Tail, 16);
        }),
    ];
    let mut server = RawServer::new();
    for (reason, crime) in crimes {
        let (socket, rings) = server.up();
        crime(&rings);
        server.client.receive();
        assert!(refusal(&socket, &mut server.client).contains(reason), "{reason}");
    }
    let (socket, rings) = server.up();
    rings[0].store(Index::Tail, 3);
    (0..17).for_each(|number| server.client.push(&pattern(60, number)));
    server.client.send();
    assert!(refusal(&socket, &mut server.client).contains("Ring index out of range"));
    server.client.outbox.clear();

    // Where a server says that the buffer lies does not matter: a client knows its own.
    let (_socket, rings) = server.up();
    let desc = Desc { length: 60, region: 7, offset: u32::MAX, ..Desc::default() };
    rings[1].set_desc(0, desc);
    rings[1].store(Index::Tail, 1);
    assert_eq!(server.client.receive(), 1);
    assert_eq!(rings[1].desc(0).length, 2048, "offered again");
    assert_eq!(server.client.take(), [vec![0; 60]]);
}
