//! Merge, sort and qconnect, over every kind of queue.

use demi_api::{Done, Error, QDesc, QToken, SgArray, Shutdown};

use super::line::Line;
use super::rig::{Harness, Rig, pattern};

/// When both sources have elements, they take turns.
pub fn merge_pops_from_both_in_turn<H: Harness>(rig: &Rig<H>) {
    let (left, right) = (rig.message_lines(), rig.message_lines());
    for (a, b) in left.into_iter().zip(right.into_iter().rev()) {
        let merged = rig.demi.merge(a.far, b.far).unwrap();
        for qd in [a.far, b.far] {
            assert_eq!(rig.demi.pop(qd), Err(Error::Claimed));
        }
        for index in 0..8_u8 {
            rig.push(a.near, &[b'a', index]).unwrap();
            rig.push(b.near, &[b'b', index]).unwrap();
        }
        let pop = || {
            // Time for a source to yield, if it does not do so on the spot.
            for _ in 0..40 {
                rig.demi.poll().unwrap();
            }
            rig.pop(merged).unwrap()
        };
        let popped: Vec<Vec<u8>> = (0..16).map(|_| pop()).collect();
        for source in *b"ab" {
            let its: Vec<u8> = popped.iter().filter(|sga| sga[0] == source).map(|sga| sga[1]).collect();
            assert_eq!(its, [0, 1, 2, 3, 4, 5, 6, 7], "{} and {}", a.what, b.what);
        }
        let half = &popped[..8];
        for source in *b"ab" {
            let share = half.iter().filter(|sga| sga[0] == source).count();
            assert!(share >= 2, "{} and {}: {share} of 8 from {}", a.what, b.what, source as char);
        }
        rig.close([merged]);
        a.close_near(rig);
        b.close_near(rig);
    }
}

/// A push goes to both, and completes when both have it.
pub fn merge_pushes_to_both<H: Harness>(rig: &Rig<H>) {
    let (left, right) = (rig.message_lines(), rig.message_lines());
    for (a, b) in left.into_iter().zip(right) {
        let merged = rig.demi.merge(a.near, b.near).unwrap();
        let pushes: Vec<QToken> = (0..10_u8).map(|index| rig.start_push(merged, &[index])).collect();
        for push in pushes {
            rig.completion(push).pushed().unwrap();
        }
        if a.near == a.far {
            let mut popped: Vec<u8> = (0..20).map(|_| rig.pop(merged).unwrap()[0]).collect();
            popped.sort_unstable();
            assert_eq!(popped, (0..20).map(|index| index / 2).collect::<Vec<u8>>(), "{}", a.what);
        } else {
            for far in [a.far, b.far] {
                let popped: Vec<u8> = (0..10).map(|_| rig.pop(far).unwrap()[0]).collect();
                assert_eq!(popped, (0..10).collect::<Vec<u8>>(), "{}", a.what);
            }
            rig.close([a.far, b.far]);
        }
        rig.close([merged]);
    }
}

/// A branch that fails is named; the other has the element.
pub fn merge_names_the_branch_that_failed<H: Harness>(rig: &Rig<H>) {
    let [a, b] = [0, 1].map(|_| rig.demi.queue().unwrap());
    let merged = rig.demi.merge(a, b).unwrap();
    rig.demi.shutdown(b, Shutdown::Write).unwrap();
    let failed = Error::Branch { qd: b, cause: Box::new(Error::Closed) };
    assert_eq!(rig.push(merged, b"half"), Err(failed));
    assert_eq!(rig.pop(merged).unwrap(), b"half");
    rig.demi.shutdown(a, Shutdown::Write).unwrap();
    let refused = rig.demi.push(merged, rig.sga(b"back")).unwrap_err();
    assert_eq!(refused.error, Error::Branch { qd: a, cause: Box::new(Error::Closed) });
    assert_eq!(refused.sga.to_vec(), b"back");
    assert_eq!(rig.pop(merged), Err(Error::EndOfStream));
    rig.close([merged]);
    assert!(matches!(rig.demi.merge(a, a), Err(Error::Invalid(_) | Error::BadDescriptor)));
}

/// A push waits for the slower branch; those behind it wait too, and come in order.
pub fn merge_waits_for_the_slower_branch<H: Harness>(rig: &Rig<H>) {
    let (wide, narrow) = (rig.demi.queue().unwrap(), rig.demi.queue_with(1).unwrap());
    let merged = rig.demi.merge(wide, narrow).unwrap();
    let pushes = [0, 1, 2].map(|index| rig.start_push(merged, &[index]));
    rig.completion(pushes[0]).pushed().unwrap();
    rig.stays_pending(pushes[1]);
    assert_eq!(rig.demi.cancel(pushes[1]), Err(Error::NotCancellable));
    let mut popped: Vec<u8> = (0..6).map(|_| rig.pop(merged).unwrap()[0]).collect();
    popped.sort_unstable();
    assert_eq!(popped, [0, 0, 1, 1, 2, 2]);
    for push in &pushes[1..] {
        rig.completion(*push).pushed().unwrap();
    }
    rig.close([merged]);
}

