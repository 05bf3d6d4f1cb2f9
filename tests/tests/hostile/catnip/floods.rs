//! More of one thing than there is room for.

use std::net::Ipv4Addr;
use std::time::Duration;

use demi_api::SocketKind;
use demi_tests::fuzz::host::{HOST4, HOST6, Host, MAC, PEER_MAC, PEER4, advertise, arp};
use demi_tests::fuzz::packet::{self, Tcp, flag, kind, protocol};
use demi_tests::fuzz::talk::{OPTIONS, Talk};

use super::{Echo, accepted, held};

fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number % 131_072)
}

/// The first fragments of ever new packets, none of which is ever whole.
#[test]
fn fragments_that_never_become_a_packet_are_bounded() {
    let mut host = Host::plain(16);
    host.room = 2048;
    let mut echo = Echo::begin(&mut host, false, 4000);
    let mut most = 0;
    for number in 0..30_000_u32 {
        let offset = if number % 3 == 0 { 100 } else { 0 };
        let packet = if number % 2 == 0 {
            let field = 0x2000 | offset;
            (kind::IPV4, packet::ipv4(stranger(number), HOST4, protocol::UDP, number as u16, field, &[1; 64]))
        } else {
            let mut payload = vec![protocol::UDP, 0];
            payload.extend((8 * offset + 1).to_be_bytes());
            payload.extend(number.to_be_bytes());
            payload.extend([1; 64]);
            let from = [0xfd00, 0, 0, 0, 0, 0, (number >> 16) as u16, number as u16].into();
            (kind::IPV6, packet::ipv6(from, HOST6, protocol::FRAGMENT, 64, &payload))
        };
        host.arrive_ip(packet);
        if number % 16 == 0 {
            host.turn();
        }
        if number % 1000 == 0 {
            host.settle();
            most = most.max(held(&host));
            assert!(
                host.counter("ip_reassembling") <= 64 && host.counter("ip_reassembling_bytes") <= 1 << 20
            );
            echo.round(&mut host);
        }
    }
    assert!(most < 2 << 20, "{most} bytes were held");
    host.settle();
    host.pass(Duration::from_secs(120));
    assert_eq!(host.counter("ip_reassembling"), 0);
    echo.round(&mut host);
    host.end();
}

/// Everybody in a large network says who they are, and asks for us.
#[test]
fn neighbours_without_number_do_not_displace_one_that_is_in_use() {
    let mut host = Host::new(16, "", "addresses = [\"10.0.0.1/8\", \"fd00::1/64\"]\nneighbours_max = 64");
    let mut echoes = [false, true].map(|v6| Echo::begin(&mut host, v6, 4000));
    for number in 0..40_000_u32 {
        let mac = [2, 1, (number >> 16) as u8, (number >> 8) as u8, number as u8, 0];
        let addr = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number);
        host.arrive(&arp(1 + (number % 2) as u8, mac, addr));
        host.arrive(&advertise(mac, [0xfd00, 0, 0, 0, 1, 0, (number >> 16) as u16, number as u16].into()));
        if number % 16 == 0 {
            host.turn();
        }
        if number % 1000 == 0 {
            host.pass(Duration::from_millis(100));
            host.take();
            assert!(host.counter("ip_neighbours") <= 64);
            echoes.iter_mut().for_each(|echo| echo.round(&mut host));
        }
    }
    assert_eq!(host.counter("ip_neighbours"), 64);
    host.end();
}

/// What is sent to neighbours that are not there waits for their addresses, but not without end.
#[test]
fn packets_to_neighbours_that_are_not_there_are_bounded() {
    let mut host =
        Host::new(16, "", "addresses = [\"10.0.0.1/8\", \"fd00::1/64\"]\nneighbour_queue_bytes = 65536");
    let mut echo = Echo::begin(&mut host, false, 4000);
    // Answers to echo requests of spoofed neighbours.
    for number in 0..20_000_u32 {
        let from = Ipv4Addr::from_bits(Ipv4Addr::new(10, 2, 0, 0).to_bits() + number);
        let mut message = [&[8, 0, 0, 0, 0, 1, 0, 1][..], &[9; 1000]].concat();
        packet::seal(from.into(), HOST4.into(), protocol::ICMP, &mut message);
        host.arrive_ip((kind::IPV4, packet::ipv4(from, HOST4, protocol::ICMP, 1, 0, &message)));
        host.turn();
        if number % 1000 == 0 {
            echo.round(&mut host);
            assert!(held(&host) < 1 << 20, "{} bytes are held", held(&host));
        }
    }
    host.end();
}

