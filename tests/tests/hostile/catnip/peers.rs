//! A peer whose connection is established, and who then does as it likes.

use std::time::Duration;

use demi_api::{QDesc, SocketKind};
use demi_tests::fuzz::host::Host;
use demi_tests::fuzz::packet::{Tcp, flag};
use demi_tests::fuzz::talk::{Talk, segment};

use super::{Echo, accepted, held};

/// Pushes bytes that say where they are.
fn push(host: &mut Host, qd: QDesc, len: usize) {
    let sga = host.demi.copy_from(&pattern(len)).unwrap();
    host.tokens.push(host.demi.push(qd, sga).unwrap());
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

/// Becomes a peer that behaves, for as long as it takes to get all that was pushed.
#[track_caller]
fn get(host: &mut Host, talk: &mut Talk, len: usize) {
    for _ in 0..20_000 {
        talk.acknowledge(host);
        if talk.listen(host) == 0 {
            host.to_deadline();
            talk.listen(host);
        }
        if talk.received.len() >= len {
            talk.acknowledge(host);
            host.exchange();
            assert!(talk.received == pattern(len), "other bytes than were pushed");
            assert!(host.reap().into_iter().all(|done| done.pushed().is_ok()));
            assert!(host.tokens.is_empty());
            return;
        }
    }
    panic!("{} of {len} bytes arrived: {:?}", talk.received.len(), host.counters());
}

fn with_blocks(talk: &Talk, host: &mut Host, blocks: &[(u32, u32)]) {
    let mut options = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
    for (left, right) in blocks {
        options.extend(talk.ack.wrapping_add(*left).to_be_bytes());
        options.extend(talk.ack.wrapping_add(*right).to_be_bytes());
    }
    talk.say(host, &Tcp { options: &options, ..talk.segment() });
}

/// RFC 2018 §8: what was reported may be dropped all the same.
#[test]
fn a_peer_that_takes_its_reports_back_gets_the_data_again() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    push(&mut host, qd, 100_000);
    host.exchange();
    // Everything but the first byte, then less of it, then nothing.
    for right in [1448 * 9, 1448 * 5, 1448 * 2] {
        with_blocks(&talk, &mut host, &[(1448, right)]);
        host.exchange();
    }
    for _ in 0..5 {
        host.to_deadline();
        host.take();
    }
    get(&mut host, &mut talk, 100_000);
    host.end();
}

/// Reports of what was never sent, that overlap, that are the wrong way round, and that lie before all data.
#[test]
fn absurd_reports_are_ignored() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, true, 4000);
    push(&mut host, qd, 60_000);
    host.exchange();
    let edges = [0, 1, 1000, 1448, 14_480, 60_000, 60_001, 1 << 30, 1 << 31, u32::MAX - 1448, u32::MAX];
    for left in edges {
        for right in edges {
            with_blocks(&talk, &mut host, &[(left, right), (right, left), (0, right)]);
            host.exchange();
        }
    }
    get(&mut host, &mut talk, 60_000);
    host.end();
}

/// RFC 9293 §3.8.6: a window that shrinks, to nothing and to next to nothing, may cost time and nothing else.
#[test]
fn windows_that_shrink_are_survived() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    push(&mut host, qd, 200_000);
    for window in [0x4000, 100, 0, 0, 1, 0, 50, 3, 0] {
        talk.window = window;
        talk.acknowledge(&mut host);
        talk.listen(&mut host);
        host.to_deadline();
        talk.listen(&mut host);
    }
    talk.window = 0x4000;
    get(&mut host, &mut talk, 200_000);
    host.end();
}

/// A window of one byte, without a scale, for a while: no more segments than the peer asks for.
#[test]
fn a_tiny_window_is_not_filled_byte_by_byte() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    talk.window = 1;
    talk.acknowledge(&mut host);
    host.exchange();
    push(&mut host, qd, 5000);
    let before = host.counter("tcp_sent");
    for _ in 0..100 {
        talk.acknowledge(&mut host);
        talk.listen(&mut host);
    }
    let sent = host.counter("tcp_sent") - before;
    assert!(sent <= 110, "{sent} segments for 100 acknowledgements");
    talk.window = 0x4000;
    get(&mut host, &mut talk, 5000);
    host.end();
}

/// RFC 9293 §3.7.1: a peer that says that it takes one byte at a time gets more than that.
#[test]
fn a_silly_mss_does_not_make_a_header_for_every_byte() {
    for mss in [0, 1, 87] {
        let mut host = Host::plain(16);
        let qd = host.socket(false, SocketKind::Stream, 0);
        let options = [2, 4, 0, mss, 3, 3, 7, 4, 2];
        let mut talk = Talk::answer(&mut host, false, qd, 7000, &options).expect("it calls");
        let before = host.counter("tcp_sent");
        push(&mut host, qd, 50_000);
        get(&mut host, &mut talk, 50_000);
        let sent = host.counter("tcp_sent") - before;
        assert!(sent < 2 * 50_000 / 64, "{sent} segments for 50,000 bytes");
        host.end();
    }
}

