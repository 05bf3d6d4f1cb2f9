//! Pushes and pops on connected streams.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use demi_api::addr::Domain;
use demi_api::error::Error;
use demi_api::libos::{QueueKind, Shutdown, SocketOption};
use demi_api::op::Done;
use demi_api::sga::SgArray;

use crate::common::*;

const DOMAINS: [Domain; 3] = [Domain::Inet, Domain::Inet6, Domain::Unix];

#[test]
fn bytes_go_both_ways_and_the_end_repeats() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        assert_eq!(demi.kind(client), Ok(QueueKind::Stream));
        push(&demi, client, b"ping").unwrap();
        assert_eq!(pop(&demi, server).unwrap(), b"ping");
        push(&demi, server, b"pong").unwrap();
        assert_eq!(pop(&demi, client).unwrap(), b"pong");
        demi.close(client).unwrap();
        for _ in 0..3 {
            assert_eq!(pop(&demi, server).unwrap(), b"");
        }
    }
}

#[test]
fn a_pop_that_waits_is_served_in_order() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        let [first, second] = [(); 2].map(|()| demi.pop_n(server, 2).unwrap());
        assert!(is_pending(&demi, first));
        push(&demi, client, b"abcd").unwrap();
        assert_eq!(completion(&demi, second).popped().unwrap().to_vec(), b"cd");
        assert_eq!(completion(&demi, first).popped().unwrap().to_vec(), b"ab");
    }
}

#[test]
fn a_sized_pop_never_takes_more() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    push(&demi, client, &pattern(5000)).unwrap();
    for size in [1, 7, 600, 4000, 10_000] {
        let token = demi.pop_n(server, size).unwrap();
        let got = completion(&demi, token).popped().unwrap().len();
        assert!((1..=size).contains(&got), "{got} of {size}");
    }
}

#[test]
fn arrays_of_several_segments_arrive_whole() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        let bytes = pattern(8 * 700);
        let mut sga = SgArray::new();
        for part in bytes.chunks(700) {
            sga.push(demi.heap().copy_from(part).unwrap()).unwrap();
        }
        let token = demi.push(client, sga).unwrap();
        assert!(matches!(wait(&demi, token), Ok(Done::Pushed(_))));
        assert_eq!(pop_exactly(&demi, server, bytes.len()), bytes);
        push(&demi, client, b"").unwrap();
    }
}

#[test]
fn a_slow_reader_gets_everything_and_the_oldest_token_completes() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        let message = pattern(100_000);
        let tokens: Vec<_> =
            (0..100).map(|_| demi.push(client, demi.copy_from(&message).unwrap()).unwrap()).collect();
        let last = *tokens.last().unwrap();
        assert!(is_pending(&demi, last));
        assert!(counter(&demi, "send_partial") > 0);

        // Only the oldest is waited for; the pops make the room.
        let reader = std::iter::repeat_with(|| pop_exactly(&demi, server, message.len()));
        for (token, popped) in tokens[..99].iter().zip(reader) {
            assert_eq!(popped, message);
            completion(&demi, *token).pushed().unwrap();
        }
        assert_eq!(pop_exactly(&demi, server, message.len()), message);
        completion(&demi, last).pushed().unwrap();
    }
}

#[test]
fn the_oldest_of_many_waiting_pushes_completes_first() {
    let demi = demi();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&demi, &listening.local_addr().unwrap().into()).unwrap();
    let mut peer = listening.accept().unwrap().0;
    let message = pattern(1 << 20);
    let tokens: Vec<_> =
        (0..12).map(|_| demi.push(client, demi.copy_from(&message).unwrap()).unwrap()).collect();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        let mut bytes = vec![0; 12 << 20];
        peer.read_exact(&mut bytes).unwrap();
        bytes
    });
    for token in &tokens {
        completion(&demi, *token).pushed().unwrap();
    }
    assert_eq!(reader.join().unwrap(), message.repeat(12));
}

