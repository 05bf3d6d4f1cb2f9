//! In-memory queues, filter, map and partition, over every kind of queue.

use std::cell::Cell;
use std::rc::Rc;

use demi_api::{Done, Error, Position, QDesc, QueueKind, SgArray, Shutdown};

use super::rig::{Harness, Rig, pattern};

/// A queue in memory gives the very arrays that it was given, in order.
pub fn a_queue_in_memory_is_first_in_first_out<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    assert_eq!(rig.demi.kind(queue), Ok(QueueKind::Message));
    let sga = rig.sga(b"shared, not copied");
    for bytes in [&b"one"[..], b"", b"three"] {
        rig.push(queue, bytes).unwrap();
    }
    let push = rig.demi.push(queue, sga.clone()).unwrap();
    rig.completion(push).pushed().unwrap();
    for bytes in [&b"one"[..], b"", b"three"] {
        assert_eq!(rig.pop(queue).unwrap(), bytes);
    }
    let popped = rig.completion(rig.demi.pop(queue).unwrap()).popped().unwrap();
    assert!(popped.segments()[0].shares_object_with(&sga.segments()[0]));
    rig.close([queue]);
}

/// A full queue leaves pushes pending, in order; they can be recalled until there is room.
pub fn a_full_queue_holds_up_pushes<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue_with(2).unwrap();
    let pushes: Vec<_> = (0..5_u8).map(|index| rig.start_push(queue, &[index])).collect();
    rig.stays_pending(pushes[2]);
    rig.demi.cancel(pushes[3]).unwrap();
    assert_eq!(rig.failure(pushes[3]), Error::Cancelled);
    for index in [0, 1, 2, 4] {
        assert_eq!(rig.pop(queue).unwrap(), [index]);
    }
    for index in [0, 1, 2, 4] {
        rig.completion(pushes[index]).pushed().unwrap();
    }
    assert!(matches!(rig.demi.queue_with(0), Err(Error::Invalid(_))));
    rig.close([queue]);
}

/// Closing a queue in memory cancels what waits, and drops and counts what it holds.
pub fn closing_a_queue_in_memory_drops_its_elements<H: Harness>(rig: &Rig<H>) {
    let dropped = || rig.demi.counters().unwrap().elements_dropped;
    let before = dropped();
    let queue = rig.demi.queue_with(1).unwrap();
    let [stored, blocked] = [0, 1].map(|index| rig.start_push(queue, &[index]));
    rig.completion(stored).pushed().unwrap();
    rig.close([queue]);
    assert_eq!(rig.failure(blocked), Error::Cancelled);
    assert_eq!(dropped() - before, 1);
    let queue = rig.demi.queue().unwrap();
    let pop = rig.demi.pop(queue).unwrap();
    rig.close([queue]);
    assert_eq!(rig.failure(pop), Error::Cancelled);
}

/// The end of a queue in memory lies behind its last element.
pub fn a_queue_in_memory_can_end<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    rig.push(queue, b"last").unwrap();
    rig.demi.shutdown(queue, Shutdown::Write).unwrap();
    let refused = rig.demi.push(queue, rig.sga(b"late")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::Closed, b"late".to_vec()));
    assert_eq!(rig.pop(queue).unwrap(), b"last");
    assert_eq!(rig.pop(queue), Err(Error::EndOfStream));
    assert_eq!(rig.pop(queue), Err(Error::EndOfStream));
    rig.close([queue]);
}

/// Only what passes is popped; the rest is dropped and counted.
pub fn filter_drops_on_pop<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let before = rig.demi.counters().unwrap().elements_dropped;
        let even = rig.demi.filter(line.far, |sga| sga.len() % 2 == 0).unwrap();
        assert_eq!(rig.demi.pop(line.far), Err(Error::Claimed), "{}", line.what);
        for size in [1, 2, 3, 4, 5, 0, 6] {
            rig.push(line.near, &pattern(size)).unwrap();
        }
        for size in [2, 4, 0, 6] {
            assert_eq!(rig.pop(even).unwrap(), pattern(size), "{}", line.what);
        }
        assert_eq!(rig.demi.counters().unwrap().elements_dropped - before, 3, "{}", line.what);
        rig.close([even]);
        line.close_near(rig);
    }
}

/// What does not pass is rejected when it is pushed, and goes nowhere.
pub fn filter_rejects_on_push<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let short = rig.demi.filter(line.near, |sga| sga.len() < 4).unwrap();
        assert_eq!(rig.push(short, b"long"), Err(Error::Rejected), "{}", line.what);
        rig.push(short, b"abc").unwrap();
        let popped = if line.near == line.far { rig.pop(short) } else { rig.pop(line.far) };
        assert_eq!(popped.unwrap(), b"abc", "{}", line.what);
        rig.close([short]);
        if line.near != line.far {
            rig.close([line.far]);
        }
    }
}

