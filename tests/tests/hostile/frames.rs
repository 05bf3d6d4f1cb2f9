//! Garbage, oversize and unfinished frames, from real clients.

use std::io::{Read, Write};
use std::time::Duration;

use demi_api::graph::frame::{Codec, Endian};
use demi_api::{Demikernel, Error};
use demi_libos_catnap::Catnap;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{PATIENCE, account, catnap, client, pop, server};

fn codecs() -> [Codec; 3] {
    [Codec::Resp, Codec::LengthPrefix { bytes: 4, endian: Endian::Big }, Codec::Delimiter(b"\r\n".to_vec())]
}

/// Any bytes: some messages, then one final error, which the client can still be told of.
#[test]
fn garbage_ends_in_a_clear_error() {
    let demi = catnap("[queues]\nframe_max_bytes = 10000\n");
    let server = server(&demi);
    let before = account(&demi, server);
    let garbage = prop::collection::vec(
        prop_oneof![any::<u8>(), prop::sample::select(b"*$:+-\r\n0123".to_vec())],
        0..2000,
    );
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(garbage, 0..3_usize), |(bytes, codec)| {
        let (mut peer, qd) = client(&demi, server);
        let framed = demi.frame(qd, codecs()[codec].clone()).unwrap();
        peer.write_all(&bytes).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut messages = 0;
        let error = loop {
            match pop(&demi, framed) {
                Ok(_) => messages += 1,
                Err(error) => break error,
            }
        };
        prop_assert!(messages <= bytes.len());
        let clear = matches!(
            error,
            Error::EndOfStream | Error::Truncated | Error::BadFrame(_) | Error::TooLarge { .. }
        );
        prop_assert!(clear, "{error}");
        prop_assert_eq!(pop(&demi, framed), Err(error));
        let goodbye = demi.push(framed, demi.copy_from(b"-ERR\r\n".trim_ascii_end()).unwrap()).unwrap();
        demi.wait(goodbye, PATIENCE).unwrap().pushed().unwrap();
        demi.close(framed).unwrap();
        Ok(())
    });
    result.unwrap();
    assert_eq!(account(&demi, server), before);
}

/// A length is a promise: what it announces is not set aside, and what is too large is refused at once.
#[test]
fn an_announced_size_is_not_allocated() {
    let demi = catnap("[queues]\nframe_max_bytes = 10000000\n");
    let server = server(&demi);
    let before = account(&demi, server);
    let announcements: [(Codec, &[u8]); 3] = [
        (codecs()[1].clone(), &[0, 0x90, 0, 0]),
        (Codec::Resp, b"$9000000\r\n"),
        (Codec::Resp, b"*3000000\r\n"),
    ];
    let mut open = Vec::new();
    for (codec, bytes) in announcements {
        let (mut peer, qd) = client(&demi, server);
        let framed = demi.frame(qd, codec).unwrap();
        peer.write_all(bytes).unwrap();
        let pending = demi.pop(framed).unwrap();
        assert_eq!(demi.wait(pending, Some(Duration::from_millis(20))).unwrap_err(), Error::TimedOut);
        open.push((peer, framed, pending));
    }
    let held = demi.heap().stats().bytes_live - before.1;
    assert!(held < 64 << 10, "{held} bytes are held for three announcements");
    for (_, framed, pending) in &open {
        demi.close(*framed).unwrap();
        assert!(demi.wait(*pending, PATIENCE).unwrap().result.is_err());
    }
    drop(open);
    for (codec, bytes) in [(codecs()[1].clone(), &[0, 0x99, 0, 0][..]), (Codec::Resp, b"$10000001\r\n")] {
        let (mut peer, qd) = client(&demi, server);
        let framed = demi.frame(qd, codec).unwrap();
        peer.write_all(bytes).unwrap();
        assert!(matches!(pop(&demi, framed), Err(Error::TooLarge { .. })));
        demi.close(framed).unwrap();
    }
    assert_eq!(account(&demi, server), before);
}