/// SYNs of callers that do not exist. Those who are connected notice nothing, and those who call are answered.
#[test]
fn a_flood_of_syns_leaves_connections_and_callers_alone() {
    let mut host = Host::new(16, "half_open = 64", "addresses = [\"10.0.0.1/24\"]\ngateway4 = \"10.0.0.2\"");
    let mut echo = Echo::begin(&mut host, false, 4000);
    let listener = host.socket(false, SocketKind::Stream, 8080);
    let mut calls = 0;
    for number in 0..50_000_u32 {
        let from = stranger(number);
        let options = if number % 3 == 0 { &[] } else { OPTIONS };
        let tcp = Tcp {
            from: number as u16 | 1,
            to: 8080,
            seq: number,
            flags: flag::SYN,
            options,
            ..Tcp::default()
        };
        host.arrive_ip(packet::ip(from.into(), HOST4.into(), protocol::TCP, &tcp.emit()));
        // Guesses at what it answers.
        let guess = Tcp { ack: number.wrapping_mul(0x9e37_79b9), flags: flag::ACK, ..tcp };
        host.arrive_ip(packet::ip(from.into(), HOST4.into(), protocol::TCP, &guess.emit()));
        if number % 16 == 0 {
            host.turn();
        }
        if number % 1000 == 0 {
            host.pass(Duration::from_millis(1));
            host.take();
            assert!(held(&host) < 1 << 20, "{} bytes are held", held(&host));
            echo.round(&mut host);
        }
        if number % 5000 == 4999 {
            let accept = host.demi.accept(listener).unwrap();
            let call = Talk::call(&mut host, false, 5000 + calls, 8080, OPTIONS);
            assert!(call.is_some(), "no answer: {:?}", host.counters());
            let (qd, _) = host.result(accept).expect("it has called").accepted().unwrap();
            host.open.push(qd);
            calls += 1;
            assert!(host.counter("tcp_connections") <= 1 + 64 + u64::from(calls), "{:?}", host.counters());
        }
    }
    for _ in 0..200 {
        host.pass(Duration::from_secs(1));
        host.take();
    }
    assert_eq!(host.counter("tcp_connections"), 1 + u64::from(calls), "only those who meant it are left");
    host.end();
}

/// Small datagrams that nobody pops, in the large buffers of a NIC.
#[test]
fn datagrams_that_nobody_reads_pin_no_more_than_the_buffer_allows() {
    let mut host = Host::plain(32);
    host.room = 2048;
    let mut echo = Echo::begin(&mut host, false, 4000);
    for v6 in [false, true] {
        host.socket(v6, SocketKind::Datagram, 53);
    }
    let before = held(&host);
    for number in 0..40_000_u32 {
        let (own, peer) = demi_tests::fuzz::host::pair(number % 2 == 0);
        let payload = vec![1; number as usize % 8];
        host.arrive_ip(packet::ip(peer, own, protocol::UDP, &packet::udp(9, 53, &payload)));
        if number % 16 == 0 {
            host.turn();
        }
    }
    host.settle();
    let pinned = held(&host) - before;
    assert!(host.counter("udp_dropped") > 0);
    assert!(pinned <= 2 * ((1 << 20) + 32 * 2048), "{pinned} bytes are held by two sockets of 1 MiB each");
    echo.round(&mut host);
    host.end();
}

/// Peers that fill their windows, together more than the heap, and an application that takes none of it: then nothing more
/// arrives, and when they are closed, everything does again.
#[test]
fn a_heap_that_peers_have_filled_is_usable_again() {
    let mut host = Host::plain(8);
    host.room = 2048;
    let mut echo = Echo::begin(&mut host, false, 4000);
    let mut talks: Vec<_> = (0..40).map(|number| accepted(&mut host, true, 5000 + number)).collect();
    let mut lost = 0;
    for _ in 0..200 {
        for (talk, _) in &mut talks {
            let before = talk.seq;
            if !talk.send(&mut host, &[1; 1400]) {
                // It did not arrive, and is sent again.
                talk.seq = before;
                lost += 1;
            }
        }
        host.turn();
        host.take();
    }
    assert!(lost > 100, "the heap was never full: {} bytes are held", held(&host));
    // What the instance itself has to say fails for want of memory, and is said later.
    host.pass(Duration::from_secs(5));
    for (_, qd) in talks {
        host.close(qd);
    }
    host.exchange();
    assert!(held(&host) < 1 << 20, "{} bytes are held", held(&host));
    echo.round(&mut host);
    host.end();
}

/// A NIC that has stopped transmitting, while everybody asks for something.
#[test]
fn answers_do_not_pile_up_before_a_nic_that_is_stuck() {
    let mut host = Host::plain(16);
    let mut echo = Echo::begin(&mut host, false, 4000);
    host.stick(true);
    for number in 0..50_000_u32 {
        let tcp = Tcp { from: number as u16, to: 9, flags: flag::SYN, ..Tcp::default() };
        host.arrive_ip(packet::ip(PEER4.into(), HOST4.into(), protocol::TCP, &tcp.emit()));
        host.arrive(&arp(1, PEER_MAC, PEER4));
        let mut message = [8, 0, 0, 0, 0, 1, 0, 1];
        packet::seal(PEER4.into(), HOST4.into(), protocol::ICMP, &mut message);
        host.arrive(&packet::ethernet(
            MAC,
            PEER_MAC,
            kind::IPV4,
            &packet::ipv4(PEER4, HOST4, protocol::ICMP, 1, 0, &message),
        ));
        host.turn();
    }
    assert!(held(&host) < 4 << 20, "{} bytes are held", held(&host));
    host.stick(false);
    host.settle();
    host.take();
    echo.round(&mut host);
    host.end();
}