/// A predicate needs whole messages; so does an order.
pub fn operators_on_messages_refuse_streams<H: Harness>(rig: &Rig<H>) {
    for line in rig.stream_lines() {
        let (demi, far) = (&rig.demi, line.far);
        assert_eq!(demi.filter(far, |_| true), Err(Error::NeedsMessages));
        assert_eq!(demi.partition(far, |_| true), Err(Error::NeedsMessages));
        assert_eq!(demi.sort(far, |_, _| std::cmp::Ordering::Equal), Err(Error::NeedsMessages));
        let memory = demi.queue().unwrap();
        assert_eq!(demi.merge(far, memory), Err(Error::NeedsMessages));
        assert_eq!(demi.frame(memory, super::line::codec()), Err(Error::NeedsStream));
        rig.push(line.near, b"nothing was claimed").unwrap();
        assert_eq!(rig.pop_exactly(far, 19), b"nothing was claimed");
        rig.close([memory]);
        line.close(rig);
    }
}

/// A word is a region's: every other queue says so, and goes on.
pub fn atomic_operations_need_a_region<H: Harness>(rig: &Rig<H>) {
    let refuses = |qd| {
        let at = Position(8);
        let results = [rig.demi.compare_and_swap(qd, at, 0, 1), rig.demi.fetch_and_add(qd, at, 1)];
        results.into_iter().all(|result| matches!(result, Err(Error::NotSupported(_))))
    };
    for line in rig.message_lines().into_iter().chain(rig.stream_lines()) {
        assert!(refuses(line.near) && refuses(line.far), "{}", line.what);
        let derived = rig.demi.map(line.far, |_, sga| Ok(sga), |_, sga| Ok(sga)).unwrap();
        assert!(refuses(derived), "over {}", line.what);
        rig.push(line.near, b"on").unwrap();
        assert_eq!(rig.pop(derived).unwrap()[..1], *b"o");
        rig.close([derived]);
        line.close_near(rig);
    }
}

/// Changed on the way up, with the sender kept; changed on the way down.
pub fn map_changes_both_ways<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let doubled = rig.demi.map(line.far, |heap, sga| double(heap, &sga), |_, sga| Ok(sga)).unwrap();
        rig.push(line.near, b"ab").unwrap();
        let popped = rig.completion(rig.demi.pop(doubled).unwrap()).popped().unwrap();
        assert_eq!(popped.to_vec(), b"abab", "{}", line.what);
        assert_eq!(popped.peer().is_some(), line.what == "datagrams");
        rig.close([doubled]);
        line.close_near(rig);
    }
    for line in rig.message_lines() {
        let doubled = rig.demi.map(line.near, |_, sga| Ok(sga), |heap, sga| double(heap, &sga)).unwrap();
        rig.push(doubled, b"ab").unwrap();
        let popped = if line.near == line.far { rig.pop(doubled) } else { rig.pop(line.far) };
        assert_eq!(popped.unwrap(), b"abab", "{}", line.what);
        rig.close([doubled]);
        if line.near != line.far {
            rig.close([line.far]);
        }
    }
}

/// On a stream pieces are changed as they come, and the end stays the end.
pub fn map_of_a_stream_keeps_its_end<H: Harness>(rig: &Rig<H>) {
    for line in rig.stream_lines() {
        let upper = |heap: &demi_api::Heap, sga: SgArray| {
            Ok(heap.copy_from(&sga.to_vec().to_ascii_uppercase())?.into())
        };
        let shouted = rig.demi.map(line.far, upper, |_, sga| Ok(sga)).unwrap();
        assert_eq!(rig.demi.kind(shouted), Ok(QueueKind::Stream));
        rig.push(line.near, b"quiet words").unwrap();
        rig.demi.shutdown(line.near, Shutdown::Write).unwrap();
        assert_eq!(rig.pop_exactly(shouted, 3), b"QUI");
        assert_eq!(rig.pop_to_end(shouted), b"ET WORDS");
        rig.push(shouted, b"as it is").unwrap();
        assert_eq!(rig.pop_exactly(line.near, 8), b"as it is");
        rig.close([shouted]);
        line.close_near(rig);
    }
}

/// An error of a change fails that operation alone.
pub fn a_failing_change_fails_one_operation<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let check = |_: &demi_api::Heap, sga: SgArray| {
        if sga.len() == 3 { Err(Error::BadFrame("three")) } else { Ok(sga) }
    };
    let checked = rig.demi.map(queue, check, check).unwrap();
    rig.push(queue, b"abc").unwrap();
    assert_eq!(rig.push(checked, b"xyz"), Err(Error::BadFrame("three")));
    rig.push(checked, b"fine").unwrap();
    assert_eq!(rig.pop(checked), Err(Error::BadFrame("three")));
    assert_eq!(rig.pop(checked).unwrap(), b"fine");
    rig.close([checked]);
}

