//! Stream sockets: bytes, in order, both ways.

use demi_api::{Done, Error, SgArray, Shutdown};

use super::rig::{Harness, Rig, pattern};

/// Both ends of a connection know where they and the other one are.
pub fn a_connection_knows_both_addresses<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let near = rig.stream_socket();
    let connect = rig.demi.connect(near, addr.clone()).unwrap();
    let (far, peer) = rig.completion(rig.demi.accept(listener).unwrap()).accepted().unwrap();
    assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
    assert_eq!(rig.demi.peer_addr(near).unwrap(), addr);
    assert_eq!(rig.demi.local_addr(far).unwrap(), addr);
    assert_eq!(rig.demi.local_addr(near).unwrap(), peer);
    assert_eq!(rig.demi.peer_addr(far).unwrap(), peer);
    assert_eq!(rig.demi.kind(near), Ok(rig.harness.connections()));
    rig.close([near, far, listener]);
}

/// Bytes come back as they were sent, from none to a mebibyte.
pub fn echo_of_every_size<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    for size in [1, 2, 64, 511, 512, 513, 1500, 16384, 65535, 65537, 1 << 20] {
        let bytes = pattern(size);
        let there = rig.start_push(near, &bytes);
        let arrived = rig.pop_exactly(far, size);
        assert!(arrived == bytes, "{size} bytes arrived changed");
        let back = rig.start_push(far, &arrived);
        assert!(rig.pop_exactly(near, size) == bytes, "{size} bytes came back changed");
        for token in [there, back] {
            rig.completion(token).pushed().unwrap();
        }
    }
    rig.close([near, far]);
}

/// An array without bytes completes and leaves no trace: it is not the end of the stream.
pub fn an_empty_push_is_not_an_end<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pop = rig.demi.pop(far).unwrap();
    let empty = rig.demi.push(near, SgArray::new()).unwrap();
    rig.completion(empty).pushed().unwrap();
    rig.push(near, b"").unwrap();
    rig.stays_pending(pop);
    rig.push(near, b"x").unwrap();
    assert_eq!(rig.popped(pop), b"x");
    rig.close([near, far]);
}

/// The segments of an array follow one another.
pub fn segments_arrive_in_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    for lens in [&[1, 2, 3][..], &[4096; 8], &[0, 5, 0, 7, 0], &[1; 8], &[100_000, 1, 50_000]] {
        let total: usize = lens.iter().sum();
        let bytes = pattern(total);
        let mut rest = &bytes[..];
        let mut sga = SgArray::new();
        for len in lens {
            let (part, behind) = rest.split_at(*len);
            sga.push(rig.demi.heap().copy_from(part).unwrap()).unwrap();
            rest = behind;
        }
        let push = rig.demi.push(near, sga).unwrap();
        assert!(rig.pop_exactly(far, total) == bytes, "segments of {lens:?}");
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Of many pushes and pops at once, each gets its turn.
pub fn many_pushes_arrive_in_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let bytes = pattern(200 * 301);
    let pushes: Vec<_> = bytes.chunks(301).map(|chunk| rig.start_push(near, chunk)).collect();
    assert!(rig.pop_exactly(far, bytes.len()) == bytes);
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Pushes complete in the order in which they were started.
pub fn pushes_complete_in_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let bytes = pattern(256 << 10);
    let pushes: Vec<_> = (0..8).map(|_| rig.start_push(near, &bytes)).collect();
    let pop = rig.demi.pop(far).unwrap();
    let mut done = Vec::new();
    let mut arrived = 0;
    let mut pending = Some(pop);
    while arrived < 8 * bytes.len() || done.len() < 8 {
        let mut results = Vec::new();
        rig.demi.wait_next_n(&mut results, 64, super::PATIENCE).unwrap();
        for completion in results {
            if Some(completion.token) == pending {
                arrived += completion.popped().unwrap().len();
                pending = (arrived < 8 * bytes.len()).then(|| rig.demi.pop(far).unwrap());
            } else {
                done.push(completion.token);
                completion.pushed().unwrap();
            }
        }
    }
    assert_eq!(done, pushes);
    rig.close([near, far]);
}

/// Pops get the bytes in the order in which they were started.
pub fn pops_are_served_in_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pops: Vec<_> = (0..16).map(|_| rig.demi.pop_n(far, 1).unwrap()).collect();
    rig.push(near, b"0123456789abcdef").unwrap();
    for (pop, expected) in pops.into_iter().zip(b"0123456789abcdef") {
        assert_eq!(rig.popped(pop), [*expected]);
    }
    rig.close([near, far]);
}

/// A sized pop takes at most so many bytes; of nothing is an error.
pub fn sized_pops_take_no_more_than_asked<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    rig.push(near, &pattern(1000)).unwrap();
    assert_eq!(rig.pop_exactly(far, 10), pattern(1000)[..10]);
    assert_eq!(rig.pop_exactly(far, 989), pattern(1000)[10..999]);
    assert_eq!(rig.pop(far).unwrap().len(), 1);
    assert!(matches!(rig.demi.pop_n(far, 0), Err(Error::Invalid(_))));
    rig.close([near, far]);
}

