//! A hostile peer of a shared-memory NIC, in either role: what it says on the control socket, and what it writes into the
//! rings. Shared memory is written through its file, as another process could at any time.
//!
//! Whatever it does: no panic, no frame of an impossible length, and the next peer that behaves gets its link.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use demi_api::memalloc::{HeapConfig, HugePages};
use demi_api::time::Instant;
use demi_api::{Heap, SgArray};
use demi_libos_catnip::device::memif::{Memif, MemifConfig, Role};
use demi_libos_catnip::device::{BURST, DeviceCx, Frame, Queue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::input::Input;

/// Bytes of a message on the control socket.
const MESSAGE: usize = 128;
/// Rings of eight buffers, so that a few writes go around.
const LOG2: u8 = 3;
const BUFFER: u32 = 256;
/// Largest packet: some frames take several buffers.
const MTU: usize = 600;
/// The longest frame, with the VLAN tag that a memif has room for.
const LONGEST: usize = MTU + 18;
/// Where a client of ours puts its rings and buffers.
const RINGS: [u32; 2] = [0, 512];
const BUFFERS: u32 = 1024;
const REGION: u64 = 1024 + 16 * BUFFER as u64;
/// Turns of the device after which it has looked at everything.
const TURNS: usize = 4;

thread_local! {
    static HEAP: Heap = Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false })
        .expect("4 MiB can be had");
}

/// Messages of any kind, in and out of turn, with and without descriptors. The first byte is the device's role.
pub fn memif_control(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(role(input.byte()));
    let mut peer = bench.meet();
    while !input.is_empty() {
        match input.byte() % 16 {
            0..6 => peer.proceed(&mut Input::new(&[])),
            6..11 => peer.proceed(&mut input),
            11 => {
                let bytes = input.run().to_vec();
                let attached = attachment(&mut input);
                peer.say(&bytes, &attached);
            }
            12 => peer = bench.meet(),
            13 => bench.pass(Duration::from_millis(input.byte().into())),
            14 => bench.transmit(usize::from(input.half()) % 700),
            _ => drop(bench.arm()),
        }
        bench.turns();
        peer.hear();
    }
    drop(peer);
    bench.recovers();
}

/// Writes of any kind into the memory of an established link. The first byte is the device's role.
pub fn memif_rings(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(role(input.byte()));
    let mut peer = bench.meet();
    peer.behave(&mut bench);
    while !input.is_empty() && bench.device.is_up() {
        match input.byte() % 16 {
            0..3 => peer.move_index(&mut input),
            3 | 4 => peer.write_descriptor(&mut input),
            5 => {
                let (at, bytes) = (input.half(), input.run());
                peer.write(u64::from(at), bytes);
            }
            6 | 7 => peer.put(usize::from(input.half()) % (LONGEST + 100)),
            8 => {
                // The seals see to it that this fails.
                let resized = peer.memory().is_some_and(|file| file.set_len(input.byte().into()).is_ok());
                assert!(!resized, "a region can be resized");
            }
            9 => {
                for event in &peer.events {
                    let value = u64::from(input.byte()) << 56 | 1;
                    // A full counter takes no more.
                    let _ = rustix::io::write(event, &value.to_ne_bytes());
                }
            }
            10 => bench.pass(Duration::from_micros(1 << (input.byte() % 20))),
            11 => drop(bench.arm()),
            12 | 13 => bench.transmit(usize::from(input.half()) % (LONGEST + 100)),
            14 => peer.give_back(),
            _ => bench.turns(),
        }
        bench.turn();
    }
    drop(peer);
    bench.recovers();
}

fn role(byte: u8) -> Role {
    if byte & 1 == 0 { Role::Server } else { Role::Client }
}

/// The device under test.
struct Bench {
    device: Memif,
    role: Role,
    name: String,
    listener: Option<OwnedFd>,
    now: Instant,
    outbox: VecDeque<Frame>,
    received: usize,
}

