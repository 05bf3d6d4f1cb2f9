//! TAP for real: the kernel on the other end, in a network of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant as Wall};

use demi_api::sga::SgArray;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with,
};

use super::super::Checksum;
use super::super::kernel::link::Links;
use super::super::kernel::namespace::{Bench, counter, in_namespace, ip, readable, skip};
use super::*;

const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

fn open_tap(mtu: usize) -> Tap {
    let addresses = vec![(IpAddr::from(KERNEL), 24)];
    Tap::open(&TapConfig { mtu: Some(mtu), addresses, ..TapConfig::default() }).unwrap()
}

/// Stations behind a device that answer ARP and echo requests, and send datagrams back to their ports.
struct Responder {
    tap: Tap,
    bench: Bench,
    /// Datagrams and what their frames said of their checksums.
    datagrams: Vec<(Vec<u8>, Checksum)>,
}

impl Responder {
    fn new(tap: Tap) -> Responder {
        Responder { tap, bench: Bench::new(), datagrams: Vec::new() }
    }

    /// Answers what has come; returns how much that was.
    fn turn(&mut self) -> usize {
        let count = self.bench.receive(&mut self.tap);
        let frames = std::mem::take(&mut self.bench.inbox);
        let replies = frames.into_iter().filter_map(|frame| self.reply(&frame)).collect();
        self.send(replies);
        count
    }

    fn reply(&mut self, frame: &Frame) -> Option<Frame> {
        let mut bytes = frame.data.to_vec();
        let mac = self.tap.caps.mac;
        bytes.copy_within(6..12, 0);
        bytes[6..12].copy_from_slice(&mac);
        match (&bytes[12..14], bytes.get(23)) {
            // A request for our address becomes the answer (RFC 826).
            ([8, 6], _) if bytes[20..22] == [0, 1] && bytes[38..42] == OURS.octets() => {
                bytes[21] = 2;
                bytes.copy_within(22..32, 32);
                bytes[22..28].copy_from_slice(&mac);
                bytes[28..32].copy_from_slice(&OURS.octets());
            }
            // An echo request likewise (RFC 792): its checksum changes by what its type does.
            ([8, 0], Some(1)) if bytes[34] == 8 => {
                swap_addresses(&mut bytes);
                bytes[34] = 0;
                let sum = u32::from(u16::from_be_bytes([bytes[36], bytes[37]])) + 0x0800;
                bytes[36..38].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
            }
            // A datagram goes back whence it came. Exchanging its ends leaves the pseudo-header's sum as it was.
            ([8, 0], Some(17)) => {
                self.datagrams.push((bytes[42..].to_vec(), frame.checksum));
                swap_addresses(&mut bytes);
                let (from, to) = bytes[34..38].split_at_mut(2);
                from.swap_with_slice(to);
            }
            _ => return None,
        }
        let mut data = SgArray::copy_from(&self.bench.heap, &bytes).unwrap();
        // In several segments, as a stack sends it.
        let head = data.split_to(14 + bytes.len() % 20);
        let data = head.into_segments().into_iter().chain(data.into_segments()).collect();
        Some(Frame { data, checksum: frame.checksum })
    }

    fn send(&mut self, mut outbox: VecDeque<Frame>) {
        let cx = DeviceCx { heap: &self.bench.heap, now: self.bench.clock.now() };
        self.tap.tx_burst(&cx, &mut outbox);
        assert!(outbox.is_empty());
    }

    /// Answers, asleep in between, until it is done.
    fn run(&mut self, mut done: impl FnMut(&mut Responder) -> bool) {
        let limit = Wall::now() + Duration::from_secs(15);
        while !done(self) {
            assert!(Wall::now() < limit, "the kernel does not answer");
            if self.turn() == 0 {
                self.bench.sleep(&mut self.tap, Duration::from_millis(10));
            }
        }
    }
}

fn swap_addresses(bytes: &mut [u8]) {
    let (from, to) = bytes[26..34].split_at_mut(4);
    from.swap_with_slice(to);
}

/// What is left after a test: no buffer but the spare.
fn assert_no_leak(responder: Responder) {
    let Responder { tap, bench, .. } = responder;
    assert!(bench.heap.stats().objects_live <= 1);
    drop((tap, bench.inbox));
    assert_eq!(bench.heap.stats().objects_live, 0);
}