/// RFC 5961 §5: data that was never sent cannot be acknowledged, and whoever tries learns little.
#[test]
fn acknowledgements_of_what_was_never_sent_count_for_nothing() {
    let mut host = Host::plain(16);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    push(&mut host, qd, 300_000);
    let frames = host.exchange();
    let sent: u32 = frames.iter().filter_map(|frame| segment(frame)).map(|(_, _, tcp)| tcp.space()).sum();
    let challenges = host.counter("tcp_challenges");
    for ahead in [sent + 1, sent + 100_000, 1 << 30, 1 << 31, u32::MAX - (1 << 24)] {
        for _ in 0..1000 {
            talk.say(&mut host, &Tcp { ack: talk.ack.wrapping_add(ahead), ..talk.segment() });
        }
        host.exchange();
    }
    let answers = host.counter("tcp_challenges") - challenges;
    assert!((1..=1500).contains(&answers), "{answers} answers in no time");
    assert!(host.reap().is_empty(), "a push was taken for acknowledged");
    // What was lost on the way here is sent again.
    get(&mut host, &mut talk, 300_000);
    host.end();
}

/// Acknowledgements that come before the data could have arrived let no more out than was pushed, and tell lies that only
/// the liar pays for.
#[test]
fn optimistic_acknowledgements_cost_only_the_peer() {
    let mut host = Host::plain(32);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    let mut echo = Echo::begin(&mut host, true, 4001);
    for _ in 0..8 {
        push(&mut host, qd, 1_000_000);
    }
    while !host.tokens.is_empty() {
        let frames = host.exchange();
        if frames.is_empty() && !host.to_deadline() {
            break;
        }
        // All of it is acknowledged, unseen.
        for (_, _, tcp) in frames.iter().filter_map(|frame| segment(frame)) {
            talk.ack = tcp.seq.wrapping_add(tcp.space());
        }
        talk.say(&mut host, &talk.segment());
        host.settle();
        host.reap();
    }
    assert!(host.tokens.is_empty());
    echo.round(&mut host);
    host.end();
}

/// Every byte in a segment of its own, with a hole behind each: as many islands as there may be, and no more.
#[test]
fn islands_of_one_byte_are_bounded() {
    let mut host = Host::plain(16);
    host.room = 2048;
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    let before = held(&host);
    for at in 0..20_000 {
        let seq = talk.seq.wrapping_add(1 + 2 * at);
        talk.say(&mut host, &Tcp { seq, payload: b"x", ..talk.segment() });
        if at % 16 == 0 {
            host.turn();
            host.take();
        }
    }
    host.settle();
    host.take();
    let pinned = held(&host) - before;
    assert!(pinned <= 64 * 2048 + 4096, "{pinned} bytes are held for at most 64 islands of one byte");
    // The holes are filled, and the islands are there.
    let pop = host.demi.pop_n(qd, 20).unwrap();
    talk.send(&mut host, &[b'x'; 20]);
    talk.listen(&mut host);
    assert_eq!(host.result(pop).unwrap().popped().unwrap().to_vec(), [b'x'; 20]);
    host.end();
}

/// A whole window of it, byte by byte, from the front, from the back, and in no order: what is held is in proportion to
/// the bytes, not to the buffers that they came in.
#[test]
fn single_bytes_out_of_order_do_not_pin_a_frame_each() {
    const BYTES: u32 = 60_000;
    for order in 0..3_u8 {
        let mut host = Host::plain(16);
        host.room = 2048;
        let (mut talk, qd) = accepted(&mut host, false, 4000);
        let before = held(&host);
        let mut most = 0;
        for step in 0..BYTES {
            let at = match order {
                0 => 1 + step,
                1 => BYTES - step,
                // Each of the numbers once, for 7919 is prime to their count; close enough to be few islands.
                _ => 1 + step / 32 * 32 + step % 32 * 7 % 32,
            };
            let seq = talk.seq.wrapping_add(at);
            talk.say(&mut host, &Tcp { seq, payload: &[at as u8], ..talk.segment() });
            if step % 16 == 0 {
                host.turn();
                host.take();
                most = most.max(held(&host) - before);
            }
        }
        host.settle();
        host.take();
        assert!(most <= 4 * BYTES as usize + 64 * 2048, "{most} bytes are held for {BYTES}, order {order}");
        let first = talk.seq;
        talk.send(&mut host, &[0]);
        talk.seq = first.wrapping_add(BYTES + 1);
        talk.listen(&mut host);
        let mut got = Vec::new();
        while got.len() <= BYTES as usize {
            let pop = host.demi.pop(qd).unwrap();
            let done = host.result(pop).unwrap_or_else(|| panic!("only {} bytes, order {order}", got.len()));
            got.extend(done.popped().unwrap().to_vec());
        }
        assert!(got.iter().enumerate().all(|(at, byte)| *byte == at as u8), "wrong bytes, order {order}");
        host.end();
    }
}

