//! Messages that say they are of somebody else, or about something that never was.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::SocketKind;
use demi_tests::fuzz::host::{HOST4, Host, PEER4, arp, pair};
use demi_tests::fuzz::packet::{self, Tcp, flag, protocol};
use demi_tests::fuzz::talk::{Talk, segment};

use super::{Echo, accepted};

/// An ICMP error about a segment of the instance's, whether it was sent or not.
fn error(host: &mut Host, talk: &Talk, (what, code, more): (u8, u8, u32), seq: u32) {
    let v6 = talk.local.is_ipv6();
    let (own, peer) = pair(v6);
    let segment =
        Tcp { from: talk.remote.port(), to: talk.local.port(), seq, flags: flag::ACK, ..Tcp::default() };
    let (_, mut about) = packet::ip(own, peer, protocol::TCP, &segment.emit());
    if !v6 {
        // Not to be fragmented.
        about[6] = 0x40;
    }
    let message = [&[what, code, 0, 0][..], &more.to_be_bytes(), &about].concat();
    host.arrive_ip(packet::ip(peer, own, if v6 { protocol::ICMP6 } else { protocol::ICMP }, &message));
    host.settle();
}

/// The longest payload among segments of the connection.
fn longest(host: &mut Host, talk: &mut Talk) -> usize {
    let mut longest = 0;
    for frame in host.exchange() {
        if talk.hear(&frame) {
            longest = longest.max(segment(&frame).map_or(0, |(_, _, tcp)| tcp.payload.len()));
        }
    }
    longest
}

/// RFC 5927 §4.1: an error counts if it is about something that is under way.
#[test]
fn errors_about_what_was_never_sent_change_nothing() {
    for v6 in [false, true] {
        let kinds: [(u8, u8, u32); 4] = if v6 {
            [(1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 1, 0)]
        } else {
            [(3, 1, 0), (3, 3, 0), (3, 4, 552), (11, 0, 0)]
        };
        let mut host = Host::plain(16);
        let mut echo = Echo::begin(&mut host, v6, 4000);
        echo.round(&mut host);
        let next = echo.talk.ack;
        for kind in kinds {
            for seq in [next, next.wrapping_add(1), next.wrapping_sub(1), next ^ 1 << 31] {
                error(&mut host, &echo.talk, kind, seq);
            }
        }
        echo.round(&mut host);
        host.tokens.push(host.demi.push(echo.qd, host.demi.copy_from(&[1; 10_000]).unwrap()).unwrap());
        let longest = longest(&mut host, &mut echo.talk);
        assert!(longest > 1400, "segments are of {longest} bytes only");
        host.end();
    }
}

/// Who sees the traffic can make packets small, but not as small as it likes, and cannot end the connection.
#[test]
fn errors_about_what_is_under_way_are_believed_within_bounds() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    host.tokens.push(host.demi.push(qd, host.demi.copy_from(&[1; 100_000]).unwrap()).unwrap());
    host.settle();
    let first = talk.ack;
    for kind in [(3, 1, 0), (3, 3, 0), (11, 0, 0), (3, 4, 0), (3, 4, 1), (3, 4, 68), (3, 4, u32::MAX)] {
        for _ in 0..100 {
            error(&mut host, &talk, kind, first);
        }
    }
    let sent = host.counter("tcp_sent");
    assert!(sent < 1000, "{sent} segments");
    host.take();
    for _ in 0..2000 {
        talk.acknowledge(&mut host);
        if talk.listen(&mut host) == 0 {
            host.to_deadline();
            let longest = longest(&mut host, &mut talk);
            let bounds =
                longest == 0 || (300..=500).contains(&longest) || talk.received.len() + 300 > 100_000;
            assert!(bounds, "segments of {longest} bytes");
        }
        if talk.received.len() == 100_000 {
            break;
        }
    }
    assert!(host.counter("icmp_errors_received") > 0, "{:?}", host.counters());
    assert_eq!(talk.received.len(), 100_000, "{:?}", host.counters());
    talk.acknowledge(&mut host);
    host.settle();
    assert!(host.reap().into_iter().all(|done| done.pushed().is_ok()));
    host.end();
}

/// Only who has seen the SYN can say that nobody is there.
#[test]
fn a_call_is_not_refused_by_those_who_guess() {
    let mut host = Host::plain(16);
    let qd = host.socket(false, SocketKind::Stream, 0);
    let connect = host.demi.connect(qd, SocketAddr::new(PEER4.into(), 7000)).unwrap();
    let frames = host.exchange();
    let syn =
        frames.iter().filter_map(|frame| segment(frame)).map(|(_, _, tcp)| tcp).find(|tcp| tcp.to == 7000);
    let syn = syn.expect("it calls");
    let guess = |ack, flags| Tcp { from: 7000, to: syn.from, seq: 5, ack, flags, ..Tcp::default() };
    for ack in [0, syn.seq, syn.seq.wrapping_add(2), syn.seq ^ 1 << 31] {
        for flags in [flag::RST, flag::RST | flag::ACK] {
            host.arrive_ip(packet::ip(PEER4.into(), HOST4.into(), protocol::TCP, &guess(ack, flags).emit()));
        }
    }
    host.exchange();
    assert!(host.result(connect).is_none(), "the call has ended");
    let refusal = guess(syn.seq.wrapping_add(1), flag::RST | flag::ACK);
    host.arrive_ip(packet::ip(PEER4.into(), HOST4.into(), protocol::TCP, &refusal.emit()));
    host.exchange();
    assert!(host.result(connect).expect("it was refused").result.is_err());
    host.end();
}

/// RFC 5227 §2.4: somebody says that they have our address. We keep it, say so, and not at any rate that they like.
#[test]
fn our_own_address_is_not_given_away() {
    let mut host = Host::plain(16);
    let mut echo = Echo::begin(&mut host, false, 4000);
    host.pass(Duration::from_secs(60));
    host.take();
    for number in 0..1000_u32 {
        host.arrive(&arp(1 + (number % 2) as u8, [2, 9, 0, 0, 0, 9], HOST4));
        host.turn();
    }
    let defences = host.take().len();
    assert!((1..=3).contains(&defences), "{defences} answers");
    assert!(host.counter("ip_address_conflicts") > 0);
    echo.round(&mut host);
    host.end();
}