/// A peer that does not read leaves pushes pending; when it reads, all of them complete, and not a byte is lost.
pub fn pushes_wait_for_a_slow_reader<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let block = rig.sga(&pattern(128 << 10));
    let mut pushes = Vec::new();
    loop {
        pushes.push(rig.demi.push(near, block.clone()).unwrap());
        rig.idle();
        let pending = rig.demi.counters().unwrap().operations_pending;
        if pending >= 3 {
            break;
        }
        assert!(pushes.len() < 1000, "nothing holds up a peer that does not read");
    }
    let newest = *pushes.last().unwrap();
    rig.stays_pending(newest);
    let arrived = rig.pop_exactly(far, pushes.len() * block.len());
    assert!(arrived.chunks(block.len()).all(|chunk| block == *chunk));
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Connections do not mix, and do not hold up each other.
pub fn connections_are_independent<H: Harness>(rig: &Rig<H>) {
    let pairs: Vec<_> = (0..24).map(|_| rig.connected()).collect();
    let pops: Vec<_> = pairs.iter().map(|(_, far)| rig.demi.pop(*far).unwrap()).collect();
    for (index, (near, _)) in pairs.iter().enumerate().rev() {
        rig.push(*near, &[index as u8; 100][..1 + index]).unwrap();
    }
    for (index, ((_, far), pop)) in pairs.iter().zip(pops).enumerate() {
        let mut bytes = rig.popped(pop);
        if bytes.len() < 1 + index {
            bytes.extend(rig.pop_exactly(*far, 1 + index - bytes.len()));
        }
        assert_eq!(bytes, vec![index as u8; 1 + index]);
    }
    rig.close(pairs.into_iter().flat_map(|(near, far)| [near, far]));
}

/// One direction ends, the other goes on.
pub fn half_close_leaves_the_other_direction<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    for (ended, other) in [(near, far), (far, near)] {
        rig.push(ended, b"last words").unwrap();
        rig.demi.shutdown(ended, Shutdown::Write).unwrap();
        assert_eq!(rig.pop_exactly(other, 10), b"last words");
        rig.has_ended(other);
        // And again.
        rig.has_ended(other);
        let refused = rig.demi.push(ended, rig.sga(b"more")).unwrap_err();
        assert_eq!((refused.error, refused.sga.to_vec()), (Error::Closed, b"more".to_vec()));
        if ended == near {
            rig.push(other, b"still here").unwrap();
            assert_eq!(rig.pop_exactly(ended, 10), b"still here");
        }
    }
    rig.close([near, far]);
}

/// A shut-down behind pushes that wait sends them first.
pub fn shutdown_sends_what_was_pushed<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let bytes = pattern(3 << 20);
    let pushes: Vec<_> = bytes.chunks(1 << 20).map(|chunk| rig.start_push(near, chunk)).collect();
    rig.demi.shutdown(near, Shutdown::Write).unwrap();
    assert!(rig.pop_to_end(far) == bytes);
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Whoever shuts down its reading side finds the end at once, with pops outstanding or not.
pub fn shutdown_of_reading_ends_pops<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pop = rig.demi.pop(far).unwrap();
    rig.demi.shutdown(far, Shutdown::Read).unwrap();
    let ended = rig.outcome(pop);
    assert!(rig.is_end(&ended), "{ended:?}");
    rig.has_ended(far);
    rig.push(far, b"x").unwrap();
    assert_eq!(rig.pop(near).unwrap(), b"x");
    rig.close([near, far]);
}

/// A pop that is cancelled takes nothing with it.
pub fn a_cancelled_pop_loses_nothing<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let [first, second, third] = [0, 1, 2].map(|_| rig.demi.pop_n(far, 3).unwrap());
    rig.demi.cancel(second).unwrap();
    assert_eq!(rig.failure(second), Error::Cancelled);
    rig.push(near, b"abcdef").unwrap();
    let mut bytes = rig.popped(first);
    bytes.extend(rig.popped(third));
    let rest = rig.pop_exactly(far, 6 - bytes.len());
    bytes.extend(rest);
    assert_eq!(bytes, b"abcdef");
    rig.close([near, far]);
}

/// A push that waits behind others and is cancelled is not sent.
pub fn a_cancelled_push_is_not_sent<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let block = rig.sga(&vec![b'a'; 1 << 20]);
    let mut pushes = Vec::new();
    while rig.demi.counters().unwrap().operations_pending < 2 {
        pushes.push(rig.demi.push(near, block.clone()).unwrap());
        rig.idle();
        assert!(pushes.len() < 100, "nothing holds up a peer that does not read");
    }
    let doomed = rig.start_push(near, b"b");
    let last = rig.start_push(near, b"c");
    rig.demi.cancel(doomed).unwrap();
    assert_eq!(rig.failure(doomed), Error::Cancelled);
    let bytes = rig.pop_exactly(far, pushes.len() << 20);
    assert!(bytes.iter().all(|byte| *byte == b'a'));
    assert_eq!(rig.pop(far).unwrap(), b"c");
    for push in pushes.into_iter().chain([last]) {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}