#[test]
fn the_kernel_finds_us_by_arp_and_pings_us() {
    in_namespace("tap: ARP and ping", || {
        let mut responder = Responder::new(open_tap(1500));
        // An echo request by a socket of the kernel's, so that no program is needed.
        let kind = SocketFlags::NONBLOCK;
        let icmp = socket_with(AddressFamily::INET, SocketType::RAW, kind, Some(ipproto::ICMP)).unwrap();
        for n in 1..=3_u8 {
            let mut request = [8, 0, 0, 0, 0, 0, n, n, 1, 0];
            let sum: u32 =
                request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            request[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            sendto(&icmp, &request, SendFlags::empty(), &SocketAddr::from((OURS, 0))).unwrap();
            responder.run(|_| {
                let mut reply = [0; 128];
                matches!(recv(&icmp, &mut reply[..], RecvFlags::DONTWAIT), Ok((got, _))
                    if got == 30 && reply[20] == 0 && reply[26..28] == [n, n])
            });
        }
        match Command::new("ping")
            .args(["-c", "3", "-i", "0.2", "-W", "5", &OURS.to_string()])
            .stdout(Stdio::null())
            .spawn()
        {
            Ok(mut ping) => {
                responder.run(|_| ping.try_wait().unwrap().is_some());
                assert!(ping.wait().unwrap().success());
            }
            Err(error) => skip("tap: the ping program", &format!("{error}: install iputils-ping")),
        }
        assert_no_leak(responder);
    });
}

#[test]
fn frames_of_every_size_pass_both_ways() {
    for mtu in [68, 576, 1500, 9000] {
        in_namespace(&format!("tap: frames of every size up to {mtu}"), move || {
            let mut responder = Responder::new(open_tap(mtu));
            let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
            socket.connect((OURS, 7)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut back = vec![0; 10_000];
            let step = if mtu > 1500 { 7 } else { 1 };
            let mut sizes = 0;
            for len in (0..=mtu - 28).step_by(step).chain([mtu - 28]) {
                let sent: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
                socket.send(&sent).unwrap();
                let mut got = None;
                responder.run(|_| {
                    got = socket.recv(&mut back).ok();
                    got.is_some()
                });
                assert!(back[..got.unwrap()] == sent, "{len} bytes");
                let (seen, checksum) = responder.datagrams.pop().unwrap();
                assert!(seen == sent, "{len} bytes");
                assert_eq!(
                    checksum,
                    Checksum::Partial { start: 34, at: 40 },
                    "the kernel left the sum to us"
                );
                sizes += 1;
            }
            assert!(counter(&responder.tap, "tap_rx_frames") >= sizes);
            assert_eq!(counter(&responder.tap, "tap_rx_rejected"), 0);
            assert!(mtu < 1000 || counter(&responder.tap, "tap_rx_copied") < sizes);
            assert_no_leak(responder);
        });
    }
}

#[test]
fn sleep_ends_when_a_frame_comes() {
    in_namespace("tap: sleep and wake", || {
        let mut responder = Responder::new(open_tap(1500));
        // What the kernel says of itself when an interface comes up.
        while responder.turn() > 0 || responder.bench.sleep(&mut responder.tap, Duration::from_millis(50)) {}
        assert!(!readable(&responder.tap, Duration::ZERO));
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            socket.send_to(b"wake up", (OURS, 7)).unwrap();
        });
        let start = Wall::now();
        let cx = DeviceCx { heap: &responder.bench.heap, now: responder.bench.clock.now() };
        assert!(responder.tap.arm(&cx), "there is no work yet");
        assert!(readable(&responder.tap, Duration::from_secs(10)), "woken");
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert!(!responder.tap.arm(&cx), "there is work");
        later.join().unwrap();
        responder.run(|responder| !responder.datagrams.is_empty());
        assert_no_leak(responder);
    });
}

#[test]
fn frames_beyond_the_caps_are_dropped_and_counted() {
    in_namespace("tap: frames beyond the caps", || {
        let mut responder = Responder::new(open_tap(576));
        let heap = responder.bench.heap.clone();
        let frame = |len: usize, checksum| Frame { data: heap.alloc(len).unwrap().into(), checksum };
        let bad = Checksum::Partial { start: 34, at: 60 };
        let frames = [frame(13, Checksum::Unknown), frame(591, Checksum::Unknown), frame(61, bad)];
        responder.send(frames.into());
        responder.send([Frame::new(SgArray::new())].into());
        assert_eq!(counter(&responder.tap, "tap_tx_rejected"), 4);
        assert_eq!(counter(&responder.tap, "tap_tx_frames"), 0);
        assert_no_leak(responder);
    });
}