#[test]
fn half_close_works_both_ways() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        demi.shutdown(client, Shutdown::Write).unwrap();
        assert_eq!(demi.push(client, demi.copy_from(b"late").unwrap()).unwrap_err().error, Error::Closed);
        assert_eq!(pop(&demi, server).unwrap(), b"");
        push(&demi, server, b"still here").unwrap();
        assert_eq!(pop(&demi, client).unwrap(), b"still here");
        demi.shutdown(server, Shutdown::Both).unwrap();
        assert_eq!(pop(&demi, client).unwrap(), b"");
    }
}

#[test]
fn ending_the_receiving_side_ends_waiting_pops() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let token = demi.pop(server).unwrap();
    demi.shutdown(server, Shutdown::Read).unwrap();
    assert!(completion(&demi, token).popped().unwrap().is_empty());
    push(&demi, client, b"unheard").unwrap();
    assert_eq!(pop(&demi, server).unwrap(), b"");
    push(&demi, server, b"answer").unwrap();
    assert_eq!(pop(&demi, client).unwrap(), b"answer");
}

#[test]
fn an_end_of_sending_waits_for_what_was_pushed() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let bytes = pattern(8 << 20);
    let token = demi.push(client, demi.copy_from(&bytes).unwrap()).unwrap();
    demi.shutdown(client, Shutdown::Write).unwrap();
    assert_eq!(pop_exactly(&demi, server, bytes.len()), bytes);
    completion(&demi, token).pushed().unwrap();
    assert_eq!(pop(&demi, server).unwrap(), b"");
}

#[test]
fn a_reset_is_reported_by_every_pop_after_what_came_before() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let waiting = demi.pop(server).unwrap();
    demi.set_option(client, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    demi.close(client).unwrap();
    assert_eq!(completion(&demi, waiting).popped().unwrap_err(), Error::ConnectionReset);
    assert_eq!(pop(&demi, server), Err(Error::ConnectionReset));
    assert!(matches!(push(&demi, server, b"x"), Err(Error::ConnectionReset | Error::Closed)));
}

#[test]
fn a_push_that_meets_the_reset_leaves_it_to_the_pops_too() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    demi.set_option(client, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    demi.close(client).unwrap();
    assert_eq!(push(&demi, server, b"x"), Err(Error::ConnectionReset));
    assert_eq!(push(&demi, server, b"y"), Err(Error::ConnectionReset));
    assert_eq!(pop(&demi, server), Err(Error::ConnectionReset));
}

#[test]
fn pushes_to_a_vanished_peer_fail_without_a_signal() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        demi.close(server).unwrap();
        let failed = (0..100).find_map(|_| push(&demi, client, &pattern(1000)).err());
        assert!(matches!(failed, Some(Error::ConnectionReset | Error::Closed)), "{failed:?}");
    }
}

#[test]
fn waiting_pushes_fail_when_the_peer_resets() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let tokens: Vec<_> =
        (0..8).map(|_| demi.push(client, demi.copy_from(&pattern(1 << 20)).unwrap()).unwrap()).collect();
    assert!(is_pending(&demi, tokens[7]));
    demi.close(server).unwrap();
    let error = completion(&demi, tokens[7]).pushed().unwrap_err();
    assert!(matches!(error, Error::ConnectionReset | Error::Closed), "{error:?}");
    let live_before = live(&demi);
    drop(tokens);
    assert!(live_before < 1 << 20, "{live_before} bytes are still held");
}

#[test]
fn small_receives_are_copied_and_large_ones_handed_out() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    push(&demi, client, &pattern(512)).unwrap();
    assert_eq!(pop(&demi, server).unwrap(), pattern(512));
    assert_eq!(counter(&demi, "copied_receives"), 1);
    push(&demi, client, &pattern(513)).unwrap();
    assert_eq!(pop(&demi, server).unwrap(), pattern(513));
    assert_eq!(counter(&demi, "copied_receives"), 1);
}

