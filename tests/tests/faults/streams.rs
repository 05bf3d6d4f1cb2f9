//! Faults of connections.

use std::io::Read;
use std::net::Shutdown as Half;

use demi_api::{Error, SgArray, Shutdown};
use demi_libos_catnap::Catnap;

use super::{PATIENCE, connected, instance, send, within_limit};

/// Fault 5: `close` hung when the peer had exited, or never closed.
///
/// The peer keeps its end open, closes it, or resets it; with the fault one of the closes, or a wait for what was
/// outstanding, does not return.
#[test]
fn fault_05_close_does_not_wait_for_the_peer() {
    within_limit(|| {
        let demi = instance::<Catnap>();
        for fate in ["stays", "half-closes", "exits", "resets"] {
            let (qd, peer) = connected(&demi);
            let push = demi.push(qd, demi.copy_from(b"farewell").unwrap()).unwrap();
            let pop = demi.pop(qd).unwrap();
            let kept = match fate {
                "half-closes" => {
                    peer.shutdown(Half::Write).unwrap();
                    Some(peer)
                }
                "exits" => {
                    (&peer).read_exact(&mut [0; 8]).unwrap();
                    None
                }
                // What was pushed to it is unread.
                "resets" => None,
                _ => Some(peer),
            };
            demi.close(qd).unwrap();
            let _ = demi.wait(push, PATIENCE).unwrap();
            match demi.wait(pop, PATIENCE).unwrap().result {
                Err(Error::Cancelled | Error::ConnectionReset) => {}
                Ok(demi_api::Done::Popped(sga)) if sga.is_empty() => {}
                other => panic!("a peer that {fate}: {other:?}"),
            }
            assert_eq!(demi.counters().unwrap().operations_pending, 0, "a peer that {fate}");
            drop(kept);
        }
    });
}

/// Fault 6: what arrived after the own side was shut down was dropped.
///
/// The peer answers only when it has seen the end. With the fault the answer is missing, in part or as a whole.
#[test]
fn fault_06_what_arrives_after_the_own_end_is_received() {
    let demi = instance::<Catnap>();
    let (qd, mut peer) = connected(&demi);
    demi.push(qd, demi.copy_from(b"question").unwrap()).unwrap();
    demi.shutdown(qd, Shutdown::Write).unwrap();
    let answer: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = answer.clone();
    let answerer = std::thread::spawn(move || {
        let mut question = Vec::new();
        peer.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question");
        for part in answer.chunks(100_000) {
            send(&peer, part);
        }
    });
    let mut received = Vec::new();
    loop {
        let part = demi.wait(demi.pop(qd).unwrap(), PATIENCE).unwrap().popped().unwrap();
        if part.is_empty() {
            break;
        }
        received.extend(part.to_vec());
    }
    assert!(received == expected, "{} of {} bytes arrived", received.len(), expected.len());
    answerer.join().unwrap();
    demi.close(qd).unwrap();
}

/// Fault 16: only what the library's own array constructor had made could be pushed.
///
/// Interior slices, parts of what was received, buffers split from others, copies of foreign memory, and several of
/// them in one array. With the fault a push fails, or sends from the beginning of the buffer.
#[test]
fn fault_16_any_part_of_any_buffer_can_be_pushed() {
    let demi = instance::<Catnap>();
    let (qd, mut peer) = connected(&demi);
    let mut echo = peer.try_clone().unwrap();
    send(&peer, b"0123456789abcdef");
    let mut received = SgArray::new();
    while received.len() < 16 {
        let part = demi.wait(demi.pop(qd).unwrap(), PATIENCE).unwrap().popped().unwrap();
        part.into_segments().into_iter().for_each(|segment| received.push(segment).unwrap());
    }
    let whole = received.into_contiguous(demi.heap()).unwrap();
    let mut writable = demi.alloc(4096).unwrap();
    writable.fill(b'w');
    let front = writable.split_to(3);
    let mut large = demi.alloc(500_000).unwrap();
    large.fill(b'l');
    let large = large.freeze();
    let mut mixed = SgArray::new();
    for segment in [whole.slice(4..7), large.slice(499_997..), whole.slice(15..), front.freeze()] {
        mixed.push(segment).unwrap();
    }
    let arrays: [(SgArray, &[u8]); 6] = [
        (whole.slice(10..).into(), b"abcdef"),
        (whole.slice(3..5).into(), b"34"),
        (writable.into(), &[b'w'; 4093]),
        (large.slice(1..70_001).into(), &[b'l'; 70_000]),
        (demi.copy_from(b"a vector's bytes").unwrap(), b"a vector's bytes"),
        (mixed, b"456lllfwww"),
    ];
    for (sga, expected) in arrays {
        let push = demi.push(qd, sga).unwrap();
        let mut bytes = vec![0; expected.len()];
        echo.read_exact(&mut bytes).unwrap();
        assert!(bytes == expected, "{:?}", bytes[..bytes.len().min(20)].escape_ascii().to_string());
        demi.wait(push, PATIENCE).unwrap().pushed().unwrap();
    }
    demi.close(qd).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}