/// Of two streams, each keeps its own order, and the end comes when both have ended.
pub fn merged_streams_end_when_both_have<H: Harness>(rig: &Rig<H>) {
    for (a, b) in rig.stream_lines().into_iter().zip(rig.stream_lines()) {
        let merged = rig.demi.merge(a.far, b.far).unwrap();
        rig.push(a.near, &[b'a'; 10_000]).unwrap();
        rig.demi.shutdown(a.near, Shutdown::Write).unwrap();
        rig.push(b.near, &[b'b'; 10_000]).unwrap();
        let bytes = rig.pop_exactly(merged, 20_000);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'a').count(), 10_000);
        let pop = rig.demi.pop(merged).unwrap();
        rig.stays_pending(pop);
        rig.demi.shutdown(b.near, Shutdown::Write).unwrap();
        assert_eq!(rig.popped(pop), b"");
        rig.close([merged]);
        a.close_near(rig);
        b.close_near(rig);
    }
}

/// The greatest of those that are there comes first; equal ones keep their order.
pub fn sort_pops_the_greatest_first<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let sorted = rig.demi.sort(line.far, by_first_byte).unwrap();
        for element in [[3, 0], [9, 1], [3, 2], [7, 3], [9, 4], [1, 5]] {
            rig.push(line.near, &element).unwrap();
        }
        // On a network, what was pushed may be a moment on its way.
        rig.idle();
        let popped: Vec<Vec<u8>> = (0..6).map(|_| rig.pop(sorted).unwrap()).collect();
        let mut expected = popped.clone();
        expected.sort();
        assert_eq!(expected, [[1, 5], [3, 0], [3, 2], [7, 3], [9, 1], [9, 4]], "{}", line.what);
        if line.what == "queue in memory" {
            assert_eq!(popped, [[9, 1], [9, 4], [7, 3], [3, 0], [3, 2], [1, 5]]);
        }
        rig.push(sorted, b"z").unwrap();
        rig.close([sorted]);
        line.close_near(rig);
    }
}

/// No more elements are held than the order may look ahead.
pub fn sort_looks_ahead_so_far_and_no_further<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    for element in [1, 2, 3, 9, 4] {
        rig.push(queue, &[element]).unwrap();
    }
    let sorted = rig.demi.sort_with(queue, 3, by_first_byte).unwrap();
    let popped: Vec<u8> = (0..5).map(|_| rig.pop(sorted).unwrap()[0]).collect();
    assert_eq!(popped, [3, 9, 4, 2, 1]);
    assert!(matches!(rig.demi.sort_with(sorted, 0, by_first_byte), Err(Error::Invalid(_))));
    rig.demi.shutdown(sorted, Shutdown::Write).unwrap();
    assert_eq!(rig.pop(sorted), Err(Error::EndOfStream));
    rig.close([sorted]);
}

/// Elements go from one queue to another, whatever they are, and the end is passed on.
pub fn qconnect_moves_elements_and_the_end<H: Harness>(rig: &Rig<H>) {
    let (from, to) = (rig.message_lines(), rig.message_lines());
    for (from, to) in from.iter().zip(to.iter().rev()) {
        let moving = rig.demi.qconnect(from.far, to.near).unwrap();
        assert_eq!(rig.demi.pop(from.far), Err(Error::Claimed));
        for index in 0..40 {
            rig.push(from.near, &pattern(index)).unwrap();
            assert_eq!(rig.pop(to.far).unwrap(), pattern(index), "{} to {}", from.what, to.what);
        }
        let ends = ["queue in memory", "framed connection", "connection"].contains(&from.what);
        if ends {
            rig.demi.shutdown(from.near, Shutdown::Write).unwrap();
            assert!(matches!(rig.outcome(moving), Ok(Done::Moved(40))), "{} to {}", from.what, to.what);
        } else {
            rig.stays_pending(moving);
            rig.demi.cancel(moving).unwrap();
            assert_eq!(rig.failure(moving), Error::Cancelled);
        }
        if ends && to.what.contains("connection") {
            assert_eq!(rig.pop(to.far), Err(Error::EndOfStream), "{} to {}", from.what, to.what);
        }
    }
    for line in from.into_iter().chain(to) {
        line.close(rig);
    }
}

