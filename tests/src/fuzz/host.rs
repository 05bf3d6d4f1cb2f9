//! An instance of catnip on a cable whose other end is in the caller's hands.
//!
//! Invariants: time stands until it is set; the same input does the same. Every frame that the instance sends is looked
//! at: lengths and checksums are right, whatever it was told before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use demi_api::time::{Clock, Instant};
use demi_api::{
    Completion, Config, Demikernel, Domain, Done, Error, Heap, QDesc, QToken, SgArray, SocketKind,
};
use demi_libos_catnip::device::{BURST, Caps, Checksum, DeviceCx, Frame, Queue};
use demi_libos_catnip::{Catnip, CatnipSection};

use super::packet::{self, Mac, Sent, sound};

/// The instance's Ethernet address.
pub const MAC: Mac = [2, 0, 0, 0, 0, 1];
/// The one of the neighbour that the caller plays.
pub const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
/// The instance's addresses, and its neighbour's, for either version.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// See [`HOST4`].
pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// See [`HOST4`].
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// See [`HOST4`].
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Largest packet.
pub const MTU: usize = 1500;

/// Turns at one moment after which an instance is taken to be spinning.
const TURNS: usize = 2000;

/// An instance, its clock, and the other end of its cable.
pub struct Host {
    /// The instance.
    pub demi: Demikernel<Catnip>,
    clock: Clock,
    cable: Rc<RefCell<Cable>>,
    /// Bytes of the buffers that frames arrive in, as a NIC has them; zero: as many as the frame has.
    pub room: usize,
    /// What its application has open; closed in the [end](Host::end).
    pub open: Vec<QDesc>,
    /// What its application waits for.
    pub tokens: Vec<QToken>,
}

#[derive(Debug, Default)]
struct Cable {
    arriving: VecDeque<Frame>,
    leaving: VecDeque<Vec<u8>>,
    /// The NIC takes nothing.
    stuck: bool,
}

/// The instance's NIC.
#[derive(Debug)]
struct Nic {
    cable: Rc<RefCell<Cable>>,
    caps: Caps,
    /// Never readable: whoever could write is in the same thread.
    quiet: std::io::PipeReader,
    _writer: std::io::PipeWriter,
}

impl Host {
    /// An instance with both versions' addresses and two MiB of heap or more; `more` is further text for `[catnip]`,
    /// `ip` for `[catnip.ip]`.
    ///
    /// # Panics
    /// If the text does not make a configuration.
    pub fn new(heap_mib: usize, more: &str, ip: &str) -> Host {
        let text = format!(
            "[heap]\nsize_mib = {heap_mib}\nlock = false\nhuge_pages = \"never\"\n[queues]\nlinger_ms = 5000\n\
             [catnip]\n{more}\n[catnip.ip]\n{ip}\n"
        );
        let config = Config::parse(&text, "host").expect("the text is sound");
        let section = CatnipSection::load(&config).expect("the text is sound");
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        Host::assemble(&config, &section, MAC, clock).expect("there is memory, and the addresses fit")
    }

    /// Two instances with the addresses of the instance and of its neighbour, on one clock.
    ///
    /// # Panics
    /// If `more`, further text for `[catnip]`, does not make a configuration.
    pub fn two(heap_mib: usize, more: &str) -> [Host; 2] {
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        [(MAC, 1), (PEER_MAC, 2)].map(|(mac, number)| {
            let text = format!(
                "[heap]\nsize_mib = {heap_mib}\nlock = false\nhuge_pages = \"never\"\n[catnip]\n{more}\n\
                 [catnip.ip]\naddresses = [\"10.0.0.{number}/24\", \"fd00::{number}/64\"]\n"
            );
            let config = Config::parse(&text, "host").expect("the text is sound");
            let section = CatnipSection::load(&config).expect("the text is sound");
            Host::assemble(&config, &section, mac, clock.clone()).expect("there is memory")
        })
    }

    /// The usual addresses.
    pub fn plain(heap_mib: usize) -> Host {
        Host::new(heap_mib, "", "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]")
    }

    /// An instance as a section describes it.
    pub fn over(section: &CatnipSection) -> Result<Host, Error> {
        let text = "[heap]\nsize_mib = 4\nlock = false\nhuge_pages = \"never\"\n";
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        Host::assemble(&Config::parse(text, "host")?, section, MAC, clock)
    }