#[test]
fn pops_and_unsent_pushes_can_be_recalled() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let [first, second] = [(); 2].map(|()| demi.pop(server).unwrap());
    demi.cancel(first).unwrap();
    assert_eq!(wait(&demi, first).unwrap_err(), Error::Cancelled);
    push(&demi, client, b"kept").unwrap();
    assert_eq!(completion(&demi, second).popped().unwrap().to_vec(), b"kept");

    let tokens: Vec<_> =
        (0..8).map(|_| demi.push(client, demi.copy_from(&pattern(1 << 20)).unwrap()).unwrap()).collect();
    let begun = tokens.iter().position(|token| is_pending(&demi, *token)).unwrap();
    assert_eq!(demi.cancel(tokens[begun]), Err(Error::NotCancellable));
    demi.cancel(tokens[7]).unwrap();
    assert_eq!(wait(&demi, tokens[7]).unwrap_err(), Error::Cancelled);
    assert_eq!(pop_exactly(&demi, server, 7 << 20), pattern(1 << 20).repeat(7));
    completion(&demi, tokens[6]).pushed().unwrap();
}

#[test]
fn a_full_heap_loses_no_byte() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    push(&demi, client, b"safe").unwrap();
    let mut hoard = Vec::new();
    for size in [1 << 20, 64 << 10, 4 << 10, 64, 8] {
        while let Ok(buf) = demi.alloc(size) {
            hoard.push(buf);
        }
    }
    assert!(matches!(pop(&demi, server), Err(Error::OutOfMemory(_))));
    drop(hoard);
    assert_eq!(pop(&demi, server).unwrap(), b"safe");
}

#[test]
fn a_client_of_the_standard_library_is_served() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let addr = inet(&addr);
    let thread = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        let mut echo = [0; 5000];
        for _ in 0..50 {
            stream.write_all(&pattern(5000)).unwrap();
            stream.read_exact(&mut echo).unwrap();
            assert_eq!(echo[..], pattern(5000));
        }
    });
    let (server, _) = accept(&demi, listening);
    loop {
        let token = demi.pop(server).unwrap();
        let sga = completion(&demi, token).popped().unwrap();
        if sga.is_empty() {
            break;
        }
        let token = demi.push(server, sga).unwrap();
        completion(&demi, token).pushed().unwrap();
    }
    thread.join().unwrap();
}

#[test]
fn pushes_with_no_wait_between_them_go_together() {
    for domain in DOMAINS {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        let sent = |count: usize, wait_for_each: bool| {
            let before = counter(&demi, "send");
            let bytes = pattern(count * 3);
            let mut tokens = Vec::new();
            for part in bytes.chunks(3) {
                tokens.push(demi.push(client, demi.copy_from(part).unwrap()).unwrap());
                if wait_for_each {
                    completion(&demi, tokens.pop().unwrap()).pushed().unwrap();
                }
            }
            for token in tokens {
                completion(&demi, token).pushed().unwrap();
            }
            assert_eq!(pop_exactly(&demi, server, bytes.len()), bytes);
            counter(&demi, "send") - before
        };
        assert_eq!(sent(1, false), 1);
        assert_eq!(sent(2, false), 2);
        assert_eq!(sent(65, false), 2, "the first at once, 64 together");
        assert_eq!(sent(10, true), 10, "each is wanted before the next");
    }
}

#[test]
fn gathered_pushes_do_not_wait_for_more_than_one_call_takes() {
    let demi = demi();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&demi, &listening.local_addr().unwrap().into()).unwrap();
    let mut peer = listening.accept().unwrap().0;
    let bytes = pattern(200);
    let tokens: Vec<_> =
        bytes.chunks(1).map(|part| demi.push(client, demi.copy_from(part).unwrap()).unwrap()).collect();
    // Nothing was waited for: one went alone, then three times 64; the last seven are still here.
    let mut got = vec![0; 193];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes[..193]);
    peer.set_nonblocking(true).unwrap();
    assert!(peer.read(&mut [0; 1]).is_err());
    demi.poll().unwrap();
    peer.set_nonblocking(false).unwrap();
    peer.read_exact(&mut got[..7]).unwrap();
    assert_eq!(got[..7], bytes[193..]);
    for token in tokens {
        completion(&demi, token).pushed().unwrap();
    }
}