impl Bench {
    fn new(role: Role) -> Bench {
        thread_local!(static NEXT: Cell<u32> = const { Cell::new(0) });
        let number = NEXT.replace(NEXT.get() + 1);
        let name = format!("demi-fuzz-{}-{:?}-{number}", std::process::id(), std::thread::current().id());
        let config = MemifConfig {
            socket: format!("@{name}").into(),
            role,
            ring_log2: LOG2,
            buffer_bytes: BUFFER,
            mtu: MTU,
            ..MemifConfig::default()
        };
        let listener = (role == Role::Client).then(|| {
            let socket = socket();
            rustix::net::bind(&socket, &address(&name)).expect("the name is new");
            rustix::net::listen(&socket, 8).expect("it is bound");
            socket
        });
        let device = Memif::open(&config).expect("the configuration is sound");
        let now = Instant::from_nanos(1_000_000_000);
        Bench { device, role, name, listener, now, outbox: VecDeque::new(), received: 0 }
    }

    /// A new peer on a new control socket. The old one is gone, or in the way.
    fn meet(&mut self) -> Peer {
        let socket = if self.role == Role::Client {
            // Connections that the device has made meanwhile, and may have given up. It makes another after a pause that
            // is shorter than these together.
            while self.accept().is_some() {}
            (0..20).find_map(|_| {
                self.pass(Duration::from_millis(200));
                self.accept()
            })
        } else {
            let socket = socket();
            rustix::net::connect(&socket, &address(&self.name)).expect("the device listens");
            Some(socket)
        };
        self.turns();
        let mut peer = Peer {
            role: if self.role == Role::Server { Role::Client } else { Role::Server },
            socket,
            step: 0,
            file: None,
            rings: RINGS.map(u64::from),
            indices: [0; 2],
            events: Vec::new(),
        };
        if peer.role == Role::Client {
            peer.prepare();
        }
        peer.hear();
        peer
    }

    fn accept(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(self.listener.as_ref()?, flags).ok()
    }

    /// After all: a peer that behaves gets its link, and a frame through.
    fn recovers(mut self) {
        self.pass(Duration::from_secs(3));
        let mut peer = self.meet();
        peer.behave(&mut self);
        assert!(self.device.is_up(), "no link: {:?}", self.device.last_end());
        let before = self.received;
        peer.put(100);
        self.turns();
        assert_eq!(self.received, before + 1, "{:?}", self.device.last_end());
        self.outbox.clear();
        drop(self.device);
        HEAP.with(|heap| assert_eq!(heap.stats().objects_live, 0, "buffers are held"));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.turns();
    }

    fn turns(&mut self) {
        for _ in 0..TURNS {
            // Long enough for a look at the control socket.
            self.now = self.now + Duration::from_millis(11);
            self.turn();
        }
    }

    fn turn(&mut self) {
        HEAP.with(|heap| {
            let cx = DeviceCx { heap, now: self.now };
            let mut inbox = Vec::new();
            let count = self.device.rx_burst(&cx, &mut inbox);
            assert!(count == inbox.len() && count <= BURST, "{count} frames");
            assert!(inbox.iter().all(|frame| (14..=LONGEST).contains(&frame.data.len())));
            self.received += count;
            self.device.tx_burst(&cx, &mut self.outbox);
            self.device.reclaim();
        });
    }

    fn transmit(&mut self, len: usize) {
        HEAP.with(|heap| {
            if self.outbox.len() < 64 {
                let bytes = vec![9; len];
                // In two segments, which may be empty.
                let parts = bytes.split_at(len / 3);
                let data =
                    [parts.0, parts.1].into_iter().map(|part| heap.copy_from(part).expect("there is memory"));
                self.outbox.push_back(Frame::new(data.collect::<SgArray>()));
            }
        });
        self.turn();
    }

    fn arm(&mut self) -> bool {
        HEAP.with(|heap| self.device.arm(&DeviceCx { heap, now: self.now }))
    }
}

/// A peer by hand.
struct Peer {
    role: Role,
    /// None: the device did not come.
    socket: Option<OwnedFd>,
    /// How far the handshake is that it should follow.
    step: usize,
    /// The region, and where the rings are in it.
    file: Option<File>,
    rings: [u64; 2],
    /// Its own indices: `head` of a client, `tail` of a server.
    indices: [u16; 2],
    events: Vec<OwnedFd>,
}