    fn assemble(config: &Config, section: &CatnipSection, mac: Mac, clock: Clock) -> Result<Host, Error> {
        let cable = Rc::new(RefCell::new(Cable::default()));
        let (quiet, writer) = std::io::pipe().map_err(|_| Error::TooManyFiles)?;
        let caps = Caps {
            mac,
            mtu: MTU,
            max_segs: demi_api::sga::MAX_SEGMENTS,
            max_seg_len: usize::MAX,
            tx_checksum: false,
            zero_copy: true,
        };
        let nic = Nic { cable: cable.clone(), caps, quiet, _writer: writer };
        let rng = fastrand::Rng::with_seed(mac[5].into());
        let demi = Demikernel::assemble(config, clock.clone(), rng, |setup, rng| {
            Catnip::over(&setup, section, Box::new(nic), rng)
        })?;
        Ok(Host { demi, clock, cable, room: 0, open: Vec::new(), tokens: Vec::new() })
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets a frame arrive, whole. False: there is no memory for it, and it is lost, as at a NIC.
    pub fn arrive(&mut self, frame: &[u8]) -> bool {
        self.arrive_in_parts(frame, frame.len(), Checksum::Unknown)
    }

    /// Lets a frame arrive in two buffers, with what the NIC says of its checksum. The first holds what devices promise.
    pub fn arrive_in_parts(&mut self, frame: &[u8], cut: usize, checksum: Checksum) -> bool {
        let heap = self.demi.heap();
        let (head, tail) = frame.split_at(cut.max(128).min(frame.len()));
        let mut data = SgArray::new();
        for part in [head, tail] {
            if part.is_empty() {
                continue;
            }
            let Some(buf) = buffer(heap, part, self.room) else { return false };
            data.push(buf).expect("an array has room for two");
        }
        self.cable.borrow_mut().arriving.push_back(Frame { data, checksum });
        true
    }

    /// An IP packet from the neighbour.
    pub fn arrive_ip(&mut self, (kind, packet): (u16, Vec<u8>)) -> bool {
        self.arrive(&packet::ethernet(MAC, PEER_MAC, kind, &packet))
    }

    /// Whether the NIC takes no more frames.
    pub fn stick(&mut self, stuck: bool) {
        self.cable.borrow_mut().stuck = stuck;
    }

    /// One turn.
    pub fn turn(&mut self) {
        self.demi.poll().expect("no call is under way");
    }

    /// Turns until what has arrived is taken in and nothing more is to be done now.
    ///
    /// # Panics
    /// If the instance never comes to rest.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..TURNS {
            self.turn();
            let due = self.next_deadline().is_some_and(|at| at <= self.now());
            if self.cable.borrow().arriving.is_empty() && !due {
                // What was left for the next turn.
                self.turn();
                return;
            }
        }
        panic!("the instance spins: {:?}", self.counters());
    }

    /// What it has sent, each frame looked at.
    #[track_caller]
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        let frames: Vec<Vec<u8>> = self.cable.borrow_mut().leaving.drain(..).collect();
        for frame in &frames {
            sound(frame, MTU);
        }
        frames
    }

    /// Settles, answering questions for the neighbour's Ethernet address; returns all else that was sent.
    #[track_caller]
    pub fn exchange(&mut self) -> Vec<Vec<u8>> {
        let mut others = Vec::new();
        loop {
            self.settle();
            let (questions, rest): (Vec<_>, Vec<_>) =
                self.take().into_iter().partition(|frame| introduce(frame).is_some());
            others.extend(rest);
            if questions.is_empty() {
                return others;
            }
            for answer in questions.iter().filter_map(|question| introduce(question)) {
                self.arrive(&answer);
            }
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.clock.set(self.now() + time);
        self.settle();
    }

    /// When it has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.demi.next_deadline().expect("no call is under way")
    }

    /// Moves the clock to the next deadline. False: there is none.
    pub fn to_deadline(&mut self) -> bool {
        let Some(at) = self.next_deadline() else { return false };
        self.clock.set(at.max(self.now()));
        self.settle();
        true
    }

    /// The result of an operation, if it is there.
    ///
    /// # Panics
    /// If there is no such operation.
    #[track_caller]
    pub fn result(&self, token: QToken) -> Option<Completion> {
        match self.demi.wait(token, Some(Duration::ZERO)) {
            Ok(done) => Some(done),
            Err(Error::TimedOut) => None,
            Err(error) => panic!("{token}: {error}"),
        }
    }

    /// A socket, bound to a port if it is not zero, and listening if it is a stream.
    ///
    /// # Panics
    /// If the port is not free, or there are too many sockets.
    #[track_caller]
    pub fn socket(&mut self, v6: bool, kind: SocketKind, port: u16) -> QDesc {
        let domain = if v6 { Domain::Inet6 } else { Domain::Inet };
        let qd = self.demi.socket(domain, kind).expect("there is room");
        self.open.push(qd);
        if port != 0 {
            self.demi.bind(qd, SocketAddr::new(pair(v6).0, port)).expect("the port is free");
            if kind == SocketKind::Stream {
                self.demi.listen(qd, 8).expect("it is bound");
            }
        }
        qd
    }

    /// Closes a descriptor of `open`.
    pub fn close(&mut self, qd: QDesc) {
        self.open.retain(|other| *other != qd);
        self.demi.close(qd).expect("it is open");
    }

    /// What is there of what the application waits for. Accepted connections are open from now on.
    #[track_caller]
    pub fn reap(&mut self) -> Vec<Completion> {
        let mut found = Vec::new();
        let tokens = std::mem::take(&mut self.tokens);
        for token in tokens {
            let Some(completion) = self.result(token) else {
                self.tokens.push(token);
                continue;
            };
            if let Ok(Done::Accepted { qd, .. }) = completion.result {
                self.open.push(qd);
            }
            found.push(completion);
        }
        found
    }

    /// A counter of the libOS's.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.demi.counters().expect("no call is under way").libos;
        counters.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// All that are not zero.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = self.demi.counters().expect("no call is under way").libos;
        counters.into_iter().filter(|(_, value)| *value > 0).collect()
    }

    /// Closes everything; time passes until nothing of it is left.
    ///
    /// # Panics
    /// If something stays for good: a connection, an operation, a buffer.
    #[track_caller]
    pub fn end(mut self) {
        self.stick(false);
        while !self.open.is_empty() {
            for qd in std::mem::take(&mut self.open) {
                self.demi.close(qd).expect("it is open");
            }
            self.reap();
        }
        // The longest of all that ends by itself: TIME-WAIT behind the time that linger takes.
        let end = self.now() + Duration::from_secs(900);
        loop {
            self.settle();
            self.take();
            self.reap();
            if self.next_deadline().is_none_or(|at| at > end) {
                break;
            }
            self.to_deadline();
        }
        assert_eq!(self.counter("tcp_connections"), 0, "{:?}", self.counters());
        let counters = self.demi.counters().expect("no call is under way");
        assert_eq!((counters.operations_pending, counters.stale_posts), (0, 0));
        assert_eq!(counters.heap.objects_live, 0, "buffers are held: {:?}", self.counters());
    }
}

