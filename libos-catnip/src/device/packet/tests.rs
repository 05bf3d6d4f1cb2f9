//! AF_PACKET for real: over a pair of veth interfaces in a network of its own.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;

use super::super::Checksum;
use super::super::kernel::namespace::{Bench, counter, in_namespace, ip, readable};
use super::*;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// The kernel's address, on `b`, and ours, on `a`.
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// A pair of interfaces, `a` and `b`, with these addresses.
fn make_pair(mtu: usize) {
    ip("link add name a type veth peer name b");
    for (name, mac) in [("a", "02:00:00:00:00:0a"), ("b", "02:00:00:00:00:0b")] {
        ip(&format!("link set dev {name} address {mac} mtu {mtu} up"));
    }
}

fn named(interface: &str) -> PacketConfig {
    PacketConfig { interface: interface.to_owned(), ..PacketConfig::default() }
}

/// A frame of `len` bytes, which it is filled from, in as many segments.
fn frame(heap: &Heap, from: [u8; 6], to: [u8; 6], len: usize, segments: usize) -> Frame {
    let mut bytes: Vec<u8> = (0..len).map(|n| (n * 31 + len) as u8).collect();
    let header = [&to[..], &from, &ETHERTYPE].concat();
    bytes[..14].copy_from_slice(&header);
    let cut = bytes.chunks(len.div_ceil(segments)).map(|part| heap.copy_from(part).unwrap());
    Frame::new(cut.collect())
}

fn is_ours(frame: &Frame) -> bool {
    frame.data.segments()[0][12..14] == ETHERTYPE
}

fn send(bench: &Bench, device: &mut Packet, mut outbox: VecDeque<Frame>) -> VecDeque<Frame> {
    let cx = DeviceCx { heap: &bench.heap, now: bench.clock.now() };
    let before = outbox.len();
    let taken = device.tx_burst(&cx, &mut outbox);
    assert_eq!(taken, before - outbox.len());
    outbox
}