/// A line that never ends is cut off at the limit, and what it took is given back.
#[test]
fn an_endless_line_is_bounded() {
    for (codec, start) in [(Codec::Resp, &b"+"[..]), (codecs()[2].clone(), b"x")] {
        let demi = catnap("[queues]\nframe_max_bytes = 1000000\n");
        let server = server(&demi);
        let before = account(&demi, server);
        let (mut peer, qd) = client(&demi, server);
        let framed = demi.frame(qd, codec).unwrap();
        let pending = demi.pop(framed).unwrap();
        let writer = std::thread::spawn(move || {
            peer.write_all(start).unwrap();
            // It goes on until it is cut off.
            while peer.write_all(&[b'x'; 10_000]).is_ok() {}
        });
        let mut most = 0;
        let result = loop {
            most = most.max(demi.heap().stats().bytes_live);
            match demi.wait(pending, Some(Duration::ZERO)) {
                Err(Error::TimedOut) => {}
                other => break other.unwrap().popped(),
            }
        };
        assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
        assert!(most - before.1 < 6 << 20, "{} bytes were held for a limit of 1,000,000", most - before.1);
        demi.close(framed).unwrap();
        writer.join().unwrap();
        assert_eq!(account(&demi, server), before);
    }
}

/// A client that sends byte by byte is waited for, and gets its answer.
#[test]
fn a_slow_client_is_served() {
    let demi = catnap("");
    let server = server(&demi);
    let before = account(&demi, server);
    let (mut peer, qd) = client(&demi, server);
    let framed = demi.frame(qd, Codec::Resp).unwrap();
    let pending = demi.pop(framed).unwrap();
    let request = b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n";
    for byte in request {
        assert_eq!(demi.wait(pending, Some(Duration::ZERO)).unwrap_err(), Error::TimedOut);
        peer.write_all(&[*byte]).unwrap();
    }
    let popped = demi.wait(pending, PATIENCE).unwrap().popped().unwrap();
    assert_eq!(popped.to_vec(), request);
    let push = demi.push(framed, popped).unwrap();
    demi.wait(push, PATIENCE).unwrap().pushed().unwrap();
    let mut echoed = [0; 22];
    peer.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, request);
    demi.close(framed).unwrap();
    assert_eq!(account(&demi, server), before);
}

/// A client that dies inside a frame, by an end or by a reset, leaves an error and nothing else.
#[test]
fn a_client_that_dies_inside_a_frame_leaves_nothing() {
    let demi = catnap("");
    let server = server(&demi);
    let before = account(&demi, server);
    for (codec, bytes) in
        codecs().into_iter().zip([&b"*2\r\n$3\r\nGE"[..], &[0, 0, 1, 0, 7, 7], b"half a line\r"])
    {
        for resets in [false, true] {
            let (mut peer, qd) = client(&demi, server);
            let framed = demi.frame(qd, codec.clone()).unwrap();
            let first = demi.pop(framed).unwrap();
            peer.write_all(bytes).unwrap();
            assert_eq!(demi.wait(first, Some(Duration::from_millis(5))).unwrap_err(), Error::TimedOut);
            if resets {
                leave_unread(&demi, framed, &peer);
            }
            drop(peer);
            let error = demi.wait(first, PATIENCE).unwrap().popped().unwrap_err();
            let expected = if resets { Error::ConnectionReset } else { Error::Truncated };
            assert_eq!(error, expected, "{codec:?}");
            assert_eq!(pop(&demi, framed), Err(expected), "{codec:?}");
            demi.close(framed).unwrap();
        }
    }
    assert_eq!(account(&demi, server), before);
}

/// Has bytes arrive that the peer does not read: when it goes, it resets the connection.
fn leave_unread(demi: &Demikernel<Catnap>, qd: demi_api::QDesc, peer: &std::net::TcpStream) {
    let push = demi.push(qd, demi.copy_from(b"unread").unwrap()).unwrap();
    demi.wait(push, PATIENCE).unwrap().pushed().unwrap();
    assert!(peer.peek(&mut [0]).unwrap() > 0);
}