fn buffer(heap: &Heap, bytes: &[u8], room: usize) -> Option<demi_api::Buf> {
    let mut buf = heap.alloc(bytes.len().max(room)).ok()?;
    buf[..bytes.len()].copy_from_slice(bytes);
    Some(buf.freeze().slice(..bytes.len()))
}

impl Queue for Nic {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, _cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let arriving = &mut self.cable.borrow_mut().arriving;
        let count = arriving.len().min(BURST);
        inbox.extend(arriving.drain(..count));
        count
    }

    fn tx_burst(&mut self, _cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let mut cable = self.cable.borrow_mut();
        if cable.stuck {
            return 0;
        }
        let count = outbox.len();
        for frame in outbox.drain(..) {
            assert_eq!(frame.checksum, Checksum::Unknown, "the NIC completes no checksums");
            assert!(frame.data.segments().iter().all(|segment| !segment.is_empty()), "an empty segment");
            cable.leaving.push_back(frame.data.to_vec());
        }
        count
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.quiet.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        self.cable.borrow().arriving.is_empty()
    }

    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}
}

/// The instance's address of the same version, and the neighbour's.
pub fn pair(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (HOST6.into(), PEER6.into()) } else { (HOST4.into(), PEER4.into()) }
}

/// An answer to a question for the neighbour's Ethernet address, if the frame is one.
pub fn introduce(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = &frame[14..];
    match u16::from_be_bytes([frame[12], frame[13]]) {
        packet::kind::ARP if packet[7] == 1 && packet[24..28] == PEER4.octets() => {
            Some(arp(2, PEER_MAC, PEER4))
        }
        packet::kind::IPV6 => {
            let Some(Sent { protocol: packet::protocol::ICMP6, payload, .. }) = sound(frame, MTU) else {
                return None;
            };
            (payload[0] == 135 && payload.get(8..24)? == PEER6.octets()).then(|| advertise(PEER_MAC, PEER6))
        }
        _ => None,
    }
}

/// An ARP message to the instance, of operation 1 or 2, that says who has `addr`.
pub fn arp(operation: u8, mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    message.extend(mac);
    message.extend(addr.octets());
    message.extend(if operation == 1 { [0; 6] } else { MAC });
    message.extend(HOST4.octets());
    packet::ethernet(MAC, mac, packet::kind::ARP, &message)
}

/// A neighbour advertisement to the instance that says who has `addr`.
pub fn advertise(mac: Mac, addr: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(addr.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let (kind, packet) = packet::ip(addr.into(), HOST6.into(), packet::protocol::ICMP6, &message);
    packet::ethernet(MAC, mac, kind, &packet)
}
