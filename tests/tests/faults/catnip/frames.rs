//! Faults of what is taken from the wire and put on it.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::time::Clock;
use demi_api::{Config, Demikernel, Domain, QDesc, SocketKind};
use demi_libos_catnip::Catnip;
use demi_libos_catnip::device::memif::{Memif, MemifConfig, Role};
use demi_libos_catnip::device::{DeviceCx, Queue};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    TcpControl,
};

use super::wire::{MACS, Sent};
use super::{FAR, NEAR, World, pattern};

/// Fault 7: frames for another station's address were warned about, and kept.
///
/// A datagram that has arrived comes again, for another station: it must be counted and go nowhere. A third copy, for
/// this one, shows that nothing else was wrong with it.
#[test]
fn fault_07_frames_for_another_station_are_dropped() {
    let world = World::new();
    let socket = |place: usize, port| {
        let qd = world.host(place).socket(Domain::Inet, SocketKind::Datagram).unwrap();
        let addr = SocketAddr::from(([10, 0, 0, place as u8 + 1], port));
        world.host(place).bind(qd, addr).unwrap();
        (qd, addr)
    };
    let ((near, _), (far, addr)) = (socket(NEAR, 7), socket(FAR, 7));
    let pop = || world.host(FAR).pop(far).unwrap();
    let push = world.host(NEAR).push_to(near, world.host(NEAR).copy_from(b"for you").unwrap(), addr).unwrap();
    let first = pop();
    assert_eq!(world.wait(FAR, first).popped().unwrap().to_vec(), b"for you");
    world.wait(NEAR, push).pushed().unwrap();
    let is_it = |sent: &&Sent| sent.bytes.ends_with(b"for you");
    let original = world.net.borrow().log.iter().find(is_it).expect("it was sent").bytes.clone();
    assert_eq!(original[..6], MACS[FAR]);
    let second = pop();
    let inject = |mac: [u8; 6]| {
        let bytes = [&mac, &original[6..]].concat();
        world.net.borrow_mut().inject(FAR, world.clock.now(), bytes);
        world.host(FAR).poll().unwrap();
    };
    let foreign = world.counter(FAR, "ip_foreign");
    for mac in [[2, 0, 0, 0, 0, 3], MACS[NEAR], [0; 6]] {
        inject(mac);
        assert!(world.take(FAR, second).is_none(), "a datagram for {mac:x?} was delivered");
    }
    assert_eq!(world.counter(FAR, "ip_foreign") - foreign, 3, "they are counted");
    inject(MACS[FAR]);
    assert_eq!(world.take(FAR, second).expect("this one is for us").popped().unwrap().to_vec(), b"for you");
}

/// Fault 8: the secret of initial sequence numbers was constant in production.
///
/// Instances as an application makes them, all alike, connect from the same port to the same peer. RFC 6528: only the
/// secret, and a clock of 4 µs, makes their numbers differ. With the fault they lie within the few seconds that the test
/// takes, some millions apart.
#[test]
fn fault_08_instances_do_not_share_their_secret() {
    let numbers: Vec<u32> = (0..6).map(|_| first_number_in_production()).collect();
    assert!(spread(&numbers) > 1 << 28, "the numbers of instances that know no secret: {numbers:x?}");
}

/// Fault 8, inside one instance: who sees the number of one connection does not know that of the next.
#[test]
fn fault_08_numbers_of_one_connection_tell_nothing_of_another() {
    let numbers = |seeds: [u64; 2]| -> Vec<u32> {
        let world = World::with_seeds(seeds);
        for port in 5000..5016 {
            let qd = bound(&world, port);
            world.host(NEAR).connect(qd, SocketAddr::from(([10, 0, 0, 2], 80))).unwrap();
        }
        world.pass(Duration::from_millis(20));
        let net = world.net.borrow();
        net.segments(NEAR).filter(|segment| segment.control == TcpControl::Syn).map(|syn| syn.seq).collect()
    };
    let [one, other] = [numbers([1, 2]), numbers([3, 2])];
    assert_eq!([one.len(), other.len()], [16, 16]);
    assert!(spread(&one) > 1 << 28, "ports: {one:x?}");
    // At the same time, from the same ports: what differs is the secret, and not by the same from port to port.
    let between: Vec<u32> = one.iter().zip(&other).map(|(one, other)| one.wrapping_sub(*other)).collect();
    assert!(spread(&between) > 1 << 28, "secrets: {between:x?}");
}