#[test]
fn gathered_pushes_are_recalled_ended_and_closed_like_others() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let push_now = |bytes: &[u8]| demi.push(client, demi.copy_from(bytes).unwrap()).unwrap();
    let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|bytes| push_now(bytes));
    demi.cancel(c).unwrap();
    assert_eq!(wait(&demi, c).unwrap_err(), Error::Cancelled);
    for token in [d, b, a] {
        completion(&demi, token).pushed().unwrap();
    }
    assert_eq!(pop_exactly(&demi, server, 3), b"abd");

    let [e, f, g] = [b"e", b"f", b"g"].map(|bytes| push_now(bytes));
    demi.shutdown(client, Shutdown::Write).unwrap();
    demi.close(client).unwrap();
    assert_eq!(pop_exactly(&demi, server, 3), b"efg");
    assert_eq!(pop(&demi, server).unwrap(), b"");
    for token in [e, f, g] {
        completion(&demi, token).pushed().unwrap();
    }
}

#[test]
fn gathered_pushes_to_a_vanished_peer_fail_each() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    demi.set_option(server, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    demi.close(server).unwrap();
    assert!(matches!(pop(&demi, client), Err(Error::ConnectionReset)));
    let tokens: Vec<_> =
        (0..200).map(|_| demi.push(client, demi.copy_from(b"late").unwrap()).unwrap()).collect();
    for token in tokens {
        assert!(wait(&demi, token).is_err());
    }
}

#[test]
fn a_reset_fails_what_was_gathered_and_what_comes_too_late() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let push_late = || demi.push(client, demi.copy_from(b"late").unwrap()).unwrap();
    let mut tokens: Vec<_> = (0..10).map(|_| push_late()).collect();
    demi.set_option(server, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    demi.close(server).unwrap();
    // The call for which these become too many meets the reset.
    tokens.extend((0..200).map(|_| push_late()));
    completion(&demi, tokens[0]).pushed().unwrap();
    for token in &tokens[1..] {
        assert!(wait(&demi, *token).is_err());
    }
}

#[test]
fn gathered_pushes_wait_for_room_like_others() {
    let demi = demi();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&demi, &listening.local_addr().unwrap().into()).unwrap();
    let mut peer = listening.accept().unwrap().0;
    demi.set_option(client, SocketOption::SendBuffer(8192)).unwrap();
    // Every one of these fills a call many times over, and none of them is waited for.
    let bytes = pattern(20_000);
    let tokens: Vec<_> =
        (0..300).map(|_| demi.push(client, demi.copy_from(&bytes).unwrap()).unwrap()).collect();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 300 * 20_000];
        peer.read_exact(&mut got).unwrap();
        got
    });
    for token in tokens {
        completion(&demi, token).pushed().unwrap();
    }
    assert_eq!(reader.join().unwrap(), bytes.repeat(300));
}

#[test]
fn a_dropped_instance_sends_what_was_gathered() {
    let parts = |count: usize| vec![b"x".as_slice(); count];
    for domain in [Domain::Inet, Domain::Unix] {
        for parts in
            [parts(2), parts(65), parts(150), vec![b"one", b"two", b""], vec![b"one", b""], vec![b"", b""]]
        {
            let (demi, other) = (demi(), demi());
            let (listening, addr) = listener(&other, domain);
            let client = connect(&demi, &addr).unwrap();
            let (server, _) = accept(&other, listening);
            for part in &parts {
                demi.push(client, demi.copy_from(part).unwrap()).unwrap();
            }
            drop(demi);
            let bytes = parts.concat();
            assert_eq!(pop_exactly(&other, server, bytes.len()), bytes);
            assert_eq!(pop(&other, server).unwrap(), b"");
        }
    }
}

#[test]
fn what_was_started_and_not_awaited_goes_when_a_turn_comes() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let push_now = |bytes: &[u8]| demi.push(client, demi.copy_from(bytes).unwrap()).unwrap();
    let pushed = demi.block_on(async { [b"a", b"b", b"c"].map(|bytes| push_now(bytes)) }).unwrap();
    assert_eq!(pop_exactly(&demi, server, 3), b"abc");
    // A turn begins a new round: the next push is tried at once.
    let before = counter(&demi, "send");
    let first = push_now(b"d");
    demi.poll().unwrap();
    let second = push_now(b"e");
    assert_eq!(counter(&demi, "send") - before, 2);
    for token in pushed.into_iter().chain([first, second]) {
        completion(&demi, token).pushed().unwrap();
    }
}