impl Peer {
    /// Makes a client's region.
    fn prepare(&mut self) {
        self.file = Some(memfd(REGION, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        self.events = (0..2).map(|_| event()).collect();
        for ring in 0..2 {
            self.write(self.rings[ring], &0x03E3_1F20_u32.to_ne_bytes());
            for slot in 0..8 {
                self.describe(ring, slot, 0, 0, BUFFER, self.buffer(ring, slot));
            }
        }
    }

    fn buffer(&self, ring: usize, slot: u16) -> u32 {
        BUFFERS + (ring as u32 * 8 + u32::from(slot % 8)) * BUFFER
    }

    /// The next message of a good handshake, but for what the input changes: some bytes, and the descriptor.
    fn proceed(&mut self, input: &mut Input<'_>) {
        let (mut message, wanted) = self.proper();
        let changes = input.byte();
        for _ in 0..changes % 4 {
            let (at, value) = (input.byte(), input.byte());
            message[usize::from(at) % 48] = value;
        }
        let attached = if changes & 0x80 != 0 {
            attachment(input)
        } else {
            match wanted {
                Wanted::Nothing => Vec::new(),
                Wanted::Region => {
                    self.file.iter().filter_map(|file| file.try_clone().ok()).map(OwnedFd::from).collect()
                }
                Wanted::Event(number) => {
                    self.events.get(number).and_then(|event| event.try_clone().ok()).into_iter().collect()
                }
            }
        };
        self.step += 1;
        self.say(&message, &attached);
    }

    fn proper(&self) -> ([u8; MESSAGE], Wanted) {
        let mut bytes = [0; MESSAGE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let wanted = match (self.role, self.step) {
            (Role::Client, 0) => {
                put(0, &[3, 0, 0, 2]);
                Wanted::Nothing
            }
            (Role::Client, 1) => {
                put(0, &[4, 0, 0, 0]);
                put(4, &REGION.to_ne_bytes());
                Wanted::Region
            }
            (Role::Client, step @ (2 | 3)) => {
                put(0, &[5, 0, u8::from(step == 2), 0]);
                put(8, &RINGS[step - 2].to_ne_bytes());
                put(12, &[LOG2]);
                Wanted::Event(step - 2)
            }
            (Role::Client, _) => {
                put(0, &[6, 0]);
                Wanted::Nothing
            }
            (Role::Server, 0) => {
                put(0, &[2, 0]);
                put(34, &[0, 2, 0, 2, 7, 0, 0, 0, 0, 0, 14]);
                Wanted::Nothing
            }
            (Role::Server, step) => {
                put(0, &[if step < 5 { 1 } else { 7 }, 0]);
                Wanted::Nothing
            }
        };
        (bytes, wanted)
    }

    fn say(&self, bytes: &[u8], attached: &[OwnedFd]) {
        let Some(socket) = &self.socket else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = attached.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // Whoever closed the socket takes no more.
        let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
    }

    /// Takes in what the device has said: a server learns where the memory is.
    fn hear(&mut self) {
        let Some(socket) = &self.socket else { return };
        loop {
            let mut bytes = [0; MESSAGE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received =
                rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
            if !received.is_ok_and(|received| received.bytes == MESSAGE) {
                return;
            }
            let fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let fd = fds.flatten().next();
            match (bytes[0], fd) {
                (4, Some(fd)) => self.file = Some(fd.into()),
                (5, Some(fd)) => {
                    let at = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
                    self.rings[usize::from(bytes[2] & 1 == 0)] = at.into();
                    self.events.push(fd);
                }
                _ => {}
            }
        }
    }

    /// Does everything right.
    fn behave(&mut self, bench: &mut Bench) {
        let messages = if self.role == Role::Client { 5 } else { 6 };
        for _ in self.step..messages {
            self.proceed(&mut Input::new(&[]));
            bench.turns();
            self.hear();
        }
        if self.role == Role::Client {
            // All buffers are offered.
            self.set_index(1, 8);
        }
    }

    fn memory(&self) -> Option<&File> {
        self.file.as_ref()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        if let Some(file) = &self.file {
            // Beyond the end, the seal against growing is in the way.
            let _ = file.write_all_at(bytes, at);
        }
    }

    fn half(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        let read = self.file.as_ref().map(|file| file.read_exact_at(&mut bytes, at));
        if matches!(read, Some(Ok(()))) { u16::from_ne_bytes(bytes) } else { 0 }
    }

    /// Writes this side's index of a ring.
    fn set_index(&mut self, ring: usize, value: u16) {
        self.indices[ring] = value;
        let at = if self.role == Role::Client { 6 } else { 64 };
        self.write(self.rings[ring] + at, &value.to_ne_bytes());
    }

    fn describe(&self, ring: usize, slot: u16, flags: u16, region: u16, length: u32, offset: u32) {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&flags.to_ne_bytes());
        bytes[2..4].copy_from_slice(&region.to_ne_bytes());
        bytes[4..8].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&offset.to_ne_bytes());
        self.write(self.rings[ring] + 128 + 16 * u64::from(slot % 8), &bytes);
    }

    /// Sends a frame as it should be sent.
    fn put(&mut self, len: usize) {
        let ring = usize::from(self.role == Role::Server);
        let mut left = len;
        loop {
            let slot = self.indices[ring];
            let part = left.min(BUFFER as usize);
            left -= part;
            let offset = self.buffer(ring, slot);
            self.describe(ring, slot, u16::from(left > 0), 0, part as u32, offset);
            self.set_index(ring, slot.wrapping_add(1));
            if left == 0 {
                return;
            }
        }
    }

    /// Offers again what the device has filled, or takes what it has.
    fn give_back(&mut self) {
        match self.role {
            Role::Client => {
                let filled = self.half(self.rings[1] + 64);
                self.set_index(1, filled.wrapping_add(8));
            }
            Role::Server => {
                let filled = self.half(self.rings[0] + 6);
                self.set_index(0, filled);
            }
        }
    }

    /// Either index of either ring, its flags, or its cookie.
    fn move_index(&mut self, input: &mut Input<'_>) {
        let (what, value) = (input.byte(), input.byte());
        let ring = usize::from(what & 1);
        let at = self.rings[ring] + [6, 64, 4, 0][usize::from(what >> 1 & 3)];
        let value = match value {
            255 => input.half(),
            small => self.half(at).wrapping_add(i16::from(small.cast_signed()).cast_unsigned()),
        };
        self.write(at, &value.to_ne_bytes());
    }

    fn write_descriptor(&mut self, input: &mut Input<'_>) {
        let (place, flags, region) = (input.byte(), input.byte(), input.byte());
        let (length, offset) = (input.offset(), input.offset());
        let (ring, slot) = (usize::from(place & 1), u16::from(place >> 1));
        let offset = self.buffer(ring, slot).wrapping_add(offset);
        self.describe(ring, slot, (flags & 3).into(), (region & 3).into(), length, offset);
    }
}

/// What goes with a message.
enum Wanted {
    Nothing,
    Region,
    Event(usize),
}

/// Descriptors that may be what the device wants, or not.
fn attachment(input: &mut Input<'_>) -> Vec<OwnedFd> {
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    match input.byte() % 8 {
        0 => Vec::new(),
        1 => vec![memfd(REGION, SealFlags::GROW).into()],
        2 => vec![memfd(u64::from(input.half()), sealed).into()],
        3 => vec![event()],
        4 => rustix::pipe::pipe().map(|(read, _)| read).into_iter().collect(),
        5 => vec![event(), memfd(REGION, sealed).into(), event()],
        6 => vec![socket()],
        _ => vec![memfd(REGION, sealed).into()],
    }
}

fn memfd(bytes: u64, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("fuzz", flags).expect("there is a descriptor left"));
    file.set_len(bytes).expect("it is not sealed yet");
    fcntl_add_seals(&file, seals).expect("it may be sealed");
    file
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("there is a descriptor left")
}

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .expect("there is a descriptor left")
}

fn address(name: &str) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("it is short")
}