/// Each element goes to one of two sides, and can be pushed on its own side only.
pub fn partition_loses_nothing<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let (short, long) = rig.demi.partition(line.far, |sga| sga.len() < 3).unwrap();
        for size in [1, 5, 2, 6, 7, 0] {
            rig.push(line.near, &pattern(size)).unwrap();
        }
        let sizes = |qd: QDesc, count| (0..count).map(|_| rig.pop(qd).unwrap().len()).collect::<Vec<_>>();
        assert_eq!(sizes(long, 3), [5, 6, 7], "{}", line.what);
        assert_eq!(sizes(short, 3), [1, 2, 0], "{}", line.what);
        assert_eq!(rig.push(short, b"too long"), Err(Error::Rejected));
        rig.close([short]);
        rig.push(line.near, b"a").unwrap();
        rig.push(line.near, b"long enough").unwrap();
        assert_eq!(rig.pop(long).unwrap(), b"long enough", "{}", line.what);
        rig.close([long]);
        line.close_near(rig);
    }
}

/// A side that nobody pops fills up, and then holds up the other; nothing is lost.
pub fn partition_is_bounded_on_both_sides<H: Harness>(rig: &Rig<H>) {
    let demi = rig.instance("[queues]\nmemory_elements = 4\n");
    let source = demi.queue_with(64).unwrap();
    let (yes, no) = demi.partition(source, |sga| sga.to_vec()[0] == b'y').unwrap();
    let elements = b"nnnnny";
    for element in elements {
        demi.push(source, demi.copy_from(&[*element]).unwrap()).unwrap();
    }
    let pop = demi.pop(yes).unwrap();
    let glance = Some(std::time::Duration::from_millis(2));
    assert_eq!(demi.wait(pop, glance).unwrap_err(), Error::TimedOut, "held up by the other side");
    for _ in 0..5 {
        let other = demi.pop(no).unwrap();
        assert_eq!(demi.wait(other, super::PATIENCE).unwrap().popped().unwrap().to_vec(), b"n");
    }
    assert_eq!(demi.wait(pop, super::PATIENCE).unwrap().popped().unwrap().to_vec(), b"y");
    demi.close(yes).unwrap();
    demi.close(no).unwrap();
}

/// A closure that calls back into its instance is told so.
pub fn closures_cannot_call_back<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let seen = Rc::new(Cell::new(0));
    let (demi, count) = (rig.demi.clone(), Rc::clone(&seen));
    let filtered = rig.demi.filter(queue, move |_| {
        assert_eq!(demi.queue(), Err(Error::Reentrant));
        assert_eq!(demi.poll(), Err(Error::Reentrant));
        assert!(demi.copy_from(b"the heap is open").is_ok());
        count.set(count.get() + 1);
        true
    });
    let filtered = filtered.unwrap();
    rig.push(filtered, b"x").unwrap();
    assert_eq!(rig.pop(filtered).unwrap(), b"x");
    assert_eq!(seen.get(), 2);
    rig.close([filtered]);
}

/// Several elements at once: as many as are there, once the first is.
pub fn pop_n_takes_what_is_there<H: Harness>(rig: &Rig<H>) {
    for line in rig.message_lines() {
        let waits = rig.demi.pop_n(line.far, 4).unwrap();
        rig.stays_pending(waits);
        let mut popped = Vec::new();
        for index in 0..9_u8 {
            rig.push(line.near, &[index]).unwrap();
        }
        let mut token = waits;
        while popped.len() < 9 {
            let Ok(Done::Batch(batch)) = rig.outcome(token) else { panic!("{}: no batch", line.what) };
            assert!((1..=4).contains(&batch.len()), "{}: {} elements", line.what, batch.len());
            popped.extend(batch.iter().flat_map(SgArray::to_vec));
            token = rig.demi.pop_n(line.far, 4).unwrap();
        }
        assert_eq!(popped, [0, 1, 2, 3, 4, 5, 6, 7, 8], "{}", line.what);
        rig.demi.cancel(token).unwrap();
        assert_eq!(rig.failure(token), Error::Cancelled);
        rig.push(line.near, b"not lost").unwrap();
        assert_eq!(rig.pop(line.far).unwrap(), b"not lost", "{}", line.what);
        let last = rig.demi.pop_n(line.far, 2).unwrap();
        rig.close([line.far]);
        assert_eq!(rig.failure(last), Error::Cancelled, "{}", line.what);
        line.close_near(rig);
    }
}

fn double(heap: &demi_api::Heap, sga: &SgArray) -> Result<SgArray, Error> {
    Ok(heap.copy_from(&sga.to_vec().repeat(2))?.into())
}