/// Fault 12: a transmit burst that failed, as a whole or in part, dropped frames and leaked them.
///
/// The device takes none, or one, or a few frames at a time, of both hosts. With the fault, what it did not take is sent
/// again after a time, or its buffers are missing in the end.
#[test]
fn fault_12_what_a_device_does_not_take_is_kept() {
    let patterns: [&[usize]; 4] = [&[0, 1], &[0, 0, 0, 3], &[1, 0, 2, 0, 5], &[0, 7, 0, 0, 0, 0, 0, 0, 40]];
    for rooms in patterns {
        let world = World::new();
        let mut turn = 0;
        world.net.borrow_mut().room = Some(Box::new(move || {
            turn += 1;
            rooms[turn % rooms.len()]
        }));
        let [near, far] = world.connected();
        let bytes = pattern(2 << 20);
        let [there, back] =
            [(NEAR, near), (FAR, far)].map(|(at, qd)| world.push(at, qd, &bytes[..bytes.len() / 2]));
        for (at, qd) in [(FAR, far), (NEAR, near)] {
            assert!(world.read(at, qd, bytes.len() / 2) == bytes[..bytes.len() / 2], "bytes of {rooms:?}");
        }
        world.wait(NEAR, there).pushed().unwrap();
        world.wait(FAR, back).pushed().unwrap();
        for at in [NEAR, FAR] {
            let lost = ["tcp_retransmitted", "tcp_recoveries", "tcp_timeouts"];
            let lost = lost.map(|name| world.counter(at, name));
            assert_eq!(lost, [0; 3], "with room for {rooms:?} frames, in turn: {:?}", world.counters());
        }
        world.assert_no_leak();
    }
}

/// Fault 12, to the end: a device that takes nothing any more keeps nothing either, once its host is gone.
#[test]
fn fault_12_a_dead_device_leaks_nothing() {
    let world = World::new();
    let [near, _far] = world.connected();
    world.net.borrow_mut().room = Some(Box::new(|| 0));
    let push = world.push(NEAR, near, &pattern(1 << 20));
    world.pass(Duration::from_secs(30));
    assert!(world.take(NEAR, push).is_none(), "nothing can have been acknowledged");
    world.assert_no_leak();
}

/// How far the nearest number is at least from all others, on the circle that they lie on: its greatest gap's rest.
fn spread(numbers: &[u32]) -> u32 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let next = sorted.iter().cycle().skip(1);
    let widest = sorted.iter().zip(next).map(|(one, next)| next.wrapping_sub(*one)).max().unwrap_or(0);
    0_u32.wrapping_sub(widest)
}

fn bound(world: &World, port: u16) -> QDesc {
    let qd = world.host(NEAR).socket(Domain::Inet, SocketKind::Stream).unwrap();
    world.host(NEAR).bind(qd, SocketAddr::from(([10, 0, 0, 1], port))).unwrap();
    qd
}

/// The sequence number of the first SYN of a new instance, whose peer is played with the other end of its memif.
fn first_number_in_production() -> u32 {
    let socket = format!("@demi-faults-{}-{:x}", std::process::id(), fastrand::u64(..));
    let heap = Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).unwrap();
    let server = MemifConfig { socket: socket.clone().into(), role: Role::Server, ..MemifConfig::default() };
    let mut peer = Memif::open(&server).unwrap();
    let text = format!(
        "[heap]\nsize_mib = 4\nlock = false\n[catnip.ip]\naddresses = [\"10.0.0.1/24\"]\n\
         [catnip.device]\nkind = \"memif\"\nsocket = \"{socket}\"\n"
    );
    let demi = Demikernel::<Catnip>::new(&Config::parse(&text, "faults").unwrap()).unwrap();
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(qd, SocketAddr::from(([10, 0, 0, 1], 5000))).unwrap();
    let clock = Clock::start();
    let mut inbox = Vec::new();
    let mut connect = None;
    while clock.now().as_nanos() < super::super::LIMIT.as_nanos() as u64 {
        demi.poll().unwrap();
        let cx = DeviceCx { heap: &heap, now: clock.now() };
        peer.rx_burst(&cx, &mut inbox);
        if peer.is_up() && connect.is_none() {
            connect = Some(demi.connect(qd, SocketAddr::from(([10, 0, 0, 2], 80))).unwrap());
        }
        for frame in inbox.drain(..) {
            let sent = Sent { from: NEAR, at: cx.now, bytes: frame.data.to_vec(), lost: false };
            if let Some(syn) = sent.segment() {
                return syn.seq;
            }
            if let Some(answer) = answer(&sent.bytes) {
                let frame = demi_libos_catnip::device::Frame::new(heap.copy_from(&answer).unwrap().into());
                peer.tx_burst(&cx, &mut [frame].into());
            }
        }
    }
    panic!("no SYN came");
}

/// Where 10.0.0.2 is, to whoever asks for it by ARP.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(question).ok()?;
    let arp = (frame.ethertype() == EthernetProtocol::Arp)
        .then(|| ArpPacket::new_checked(frame.payload()))?
        .ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&arp).ok()?
    else {
        return None;
    };
    if target_protocol_addr.octets() != [10, 0, 0, 2] {
        return None;
    }
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(MACS[FAR]),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(MACS[FAR]),
        dst_addr: source_hardware_addr,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + answer.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    answer.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(bytes)
}