/// Two connections become one, as in a proxy: bytes go both ways, and each half-close is passed on.
pub fn qconnect_makes_a_proxy<H: Harness>(rig: &Rig<H>) {
    for (client, server) in rig.stream_lines().into_iter().zip(rig.stream_lines()) {
        let (up, down) =
            (rig.demi.qconnect(client.far, server.near), rig.demi.qconnect(server.near, client.far));
        let request = pattern(1 << 20);
        let push = rig.start_push(client.near, &request);
        assert!(rig.pop_exactly(server.far, request.len()) == request);
        rig.completion(push).pushed().unwrap();
        rig.demi.shutdown(client.near, Shutdown::Write).unwrap();
        assert_eq!(rig.pop(server.far).unwrap(), b"", "the client's end");
        assert!(matches!(rig.outcome(up.unwrap()), Ok(Done::Moved(1..))));
        rig.push(server.far, b"answer").unwrap();
        assert_eq!(rig.pop_exactly(client.near, 6), b"answer");
        rig.demi.shutdown(server.far, Shutdown::Write).unwrap();
        assert_eq!(rig.pop(client.near).unwrap(), b"", "the server's end");
        assert!(matches!(rig.outcome(down.unwrap()), Ok(Done::Moved(1..))));
        client.close(rig);
        server.close(rig);
    }
}

/// A sink that is full holds up its source: only the elements in flight leave it.
pub fn qconnect_obeys_back_pressure<H: Harness>(rig: &Rig<H>) {
    let (from, to) = (rig.demi.queue_with(100).unwrap(), rig.demi.queue_with(2).unwrap());
    let moving = rig.demi.qconnect(from, to).unwrap();
    let pushes: Vec<QToken> = (0..100).map(|index| rig.start_push(from, &[index])).collect();
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.idle();
    rig.demi.cancel(moving).unwrap();
    rig.stays_pending(moving);
    let mut moved = Vec::new();
    while let Err(Error::TimedOut) = rig.demi.wait(moving, Some(std::time::Duration::ZERO)) {
        moved.extend(rig.pop(to).unwrap());
        assert!(moved.len() <= 11, "more was moved than may be in flight");
    }
    let rest: Vec<u8> = (0..98 - moved.len()).map(|_| rig.pop(from).unwrap()[0]).collect();
    let held: Vec<u8> = (0..2).map(|_| rig.pop(to).unwrap()[0]).collect();
    let all = [moved, held, rest].concat();
    assert_eq!(all, (0..100).collect::<Vec<u8>>());
    rig.close([from, to]);
}

/// Closing either end ends the connection; the other end stays as it is.
pub fn qconnect_ends_with_either_queue<H: Harness>(rig: &Rig<H>) {
    let make = |rig: &Rig<H>| -> (QDesc, QDesc, QToken) {
        let [from, to] = [0, 1].map(|_| rig.demi.queue().unwrap());
        (from, to, rig.demi.qconnect(from, to).unwrap())
    };
    let (from, to, moving) = make(rig);
    rig.close([from]);
    assert_eq!(rig.failure(moving), Error::Cancelled);
    assert_eq!(rig.pop(to), Err(Error::EndOfStream));
    rig.close([to]);
    let (from, to, moving) = make(rig);
    rig.close([to]);
    assert_eq!(rig.failure(moving), Error::Cancelled);
    rig.push(from, b"mine again").unwrap();
    assert_eq!(rig.pop(from).unwrap(), b"mine again");
    assert!(matches!(rig.demi.qconnect(from, from), Err(Error::Invalid(_))));
    rig.close([from]);
}

/// Operators of all kinds upon one another, over every kind of queue.
pub fn operators_stack<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let Line { what, near, far } = line;
        let extra = rig.demi.queue().unwrap();
        let merged = rig.demi.merge(far, extra).unwrap();
        let odd = rig.demi.filter(merged, |sga| sga.to_vec()[0] % 2 == 1).unwrap();
        let (low, high) = rig.demi.partition(odd, |sga| sga.to_vec()[0] < 10).unwrap();
        let add = |heap: &demi_api::Heap, sga: SgArray| Ok(heap.copy_from(&[sga.to_vec()[0] + 100])?.into());
        let mapped = rig.demi.map(low, add, |_, sga| Ok(sga)).unwrap();
        let sorted = rig.demi.sort(mapped, by_first_byte).unwrap();
        for element in 0..20 {
            rig.push(if element < 7 { near } else { extra }, &[element]).unwrap();
        }
        let mut popped: Vec<u8> = (0..5).map(|_| rig.pop(sorted).unwrap()[0]).collect();
        popped.sort_unstable();
        assert_eq!(popped, [101, 103, 105, 107, 109], "{what}");
        let mut popped: Vec<u8> = (0..5).map(|_| rig.pop(high).unwrap()[0]).collect();
        popped.sort_unstable();
        assert_eq!(popped, [11, 13, 15, 17, 19], "{what}");
        assert_eq!(rig.push(sorted, &[4]), Err(Error::Rejected), "{what}");
        let pending = [sorted, high].map(|qd| rig.demi.pop(qd).unwrap());
        rig.close([sorted, high]);
        for pop in pending {
            assert_eq!(rig.failure(pop), Error::Cancelled, "{what}");
        }
        line.close_near(rig);
    }
}

fn by_first_byte(a: &SgArray, b: &SgArray) -> std::cmp::Ordering {
    a.segments()[0][0].cmp(&b.segments()[0][0])
}