/// Single bytes in order, which nobody pops: the same.
#[test]
fn single_bytes_in_order_do_not_pin_a_frame_each() {
    const BYTES: usize = 60_000;
    let mut host = Host::plain(16);
    host.room = 2048;
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    let before = held(&host);
    for at in 0..BYTES {
        assert!(
            talk.send(&mut host, &[at as u8]),
            "the heap is full after {at} bytes: {} are held",
            held(&host)
        );
        if at % 16 == 0 {
            host.turn();
            host.take();
        }
    }
    host.settle();
    host.take();
    let pinned = held(&host) - before;
    assert!(pinned <= 4 * BYTES + (256 << 10), "{pinned} bytes are held for {BYTES}");
    let mut got = Vec::new();
    while got.len() < BYTES {
        let pop = host.demi.pop(qd).unwrap();
        got.extend(host.result(pop).unwrap().popped().unwrap().to_vec());
    }
    assert!(got.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    host.end();
}

/// A peer that takes nothing is told nothing more, and what waits for it is what the send buffer allows and the
/// application has pushed.
#[test]
fn a_peer_that_never_reads_holds_up_its_own_pushes_only() {
    let mut host = Host::new(32, "send_buffer = 65536", "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]");
    let mut echo = Echo::begin(&mut host, true, 4001);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    talk.window = 0;
    talk.acknowledge(&mut host);
    host.exchange();
    let before = held(&host);
    let mut pushed = 0;
    let waits = loop {
        let push = host.demi.push(qd, host.demi.copy_from(&[1; 16]).unwrap()).unwrap();
        if let Some(done) = host.result(push) {
            done.pushed().unwrap();
            pushed += 16;
            continue;
        }
        break push;
    };
    assert!((65_536 - 16..=65_536 + 16).contains(&pushed), "{pushed} bytes were taken");
    let kept = held(&host) - before;
    assert!(kept <= 8 * pushed, "{kept} bytes are held for {pushed}");
    // For a day it says that it has no room, and is asked less and less often.
    let sent = host.counter("tcp_sent");
    for _ in 0..24 * 60 {
        host.pass(Duration::from_secs(60));
        talk.listen(&mut host);
        talk.say(&mut host, &talk.segment());
    }
    assert!(host.counter("tcp_sent") - sent < 3 * 24 * 60, "{:?}", host.counters());
    assert!(host.result(waits).is_none());
    echo.round(&mut host);
    // When it says nothing any more, it is given up.
    for _ in 0..30 {
        host.pass(Duration::from_secs(60));
        host.exchange();
    }
    assert!(host.result(waits).unwrap().pushed().is_err());
    host.end();
}

/// The same acknowledgement, again and again, with reports of everything that is under way.
#[test]
fn repeated_acknowledgements_let_out_no_storm() {
    let mut host = Host::plain(32);
    let (mut talk, qd) = accepted(&mut host, false, 4000);
    push(&mut host, qd, 500_000);
    // Until much is under way.
    for _ in 0..40 {
        talk.listen(&mut host);
        talk.acknowledge(&mut host);
    }
    let frames = host.exchange();
    let ahead = frames.iter().filter_map(|frame| segment(frame)).map(|(_, _, tcp)| tcp.space()).sum::<u32>();
    let before = host.counter("tcp_sent");
    for _ in 0..20_000 {
        with_blocks(&talk, &mut host, &[(1448, ahead), (2896, ahead), (4344, ahead)]);
        host.turn();
        host.take();
    }
    let sent = host.counter("tcp_sent") - before;
    assert!(sent < 2000, "{sent} segments for acknowledgements that say nothing new");
    get(&mut host, &mut talk, 500_000);
    host.end();
}

/// RFC 5961 §3 and §4: neither a RST nor a SYN that is merely near ends a connection.
#[test]
fn guesses_within_the_window_do_not_end_a_connection() {
    let mut host = Host::plain(16);
    let mut echo = Echo::begin(&mut host, false, 4000);
    for flags in [flag::RST, flag::RST | flag::ACK, flag::SYN, flag::SYN | flag::ACK] {
        for ahead in [1, 100, 5000, 60_000, 1_000_000, 1 << 31, u32::MAX] {
            let seq = echo.talk.seq.wrapping_add(ahead);
            echo.talk.say(&mut host, &Tcp { flags, seq, ..echo.talk.segment() });
            host.exchange();
        }
    }
    echo.round(&mut host);
    host.end();
}