#[test]
fn frames_above_the_mtu_are_dropped_and_counted_when_somebody_raises_it() {
    in_namespace("tap: a raised MTU", || {
        let mut responder = Responder::new(open_tap(1500));
        ip(&format!("link set dev {} mtu 9000", responder.tap.name()));
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        for len in [1473, 8972, 1472] {
            socket.send_to(&vec![7; len], (OURS, 7)).unwrap();
        }
        responder.run(|responder| !responder.datagrams.is_empty());
        assert_eq!(responder.datagrams[0].0.len(), 1472);
        assert_eq!(counter(&responder.tap, "tap_rx_rejected"), 2);
        assert_no_leak(responder);
    });
}

#[test]
fn without_memory_frames_wait_in_the_kernel() {
    in_namespace("tap: out of memory", || {
        let mut responder = Responder::new(open_tap(1500));
        let heap = responder.bench.heap.clone();
        while responder.turn() > 0 {}
        responder.tap.spare = None;
        let full: Vec<_> = [1 << 20, 128 << 10, 1536, 64]
            .into_iter()
            .flat_map(|size| std::iter::from_fn(|| heap.alloc(size).ok()).collect::<Vec<_>>())
            .collect();
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        socket.send_to(b"patience", (OURS, 7)).unwrap();
        assert!(readable(&responder.tap, Duration::from_secs(5)));
        assert_eq!(responder.turn(), 0);
        assert!(counter(&responder.tap, "tap_rx_no_memory") > 0);
        drop(full);
        responder.run(|responder| !responder.datagrams.is_empty());
        drop(heap);
        assert_no_leak(responder);
    });
}

#[test]
fn an_interface_that_is_removed_lets_us_sleep() {
    in_namespace("tap: a removed interface", || {
        let mut responder = Responder::new(open_tap(1500));
        while responder.turn() > 0 {}
        ip(&format!("link del {}", responder.tap.name()));
        let cx = DeviceCx { heap: &responder.bench.heap.clone(), now: responder.bench.clock.now() };
        assert_eq!(responder.turn(), 0);
        assert!(responder.tap.arm(&cx) && responder.tap.arm(&cx));
        assert!(!readable(&responder.tap, Duration::from_millis(50)));
        assert_eq!(counter(&responder.tap, "tap_gone"), 1);
        let heap = responder.bench.heap.clone();
        responder.send([Frame::new(heap.alloc(60).unwrap().into())].into());
        assert_eq!(counter(&responder.tap, "tap_tx_failed"), 1);
        assert_no_leak(responder);
    });
}

#[test]
fn interfaces_are_made_attached_to_and_refused_with_reasons() {
    in_namespace("tap: making interfaces", || {
        let named = |name: &str| TapConfig { name: name.to_owned(), ..TapConfig::default() };
        let first = Tap::open(&TapConfig::default()).unwrap();
        let second = Tap::open(&TapConfig::default()).unwrap();
        assert!(first.name() != second.name() && first.name().starts_with("demi"), "{}", first.name());
        assert!(first.caps().mac != second.caps().mac && first.caps().mac[0] & 3 == 2);
        let says = |config: &TapConfig, text: &str| {
            let error = Tap::open(config).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(&named(first.name()), "another process has it");
        says(&named("lo"), "choose another name");
        says(&named("sixteen-letters!"), "at most 15 bytes");
        says(&TapConfig { mtu: Some(67), ..named("demi-a") }, "out of range");
        says(&TapConfig { mtu: Some(65522), ..named("demi-a") }, "out of range");
        says(
            &TapConfig { addresses: vec![(IpAddr::from(KERNEL), 33)], ..named("demi-a") },
            "length of its prefix",
        );
        says(
            &TapConfig { addresses: vec![("fd00::1".parse().unwrap(), 64)], ..named("demi-a") },
            "enable IPv6",
        );
        says(&TapConfig { mac: Some([1, 0, 0, 0, 0, 1]), ..named("demi-a") }, "of a single station");
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0");
        ip("tuntap add dev demi-p mode tap");
        for mtu in [1400, 9000] {
            let addresses = vec![(IpAddr::from(KERNEL), 24), ("fd00::1".parse().unwrap(), 64)];
            let config = TapConfig { mtu: Some(mtu), addresses, ..named("demi-p") };
            let tap = Tap::open(&config).unwrap();
            assert_eq!((tap.name(), tap.caps().mtu), ("demi-p", mtu));
            let link = Links::open().unwrap().find("demi-p").unwrap();
            assert!(link.up && link.mtu == mtu, "{link:?}");
            drop(tap);
            says(&TapConfig { mac: link.mac, ..named("demi-p") }, "that of the kernel's side");
        }
    });
}