#[test]
fn frames_of_every_size_cross_intact_and_in_order() {
    for mtu in [1500, 9000] {
        in_namespace(&format!("packet: frames of every size up to {mtu}"), move || {
            make_pair(mtu);
            let mut bench = Bench::new();
            let mut a = Packet::open(&named("a")).unwrap();
            let mut b = Packet::open(&named("b")).unwrap();
            assert_eq!((a.caps().mac, a.caps().mtu), (MAC_A, mtu));
            let (mut sent, mut len) = (0, 14);
            while sent < 10_000 {
                let (from, to, tx, rx) = if sent / 50 % 2 == 0 {
                    (MAC_A, MAC_B, &mut a, &mut b)
                } else {
                    (MAC_B, MAC_A, &mut b, &mut a)
                };
                let lens: Vec<usize> = (0..50).map(|n| 14 + (len - 14 + n) % (mtu + 1)).collect();
                len += 50;
                let heap = bench.heap.clone();
                let cut = |len: &usize| frame(&heap, from, to, *len, 1 + len % 8);
                let outbox: VecDeque<Frame> = lens.iter().map(cut).collect();
                let expected: Vec<Vec<u8>> = outbox.iter().map(|frame| frame.data.to_vec()).collect();
                let mut left = send(&bench, tx, outbox);
                bench.inbox.clear();
                while !left.is_empty() || bench.inbox.len() < expected.len() {
                    left = send(&bench, tx, left);
                    bench.receive_all(rx, expected.len() - left.len());
                    bench.inbox.retain(is_ours);
                }
                for (found, expected) in bench.inbox.iter().zip(&expected) {
                    assert!(found.data == expected[..], "{} bytes", expected.len());
                }
                sent += expected.len();
            }
            bench.inbox.clear();
            for device in [&a, &b] {
                for name in ["full", "memory", "truncated", "vlan", "aggregate"] {
                    assert_eq!(counter(device, &format!("packet_rx_dropped_{name}")), 0, "{name}");
                }
                assert_eq!(counter(device, "packet_tx_frames"), 5000);
                assert_eq!(counter(device, "packet_rx_large"), 0);
            }
            assert_eq!(bench.heap.stats().objects_live, 0);
        });
    }
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    in_namespace("packet: a full ring", || {
        make_pair(1500);
        let mut bench = Bench::new();
        let mut a = Packet::open(&named("a")).unwrap();
        let mut b = Packet::open(&PacketConfig { ring_frames: 64, ..named("b") }).unwrap();
        for _ in 0..3 {
            let outbox: VecDeque<Frame> = (0..100).map(|_| frame(&bench.heap, MAC_A, MAC_B, 60, 1)).collect();
            assert!(send(&bench, &mut a, outbox).is_empty());
            bench.inbox.clear();
            bench.receive_all(&mut b, 64);
            assert_eq!((bench.receive(&mut b), bench.inbox.len()), (0, 64));
        }
        assert_eq!(counter(&b, "packet_rx_dropped_full"), 3 * 36);
        assert_eq!(counter(&b, "packet_rx_dropped_full"), 3 * 36, "asking again does not forget");
        // Without memory frames are lost, as with a NIC, and the ring goes on.
        bench.inbox.clear();
        let heap = bench.heap.clone();
        send(&bench, &mut a, VecDeque::from([frame(&heap, MAC_A, MAC_B, 60, 1)]));
        let full: Vec<_> = [1 << 20, 128 << 10, 64]
            .into_iter()
            .flat_map(|size| std::iter::from_fn(|| heap.alloc(size).ok()).collect::<Vec<_>>())
            .collect();
        assert!(readable(&b, Duration::from_secs(5)));
        assert_eq!(bench.receive(&mut b), 0);
        assert_eq!(counter(&b, "packet_rx_dropped_memory"), 1);
        drop(full);
        send(&bench, &mut a, VecDeque::from([frame(&heap, MAC_A, MAC_B, 60, 1)]));
        bench.receive_all(&mut b, 1);
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn sleep_ends_when_a_frame_comes_and_lasts_when_the_link_is_gone() {
    in_namespace("packet: sleep and wake", || {
        make_pair(1500);
        let mut bench = Bench::new();
        let mut a = Packet::open(&named("a")).unwrap();
        let mut b = Packet::open(&named("b")).unwrap();
        while bench.receive(&mut b) > 0 || bench.sleep(&mut b, Duration::from_millis(50)) {}
        let cx = DeviceCx { heap: &bench.heap.clone(), now: bench.clock.now() };
        assert!(b.arm(&cx) && !readable(&b, Duration::ZERO));
        let heap = bench.heap.clone();
        send(&bench, &mut a, VecDeque::from([frame(&heap, MAC_A, MAC_B, 60, 1)]));
        assert!(readable(&b, Duration::from_secs(5)) && !b.arm(&cx));
        bench.inbox.clear();
        bench.receive_all(&mut b, 1);
        assert!(b.arm(&cx) && !readable(&b, Duration::ZERO));
        ip("link set dev b down");
        assert!(readable(&b, Duration::from_secs(5)), "the error shows");
        assert!(b.arm(&cx) && !readable(&b, Duration::ZERO), "once it is taken, sleep is quiet");
        assert_eq!(counter(&b, "packet_link_errors"), 1);
        let left = send(&bench, &mut b, VecDeque::from([frame(&heap, MAC_B, MAC_A, 60, 1)]));
        assert!(left.is_empty() && counter(&b, "packet_tx_failed") == 1);
        ip("link set dev b up");
        bench.inbox.clear();
        // The other end learns of it a little later.
        for _ in 0..100 {
            send(&bench, &mut a, VecDeque::from([frame(&heap, MAC_A, MAC_B, 60, 1)]));
            bench.sleep(&mut b, Duration::from_millis(50));
            if bench.receive(&mut b) > 0 {
                break;
            }
        }
        assert!(!bench.inbox.is_empty(), "frames come again");
        bench.inbox.clear();
        ip("link del dev a");
        while bench.receive(&mut b) > 0 {}
        assert!(
            b.arm(&cx) && b.arm(&cx) && !readable(&b, Duration::from_millis(50)),
            "gone for good, and quiet"
        );
        let left = send(&bench, &mut b, VecDeque::from([frame(&heap, MAC_B, MAC_A, 60, 1)]));
        assert!(left.is_empty() && counter(&b, "packet_tx_failed") == 2);
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn a_foreign_address_is_received_and_others_are_not() {
    in_namespace("packet: addresses of our own", || {
        make_pair(1500);
        let mut bench = Bench::new();
        let heap = bench.heap.clone();
        let mut a = Packet::open(&named("a")).unwrap();
        let own = [2, 0, 0, 0, 0, 0xc];
        let mut b = Packet::open(&PacketConfig { mac: Some(own), ..named("b") }).unwrap();
        assert_eq!(b.caps().mac, own);
        let group = [0x33, 0x33, 0, 0, 0, 0x55];
        let outbox = [MAC_B, own, [0xff; 6], group, [2, 0, 0, 0, 0, 0xd]];
        let outbox = outbox.into_iter().map(|to| frame(&heap, MAC_A, to, 60, 1)).collect();
        assert!(send(&bench, &mut a, outbox).is_empty());
        bench.receive_all(&mut b, 3);
        bench.sleep(&mut b, Duration::from_millis(50));
        bench.receive(&mut b);
        let to: Vec<[u8; 6]> = bench
            .inbox
            .drain(..)
            .filter(is_ours)
            .map(|frame| *frame.data.segments()[0].first_chunk().unwrap())
            .collect();
        assert_eq!(to, [own, [0xff; 6], group]);
        // What we send ourselves does not come back.
        send(&bench, &mut b, VecDeque::from([frame(&heap, own, MAC_A, 60, 1)]));
        bench.sleep(&mut b, Duration::from_millis(50));
        assert_eq!(bench.receive(&mut b), 0);
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

/// The kernel on `b`, which takes our address to be behind `a`.
fn with_kernel(mtu: usize) -> (Bench, Packet) {
    make_pair(mtu);
    ip(&format!("addr add {KERNEL}/24 dev b"));
    ip(&format!("neigh add {OURS} lladdr 02:00:00:00:00:0a dev b nud permanent"));
    let config = PacketConfig { addresses: vec![OURS.into()], ..named("a") };
    (Bench::new(), Packet::open(&config).unwrap())
}

/// The next frame of that IP protocol.
fn receive_ip(bench: &mut Bench, device: &mut Packet, protocol: u8) -> Frame {
    loop {
        bench.receive_all(device, 1);
        let frame = bench.inbox.remove(0);
        if frame.data.segments()[0][12..14] == [8, 0] && frame.data.segments()[0][23] == protocol {
            return frame;
        }
    }
}

/// Turns a received packet into one that goes back.
fn turn_around(bytes: &mut [u8]) {
    let (to, from) = bytes[..12].split_at_mut(6);
    to.swap_with_slice(from);
    let (from, to) = bytes[26..34].split_at_mut(4);
    from.swap_with_slice(to);
    let (from, to) = bytes[34..38].split_at_mut(2);
    from.swap_with_slice(to);
}

#[test]
fn checksums_that_the_kernel_leaves_out_are_recognized_and_left_out_in_turn() {
    in_namespace("packet: partial checksums", || {
        let (mut bench, mut a) = with_kernel(1500);
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        socket.connect((OURS, 7)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for len in [0, 1, 100, 1472] {
            let sent = vec![len as u8; len];
            socket.send(&sent).unwrap();
            let frame = receive_ip(&mut bench, &mut a, 17);
            assert_eq!(frame.checksum, Checksum::Partial { start: 34, at: 40 });
            let mut bytes = frame.data.to_vec();
            assert!(bytes[42..] == sent);
            turn_around(&mut bytes);
            let data = SgArray::copy_from(&bench.heap, &bytes).unwrap();
            let reply = Frame { data, checksum: frame.checksum };
            assert!(send(&bench, &mut a, VecDeque::from([reply])).is_empty());
            let mut back = [0; 2000];
            let got = socket.recv(&mut back).unwrap();
            assert!(back[..got] == sent);
        }
        bench.inbox.clear();
        assert_eq!(bench.heap.stats().objects_live, 0);
    });
}

#[test]
fn segments_that_the_kernel_aggregates_arrive_whole() {
    in_namespace("packet: frames above the MTU", || {
        let (mut bench, mut a) = with_kernel(1500);
        // Others let the measured time decide how much goes in one piece.
        std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
        let connecting = std::thread::spawn({
            let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            move || {
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .unwrap();
                TcpStream::connect((OURS, 7)).unwrap()
            }
        });
        // A SYN becomes a SYN-ACK (RFC 9293 §3.5) with the largest window and an MSS of 1460.
        let mut bytes = receive_ip(&mut bench, &mut a, 6).data.to_vec();
        turn_around(&mut bytes);
        let theirs = u32::from_be_bytes(bytes[38..42].try_into().unwrap());
        bytes.truncate(58);
        bytes[16..18].copy_from_slice(&44_u16.to_be_bytes());
        bytes[24..26].fill(0);
        let sum: u32 =
            bytes[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        bytes[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        bytes[38..42].copy_from_slice(&1000_u32.to_be_bytes());
        bytes[42..46].copy_from_slice(&(theirs.wrapping_add(1)).to_be_bytes());
        bytes[46..58].copy_from_slice(&[6 << 4, 0x12, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        // The pseudo-header's sum; the rest is left to the device.
        let pseudo: u32 =
            bytes[26..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let pseudo = pseudo + 6 + 24;
        bytes[50..52].copy_from_slice(&(((pseudo & 0xffff) + (pseudo >> 16)) as u16).to_be_bytes());
        let data = SgArray::copy_from(&bench.heap, &bytes).unwrap();
        let reply = Frame { data, checksum: Checksum::Partial { start: 34, at: 50 } };
        send(&bench, &mut a, VecDeque::from([reply]));
        let mut stream = connecting.join().unwrap();

        let sent: Vec<u8> = (0..14_000).map(|n| (n * 13) as u8).collect();
        std::io::Write::write_all(&mut stream, &sent).unwrap();
        // Nobody acknowledges, so some of it may come more than once: each byte goes where its number says.
        let mut received = vec![None; sent.len()];
        while received.contains(&None) {
            let frame = receive_ip(&mut bench, &mut a, 6);
            let bytes = frame.data.to_vec();
            assert_eq!(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])), bytes.len() - 14);
            assert!(
                matches!(frame.checksum, Checksum::Partial { start: 34, at: 50 }),
                "{:?}",
                frame.checksum
            );
            let number = u32::from_be_bytes(bytes[38..42].try_into().unwrap());
            let begin = number.wrapping_sub(theirs.wrapping_add(1)) as usize;
            let data = &bytes[34 + usize::from(bytes[46] >> 4) * 4..];
            let places = received.iter_mut().skip(begin).zip(data);
            places.for_each(|(place, byte)| *place = Some(*byte));
        }
        assert!(received.into_iter().map(Option::unwrap).eq(sent));
        assert!(counter(&a, "packet_rx_large") > 0, "the kernel has sent more than an MTU at once");
        assert_eq!(counter(&a, "packet_rx_dropped_truncated"), 0);
        bench.inbox.clear();
        assert_eq!(bench.heap.stats().objects_live, 0);
    });
}

/// Receivers of an interface whose MTU was raised behind them: 1500 when they were opened, 9000 now.
fn outgrown(large_bytes: usize) -> (Bench, Packet, Packet) {
    make_pair(1500);
    let b = Packet::open(&PacketConfig { large_bytes, ..named("b") }).unwrap();
    ip("link set dev a mtu 9000");
    ip("link set dev b mtu 9000");
    (Bench::new(), Packet::open(&named("a")).unwrap(), b)
}

#[test]
fn frames_longer_than_a_slot_keep_their_place_among_the_others() {
    in_namespace("packet: frames longer than a slot", || {
        let (mut bench, mut a, mut b) = outgrown(4 << 20);
        let heap = bench.heap.clone();
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..100 {
            let lens: Vec<usize> =
                (0..40).map(|_| if rng.bool() { rng.usize(14..9015) } else { 60 }).collect();
            let outbox = lens.iter().map(|len| frame(&heap, MAC_A, MAC_B, *len, 3)).collect();
            assert!(send(&bench, &mut a, outbox).is_empty());
            bench.inbox.clear();
            while bench.inbox.len() < lens.len() {
                bench.receive_all(&mut b, lens.len());
                bench.inbox.retain(is_ours);
            }
            for (found, len) in bench.inbox.iter().zip(&lens) {
                let expected = frame(&heap, MAC_A, MAC_B, *len, 1);
                assert!(
                    found.data == expected.data.to_vec()[..],
                    "round {round}: {} for {len}",
                    found.data.len()
                );
            }
        }
        assert!(counter(&b, "packet_rx_large") > 1000);
        assert_eq!(counter(&b, "packet_rx_dropped_truncated"), 0);
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn large_frames_without_room_or_memory_are_lost_and_no_others() {
    in_namespace("packet: large frames without room", || {
        let (mut bench, mut a, mut b) = outgrown(0);
        let heap = bench.heap.clone();
        let outbox = (0..60).map(|n| frame(&heap, MAC_A, MAC_B, if n % 2 == 0 { 9014 } else { 60 }, 1));
        assert!(send(&bench, &mut a, outbox.collect()).is_empty());
        let small = |bench: &Bench| {
            bench.inbox.iter().filter(|frame| is_ours(frame) && frame.data.len() == 60).count()
        };
        while small(&bench) < 30 {
            let some = bench.inbox.len() + 1;
            bench.receive_all(&mut b, some);
        }
        let lost = counter(&b, "packet_rx_dropped_truncated");
        assert_eq!(lost + counter(&b, "packet_rx_large"), 30);
        assert!(lost >= 20, "{lost}");
        assert!(bench.inbox.iter().all(|found| [60, 9014].contains(&found.data.len()) || !is_ours(found)));
        bench.inbox.clear();

        // One that there is no memory for leaves the socket's buffer all the same.
        let sent = frame(&heap, MAC_A, MAC_B, 9014, 8);
        let kept = sent.data.clone();
        let full: Vec<_> = std::iter::from_fn(|| heap.alloc(8000).ok()).collect();
        assert!(send(&bench, &mut a, VecDeque::from([sent])).is_empty());
        while counter(&b, "packet_rx_dropped_memory") == 0 {
            assert!(bench.sleep(&mut b, Duration::from_secs(5)));
            bench.receive(&mut b);
        }
        drop((full, kept));
        let cx = DeviceCx { heap: &heap, now: bench.clock.now() };
        assert!(b.arm(&cx) && !readable(&b, Duration::ZERO));
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn a_socket_out_of_step_with_its_ring_finds_back() {
    in_namespace("packet: out of step", || {
        let (mut bench, mut a, mut b) = outgrown(4 << 20);
        let heap = bench.heap.clone();
        let long = |len| frame(&heap, MAC_A, MAC_B, len, 1);
        assert!(send(&bench, &mut a, VecDeque::from([long(5000), long(6000), long(7000)])).is_empty());
        assert!(readable(&b, Duration::from_secs(5)));
        // A frame is gone from the socket's buffer; then a slot from the ring.
        read_large(&b.fd, &mut []).unwrap();
        while !b.arm(&DeviceCx { heap: &heap, now: bench.clock.now() }) {
            bench.receive(&mut b);
        }
        assert!(!b.astray && !readable(&b, Duration::ZERO), "nothing is left behind");
        assert!(bench.inbox.iter().all(|frame| !is_ours(frame)));
        assert!(send(&bench, &mut a, VecDeque::from([long(5000), long(60), long(7000)])).is_empty());
        bench.inbox.clear();
        while bench.inbox.len() < 3 {
            bench.receive_all(&mut b, 3);
            bench.inbox.retain(is_ours);
        }
        assert_eq!(bench.inbox.iter().map(|frame| frame.data.len()).collect::<Vec<_>>(), [5000, 60, 7000]);
        bench.inbox.clear();
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn frames_of_a_vlan_are_another_networks() {
    in_namespace("packet: VLANs", || {
        make_pair(1500);
        let mut bench = Bench::new();
        let heap = bench.heap.clone();
        let mut a = Packet::open(&PacketConfig { mtu: Some(1400), ..named("a") }).unwrap();
        let mut b = Packet::open(&named("b")).unwrap();
        let tagged = |tag: u8| {
            let plain = frame(&heap, MAC_A, MAC_B, 100, 1).data.to_vec();
            let bytes = [&plain[..12], &[0x81, 0, 0xe0, tag], &plain[12..]].concat();
            Frame::new(SgArray::copy_from(&heap, &bytes).unwrap())
        };
        send(&bench, &mut a, VecDeque::from([tagged(7), tagged(0), frame(&heap, MAC_A, MAC_B, 60, 1)]));
        let mut lens = Vec::new();
        while lens.last() != Some(&60) {
            bench.receive_all(&mut b, 1);
            lens.extend(bench.inbox.drain(..).filter(is_ours).map(|frame| frame.data.len()));
        }
        assert_eq!((lens, counter(&b, "packet_rx_dropped_vlan")), (vec![100, 60], 1));
        assert_eq!(heap.stats().objects_live, 0);
    });
}

#[test]
fn what_cannot_be_opened_or_sent_is_refused_with_reasons() {
    in_namespace("packet: refusals", || {
        make_pair(1500);
        let says = |config: PacketConfig, text: &str| {
            let error = Packet::open(&config).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(named("nowhere"), "ip link");
        says(named("lo"), "no Ethernet");
        says(PacketConfig { ring_frames: 100, ..named("a") }, "power of two");
        says(PacketConfig { mtu: Some(1501), ..named("a") }, "out of range");
        says(PacketConfig { mtu: Some(67), ..named("a") }, "out of range");
        says(PacketConfig { mac: Some([0; 6]), ..named("a") }, "of a single station");
        says(PacketConfig { addresses: vec![OURS.into(); 65], ..named("a") }, "at most 64");
        ip("link set dev b down");
        says(named("b"), "ip link set b up");

        let bench = Bench::new();
        let heap = bench.heap.clone();
        let mut a = Packet::open(&named("a")).unwrap();
        let plain = |len| Frame::new(heap.alloc(len).unwrap().into());
        let mut bad = frame(&heap, MAC_A, MAC_B, 60, 1);
        bad.checksum = Checksum::Partial { start: 0, at: 2 };
        let outbox = [plain(13), plain(1515), bad, Frame::new(SgArray::new())];
        assert!(send(&bench, &mut a, outbox.into()).is_empty());
        assert_eq!((counter(&a, "packet_tx_rejected"), counter(&a, "packet_tx_frames")), (4, 0));
        assert_eq!(heap.stats().objects_live, 0);
    });
}
