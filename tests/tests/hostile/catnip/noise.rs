//! A million frames of noise: random bytes, and valid frames with some of their bytes changed and their checksums right.

use std::time::{Duration, Instant};

use demi_api::SocketKind;
use demi_libos_catnip::device::Checksum;
use demi_tests::fuzz::host::{HOST4, HOST6, Host, MAC, PEER_MAC, PEER4, PEER6, advertise, arp};
use demi_tests::fuzz::packet::{self, Tcp, flag, kind, protocol};
use demi_tests::fuzz::talk::OPTIONS;

use super::{Echo, held};

const FRAMES: usize = 1_000_000;

/// On a slow machine it is fewer.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_million_frames_of_noise_do_no_harm() {
    let mut host = Host::new(16, "half_open = 16", "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]");
    let mut echoes = [false, true].map(|v6| Echo::begin(&mut host, v6, 4000));
    for v6 in [false, true] {
        host.socket(v6, SocketKind::Stream, 8080);
        host.socket(v6, SocketKind::Datagram, 53);
    }
    let valid = valid();
    let mut rng = fastrand::Rng::with_seed(1);
    let (start, mut sent, mut most) = (Instant::now(), 0, 0);
    while sent < FRAMES && start.elapsed() < LIMIT {
        for _ in 0..1000 {
            let frame = noise(&mut rng, &valid);
            let cut = rng.usize(..=frame.len());
            // What the NIC has no memory for is lost, as it would be.
            host.arrive_in_parts(&frame, cut, Checksum::Unknown);
            sent += 1;
            if sent % 32 == 0 {
                host.turn();
            }
        }
        most = most.max(held(&host));
        host.pass(Duration::from_micros(rng.u64(..20_000)));
        host.take();
        for echo in &mut echoes {
            echo.round(&mut host);
        }
        assert!(host.counter("ip_neighbours") <= 1024);
        assert!(host.counter("ip_reassembling") <= 64 && host.counter("ip_reassembling_bytes") <= 1 << 20);
        assert!(host.counter("tcp_connections") <= 2 + 2 * (16 + 8));
    }
    println!("{sent} frames, at most {most} bytes held: {:?}", host.counters());
    assert!(sent >= 50_000, "{sent} frames in {LIMIT:?}");
    assert!(most < 12 << 20, "{most} bytes were held");
    for name in
        ["ip_malformed", "ip_bad_checksum", "ip_martian", "tcp_malformed", "udp_received", "ip_reassembled"]
    {
        assert!(host.counter(name) > 0, "no noise came to {name}: {:?}", host.counters());
    }
    host.end();
}

fn noise(rng: &mut fastrand::Rng, valid: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = match rng.u8(..8) {
        0 => {
            let mut frame: Vec<u8> = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect();
            if frame.len() >= 14 && rng.bool() {
                frame[..6].copy_from_slice(&MAC);
                frame[12..14]
                    .copy_from_slice(&rng.choice([kind::IPV4, kind::IPV6, kind::ARP]).unwrap().to_be_bytes());
            }
            return frame;
        }
        _ => rng.choice(valid).unwrap().clone(),
    };
    for _ in 0..rng.usize(..5) {
        // Not the Ethernet addresses: others' frames are dropped at once.
        let at = rng.usize(12..frame.len());
        frame[at] = match rng.u8(..4) {
            0 => 0,
            1 => 0xff,
            2 => frame[at] ^ 1 << rng.u8(..8),
            _ => rng.u8(..),
        };
    }
    if rng.u8(..8) == 0 {
        frame.truncate(rng.usize(1..=frame.len()));
    }
    if rng.u8(..8) != 0 {
        packet::mend(&mut frame);
    }
    frame
}

/// Frames that are understood, from neighbours other than those that the echo goes to, and from these about others.
fn valid() -> Vec<Vec<u8>> {
    let mut frames = vec![arp(1, [2, 0, 0, 0, 0, 7], [10, 0, 0, 7].into()), arp(2, PEER_MAC, PEER4)];
    frames.push(advertise(PEER_MAC, PEER6));
    let segment = |flags, options, payload| {
        Tcp { from: 5000, to: 8080, seq: 77, ack: 0, flags, window: 1000, options, payload }.emit()
    };
    let stamps = [1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 1];
    let blocks = [1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 2, 0];
    for v6 in [false, true] {
        let (own, peer) = demi_tests::fuzz::host::pair(v6);
        // From somebody's neighbour at the same address, whose port nobody knows: and from strangers on the connection.
        let mut add = |protocol, payload: &[u8]| {
            let (kind, packet) = packet::ip(peer, own, protocol, payload);
            frames.push(packet::ethernet(MAC, PEER_MAC, kind, &packet));
        };
        add(protocol::TCP, &segment(flag::SYN, OPTIONS, b""));
        add(protocol::TCP, &segment(flag::ACK, &stamps, b"data for nobody"));
        add(protocol::TCP, &segment(flag::ACK | flag::FIN, &blocks, b""));
        add(protocol::TCP, &segment(flag::RST, &[], b""));
        // For the connection that the echo uses, but by somebody who does not see it.
        for flags in [flag::ACK, flag::RST, flag::SYN, flag::FIN | flag::ACK] {
            let blind =
                Tcp { from: 4000, to: 80, seq: 0x7000_0000, ack: 0x6000_0000, flags, ..Tcp::default() };
            add(protocol::TCP, &Tcp { payload: b"injected", ..blind }.emit());
        }
        add(protocol::UDP, &packet::udp(9, 53, &[7; 40]));
        add(protocol::UDP, &packet::udp(9, 54, b"for nobody"));
        add(
            if v6 { protocol::ICMP6 } else { protocol::ICMP },
            &[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1, 9, 9],
        );
        // Errors about segments that were never sent.
        let (_, about) = packet::ip(
            own,
            peer,
            protocol::TCP,
            &Tcp { from: 80, to: 4000, seq: 0x5000_0000, flags: flag::ACK, ..Tcp::default() }.emit(),
        );
        let errors: &[(u8, u8)] =
            if v6 { &[(1, 4), (2, 0), (3, 0), (4, 1)] } else { &[(3, 1), (3, 3), (3, 4), (11, 0)] };
        for (what, code) in errors {
            let message = [&[*what, *code, 0, 0, 0, 0, 0, 68][..], &about].concat();
            add(if v6 { protocol::ICMP6 } else { protocol::ICMP }, &message);
        }
    }
    let datagram = packet::udp(9, 53, &[7; 1200]);
    for (begin, end, more) in [(0, 800, true), (800, 1208, false)] {
        let field = (u16::from(more) << 13) + begin as u16 / 8;
        let packet = packet::ipv4(PEER4, HOST4, protocol::UDP, 5, field, &datagram[begin..end]);
        frames.push(packet::ethernet(MAC, PEER_MAC, kind::IPV4, &packet));
        let header = [protocol::UDP, 0, 0, 0, 0, 0, 0, 5];
        let mut payload = [&header[..], &datagram[begin..end]].concat();
        payload[2..4].copy_from_slice(&(begin as u16 | u16::from(more)).to_be_bytes());
        let packet = packet::ipv6(PEER6, HOST6, protocol::FRAGMENT, 64, &payload);
        frames.push(packet::ethernet(MAC, PEER_MAC, kind::IPV6, &packet));
    }
    for (next, header) in
        [(0, [58, 0, 5, 2, 0, 0, 1, 0]), (43, [17, 0, 0, 0, 0, 0, 0, 0]), (60, [17, 0, 1, 4, 0, 0, 0, 0])]
    {
        let packet =
            packet::ipv6(PEER6, HOST6, next, 64, &[&header[..], &packet::udp(9, 53, b"behind")].concat());
        frames.push(packet::ethernet(MAC, PEER_MAC, kind::IPV6, &packet));
    }
    frames
}
