use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::script::Host;
use crate::error::Error;
use crate::libos::{QueueKind, Shutdown};
use crate::op::{Done, Position};
use crate::sga::SgArray;

fn even(sga: &SgArray) -> bool {
    sga.segments()[0][0].is_multiple_of(2)
}

fn same(_: &crate::Heap, sga: SgArray) -> Result<SgArray, Error> {
    Ok(sga)
}

#[test]
fn a_queue_is_bounded_and_in_order() {
    let host = Host::new();
    let q = host.demi.queue_with(2).unwrap();
    let pushes = [b"a", b"b", b"c", b"d", b"e"].map(|bytes| host.push(q, bytes));
    assert!(!host.is_pending(pushes[1]));
    assert!(host.is_pending(pushes[2]));
    host.demi.cancel(pushes[3]).unwrap();
    assert_eq!(host.result(pushes[3]).unwrap().unwrap_err(), Error::Cancelled);
    assert_eq!(host.pop(q).unwrap(), b"a");
    assert!(!host.is_pending(pushes[2]));
    assert!(host.is_pending(pushes[4]));
    for bytes in [b"b", b"c", b"e"] {
        assert_eq!(host.pop(q).unwrap(), bytes);
    }
    let waiting = host.demi.pop(q).unwrap();
    assert!(host.is_pending(waiting));
    host.push(q, b"");
    assert_eq!(host.popped(waiting).unwrap(), b"", "no bytes are an element");
    assert!(
        matches!(host.demi.push_to(q, host.array(b"x"), "1.2.3.4:5".parse::<std::net::SocketAddr>().unwrap()),
        Err(refused) if refused.sga == b"x"[..])
    );
    host.demi.close(q).unwrap();
    assert_eq!(host.demi.pop(q).unwrap_err(), Error::BadDescriptor);
}

#[test]
fn atomic_operations_reach_a_base_queue_and_are_refused_above_it() {
    let host = Host::new();
    let base = host.stream();
    let token = host.demi.fetch_and_add(base, Position(8), 41).unwrap();
    let completion = host.demi.wait(token, Some(Duration::ZERO)).unwrap();
    assert_eq!(completion.fetched(), Ok(41));
    let token = host.demi.fetch_and_add(base, Position(8), 42).unwrap();
    assert_eq!(host.demi.poll(), Ok(()), "what was in hand is filed");
    assert_eq!(host.demi.wait(token, Some(Duration::ZERO)).unwrap().fetched(), Ok(42));
    let flushed = host.demi.flush(base).unwrap();
    assert!(matches!(host.demi.wait(flushed, None).unwrap().fetched(), Err(Error::Invalid(_))));
    let derived = host.demi.map(base, same, same).unwrap();
    for qd in [derived, host.demi.queue().unwrap()] {
        assert!(matches!(host.demi.compare_and_swap(qd, Position(0), 1, 2), Err(Error::NotSupported(_))));
    }
}

#[test]
fn closing_a_queue_cancels_and_counts() {
    let host = Host::new();
    let q = host.demi.queue_with(1).unwrap();
    let (held, blocked) = (host.push(q, b"a"), host.push(q, b"b"));
    host.demi.close(q).unwrap();
    assert!(host.result(held).unwrap().is_ok());
    assert_eq!(host.result(blocked).unwrap().unwrap_err(), Error::Cancelled);
    assert_eq!(host.dropped(), 1);
    let q = host.demi.queue().unwrap();
    let pop = host.demi.pop(q).unwrap();
    host.demi.close(q).unwrap();
    assert_eq!(host.popped(pop), Err(Error::Cancelled));
    host.assert_clean();
}

#[test]
fn a_queue_can_be_ended() {
    let host = Host::new();
    let q = host.demi.queue_with(1).unwrap();
    let pushes = [host.push(q, b"a"), host.push(q, b"b")];
    host.demi.shutdown(q, Shutdown::Write).unwrap();
    assert_eq!(Error::from(host.demi.push(q, host.array(b"c")).unwrap_err()), Error::Closed);
    assert_eq!(host.pop(q).unwrap(), b"a");
    assert_eq!(host.pop(q).unwrap(), b"b");
    assert_eq!(host.pop(q), Err(Error::EndOfStream));
    assert_eq!(host.pop(q), Err(Error::EndOfStream));
    for push in pushes {
        host.result(push).unwrap().unwrap();
    }
    assert!(matches!(host.demi.shutdown(q, Shutdown::Both), Err(Error::NotSupported(_))));
}

#[test]
fn sources_are_claimed() {
    let host = Host::new();
    let base = host.messages();
    let q = host.demi.queue().unwrap();
    let filtered = host.demi.filter(base, even).unwrap();
    let mapped = host.demi.map(q, same, same).unwrap();
    for source in [base, q] {
        assert_eq!(host.demi.pop(source).unwrap_err(), Error::Claimed);
        assert_eq!(host.demi.pop_n(source, 3).unwrap_err(), Error::Claimed);
        assert_eq!(host.demi.sort(source, |_, _| std::cmp::Ordering::Equal).unwrap_err(), Error::Claimed);
        assert_eq!(host.demi.qconnect(source, filtered).unwrap_err(), Error::Claimed);
        host.push(source, b"direct");
    }
    assert_eq!(host.pop(mapped).unwrap(), b"direct");
    assert_eq!(host.sent(base), [b"direct"]);
}

#[test]
fn constructors_check_their_sources() {
    let host = Host::new();
    let stream = host.stream();
    let messages = host.messages();
    let q = host.demi.queue().unwrap();
    assert_eq!(host.demi.filter(stream, even).unwrap_err(), Error::NeedsMessages);
    assert_eq!(host.demi.partition(stream, even).unwrap_err(), Error::NeedsMessages);
    assert_eq!(host.demi.sort(stream, |_, _| std::cmp::Ordering::Equal).unwrap_err(), Error::NeedsMessages);
    assert_eq!(host.demi.frame(q, crate::graph::frame::Codec::Resp).unwrap_err(), Error::NeedsStream);
    assert!(matches!(host.demi.merge(q, q), Err(Error::Invalid(_))));
    assert!(host.demi.merge(stream, q).is_err());
    assert_eq!(host.demi.kind(stream), Ok(QueueKind::Stream));
    let merged = host.demi.merge(q, messages).unwrap();
    assert_eq!(host.demi.kind(merged), Ok(QueueKind::Message));
    host.demi.close(merged).unwrap();
    for closed in [q, messages, merged] {
        assert_eq!(host.demi.map(closed, same, same).unwrap_err(), Error::BadDescriptor);
    }
    assert!(matches!(host.demi.accept(host.demi.queue().unwrap()), Err(Error::NotSupported(_))));
}

#[test]
fn running_out_of_descriptors_leaves_nothing_behind() {
    let host = Host::with(|config| config.queues.max = 3);
    let base = host.messages();
    let q = host.demi.queue().unwrap();
    assert_eq!(host.demi.partition(base, even).unwrap_err(), Error::TooManyQueues(3));
    let f = host.demi.filter(base, even).unwrap();
    let connect = host.demi.qconnect(q, base).unwrap();
    assert_eq!(host.demi.pop_n(f, 3).unwrap_err(), Error::TooManyQueues(3));
    host.demi.cancel(connect).unwrap();
    assert_eq!(host.result(connect).unwrap().unwrap_err(), Error::Cancelled);
    host.demi.close(f).unwrap();
    host.demi.close(q).unwrap();
    host.assert_clean();
}

#[test]
fn a_filter_drops_and_rejects() {
    let host = Host::new();
    let base = host.messages();
    let f = host.demi.filter(base, even).unwrap();
    for n in (1..=199).step_by(2).chain([200]) {
        host.feed(base, &[n]);
    }
    assert_eq!(host.pop(f).unwrap(), [200], "more than one budget's worth has to be skipped");
    assert_eq!(host.dropped(), 100);
    let (no, yes) = (host.push(f, &[1]), host.push(f, &[2]));
    assert_eq!(host.result(no).unwrap().unwrap_err(), Error::Rejected);
    assert!(matches!(host.result(yes), Some(Ok(Done::Pushed(Position(1))))));
    assert_eq!(host.sent(base), [[2]]);
}

#[test]
fn a_map_changes_both_ways() {
    let host = Host::new();
    let base = host.stream();
    let prefix = |byte: u8| {
        move |heap: &crate::Heap, mut sga: SgArray| {
            if sga == b"bad"[..] {
                return Err(Error::Invalid("bad"));
            }
            if sga == b"nothing"[..] {
                return Ok(SgArray::new());
            }
            sga.push_front(heap.copy_from(&[byte])?)?;
            Ok(sga)
        }
    };
    let m = host.demi.map(base, prefix(b'<'), prefix(b'>')).unwrap();
    host.feed(base, b"one");
    host.feed(base, b"bad");
    host.feed(base, b"nothing");
    host.feed(base, b"two");
    host.feed(base, b"");
    assert_eq!(host.pop(m).unwrap(), b"<one");
    assert_eq!(host.pop(m), Err(Error::Invalid("bad")));
    let sized = host.demi.pop_n(m, 3).unwrap();
    assert_eq!(host.popped(sized).unwrap(), b"<tw");
    assert_eq!(host.pop(m).unwrap(), b"o");
    assert_eq!(host.pop(m).unwrap(), b"");
    let bad = host.push(m, b"bad");
    assert_eq!(host.result(bad).unwrap().unwrap_err(), Error::Invalid("bad"));
    let good = host.push(m, b"good");
    host.result(good).unwrap().unwrap();
    assert_eq!(host.sent(base), [b">good"]);
    host.base(base, |queue| queue.refuses = Some(Error::NotConnected));
    let refused = host.demi.push(m, host.array(b"back")).unwrap_err();
    assert_eq!(refused.error, Error::NotConnected);
    assert!(refused.sga == b"back"[..], "a refused push gives back what it was given");
}

#[test]
fn a_merge_takes_turns() {
    let host = Host::new();
    let (a, b) = (host.messages(), host.messages());
    let m = host.demi.merge(a, b).unwrap();
    for n in 0..3 {
        host.feed(a, &[n]);
        host.feed(b, &[n + 10]);
    }
    let popped: Vec<u8> = (0..6).map(|_| host.pop(m).unwrap()[0]).collect();
    assert_eq!(popped, [0, 10, 1, 11, 2, 12]);
    let pop = host.demi.pop(m).unwrap();
    host.feed(b, &[9]);
    assert_eq!(host.popped(pop).unwrap(), [9]);
    host.fail(a, Error::EndOfStream);
    host.feed(b, &[8]);
    assert_eq!(host.pop(m).unwrap(), [8], "the other goes on");
    host.fail(b, Error::NoBuffers);
    assert_eq!(host.pop(m), Err(Error::NoBuffers));
    host.fail(b, Error::ConnectionReset);
    assert_eq!(host.pop(m), Err(Error::ConnectionReset));
    assert_eq!(host.pop(m), Err(Error::EndOfStream));
}

#[test]
fn merged_streams_end_when_both_have() {
    let host = Host::new();
    let (a, b) = (host.stream(), host.stream());
    let m = host.demi.merge(a, b).unwrap();
    host.feed(a, b"");
    let pop = host.demi.pop(m).unwrap();
    assert!(host.is_pending(pop));
    host.feed(b, b"x");
    assert_eq!(host.popped(pop).unwrap(), b"x");
    host.feed(b, b"");
    assert_eq!(host.pop(m).unwrap(), b"");
    assert_eq!(host.pop(m).unwrap(), b"");
}

#[test]
fn a_merge_pushes_to_both() {
    let host = Host::new();
    let (a, b) = (host.messages(), host.messages());
    let m = host.demi.merge(a, b).unwrap();
    host.base(a, |queue| queue.holds = true);
    let pushes = [host.push(m, b"1"), host.push(m, b"2")];
    assert!(host.is_pending(pushes[0]) && host.is_pending(pushes[1]));
    assert_eq!(host.demi.cancel(pushes[0]).unwrap_err(), Error::NotCancellable);
    host.base(a, |queue| queue.refuses = Some(Error::NoBuffers));
    let failing = host.push(m, b"3");
    assert!(host.is_pending(failing), "pushes complete in order");
    host.base(a, |queue| queue.holds = false);
    for push in pushes {
        host.result(push).unwrap().unwrap();
    }
    let Some(Err(Error::Branch { qd, cause })) = host.result(failing) else { panic!("one branch failed") };
    assert_eq!((qd, *cause), (a, Error::NoBuffers));
    assert_eq!(host.sent(a), [b"1", b"2"]);
    assert_eq!(host.sent(b), [b"1", b"2", b"3"]);
    host.base(b, |queue| queue.refuses = Some(Error::Closed));
    let refused = host.demi.push(m, host.array(b"4")).unwrap_err();
    assert_eq!(refused.error, Error::Branch { qd: a, cause: Box::new(Error::NoBuffers) });
    assert!(refused.sga == b"4"[..]);
}

#[test]
fn a_partition_loses_nothing() {
    let host = Host::with(|config| config.queues.memory_elements = 2);
    let base = host.messages();
    let (evens, odds) = host.demi.partition(base, even).unwrap();
    for n in [1, 3, 5, 2, 4] {
        host.feed(base, &[n]);
    }
    let pop = host.demi.pop(evens).unwrap();
    assert!(host.is_pending(pop), "the odd side is full");
    assert_eq!(host.pop(odds).unwrap(), [1]);
    assert!(host.is_pending(pop), "it is full again");
    assert_eq!(host.pop(odds).unwrap(), [3]);
    assert_eq!(host.popped(pop).unwrap(), [2]);
    assert_eq!(host.pop(odds).unwrap(), [5]);
    assert_eq!(host.pop(evens).unwrap(), [4]);
    host.fail(base, Error::EndOfStream);
    assert_eq!(host.pop(odds), Err(Error::EndOfStream));
    let (rejected, taken) = (host.push(odds, &[2]), host.push(evens, &[2]));
    assert_eq!(host.result(rejected).unwrap().unwrap_err(), Error::Rejected);
    host.result(taken).unwrap().unwrap();
    host.demi.close(odds).unwrap();
    for n in [7, 9, 11, 6] {
        host.feed(base, &[n]);
    }
    assert_eq!(host.pop(evens).unwrap(), [6], "a closed side does not fill");
    assert_eq!(host.dropped(), 3);
    host.demi.close(evens).unwrap();
    assert_eq!(host.demi.kind(base), Err(Error::BadDescriptor));
    host.assert_clean();
}

#[test]
fn a_sort_is_stable_and_looks_ahead() {
    let host = Host::new();
    let base = host.messages();
    let key = |sga: &SgArray| sga.segments()[0][0];
    let s = host.demi.sort_with(base, 4, move |a, b| key(a).cmp(&key(b))).unwrap();
    for element in ["1a", "2a", "2b", "1b", "9x", "2c"] {
        host.feed(base, element.as_bytes());
    }
    host.fail(base, Error::EndOfStream);
    let order: Vec<String> = (0..6).map(|_| String::from_utf8(host.pop(s).unwrap()).unwrap()).collect();
    assert_eq!(order, ["2a", "9x", "2b", "2c", "1a", "1b"]);
    assert_eq!(host.pop(s), Err(Error::EndOfStream));
    let pop = host.demi.pop(s).unwrap();
    host.feed(base, b"0");
    assert_eq!(host.popped(pop).unwrap(), b"0", "a waiting pop takes the first to come");
}

#[test]
fn sorts_see_through_other_operators() {
    let host = Host::new();
    let q = host.demi.queue().unwrap();
    let f = host.demi.filter(q, even).unwrap();
    let m = host.demi.map(f, same, same).unwrap();
    let inner = host.demi.sort_with(m, 3, |a, b| a.segments()[0][0].cmp(&b.segments()[0][0])).unwrap();
    let s = host.demi.sort(inner, |a, b| b.segments()[0][0].cmp(&a.segments()[0][0])).unwrap();
    for n in [8, 3, 6, 5, 2, 4] {
        host.push(q, &[n]);
    }
    let order: Vec<u8> = (0..4).map(|_| host.pop(s).unwrap()[0]).collect();
    assert_eq!(order, [2, 4, 6, 8]);
}

#[test]
fn a_cancelled_pop_loses_nothing() {
    let host = Host::new();
    let base = host.messages();
    let m = host.demi.map(base, same, same).unwrap();
    let pop = host.demi.pop(m).unwrap();
    host.demi.cancel(pop).unwrap();
    assert_eq!(host.popped(pop), Err(Error::Cancelled));
    assert_eq!(host.demi.cancel(pop).unwrap_err(), Error::BadToken);
    host.feed(base, b"kept");
    host.demi.poll().unwrap();
    assert_eq!(host.pop(m).unwrap(), b"kept");
    let pops = [0; 3].map(|_| host.demi.pop(m).unwrap());
    host.demi.cancel(pops[0]).unwrap();
    host.demi.cancel(pops[1]).unwrap();
    host.feed(base, b"next");
    assert_eq!(host.popped(pops[2]).unwrap(), b"next");
    let pop = host.demi.pop(m).unwrap();
    host.feed(base, b"done");
    host.demi.poll().unwrap();
    assert_eq!(host.demi.cancel(pop).unwrap_err(), Error::NotCancellable);
    assert_eq!(host.popped(pop).unwrap(), b"done");
}

#[test]
fn pop_n_takes_what_is_there() {
    let host = Host::new();
    let base = host.messages();
    for n in 0..3 {
        host.feed(base, &[n]);
    }
    let batch = |token| host.batch(token);
    assert_eq!(batch(host.demi.pop_n(base, 2).unwrap()).unwrap(), [[0], [1]]);
    assert_eq!(batch(host.demi.pop_n(base, 9).unwrap()).unwrap(), [[2]]);
    let waiting = host.demi.pop_n(base, 9).unwrap();
    assert!(host.is_pending(waiting));
    host.feed(base, &[3]);
    host.feed(base, &[4]);
    let first = batch(waiting).unwrap();
    assert_eq!(first, [[3], [4]]);
    host.feed(base, &[5]);
    host.base(base, |queue| queue.uncancellable = true);
    let stuck = host.demi.pop_n(base, 9).unwrap();
    assert!(host.is_pending(stuck), "the last pop could not be recalled");
    host.feed(base, &[6]);
    host.feed(base, &[7]);
    assert_eq!(batch(stuck).unwrap(), [[5], [6]]);
    assert_eq!(host.pop(base).unwrap(), [7]);
    host.base(base, |queue| queue.uncancellable = false);
    let cancelled = host.demi.pop_n(base, 9).unwrap();
    host.demi.cancel(cancelled).unwrap();
    assert_eq!(batch(cancelled), Err(Error::Cancelled));
    host.fail(base, Error::EndOfStream);
    assert_eq!(batch(host.demi.pop_n(base, 9).unwrap()), Err(Error::EndOfStream));
    let closed = host.demi.pop_n(base, 9).unwrap();
    host.demi.close(base).unwrap();
    assert_eq!(batch(closed), Err(Error::Cancelled));
    host.assert_clean();
}

#[test]
fn pop_n_of_derived_queues() {
    let host = Host::new();
    let q = host.demi.queue().unwrap();
    let f = host.demi.filter(q, even).unwrap();
    let waiting = host.demi.pop_n(f, 3).unwrap();
    for n in 1..=8 {
        host.push(q, &[n]);
    }
    assert_eq!(host.batch(waiting).unwrap(), [[2], [4], [6]]);
    assert_eq!(host.batch(host.demi.pop_n(f, 3).unwrap()).unwrap(), [[8]]);
    let waiting = host.demi.pop_n(f, 3).unwrap();
    host.demi.close(f).unwrap();
    assert_eq!(host.batch(waiting), Err(Error::Cancelled));
    for _ in 0..8 {
        assert_eq!(host.demi.wait_next_n(&mut Vec::new(), 1, Some(Duration::ZERO)), Ok(1));
    }
    host.assert_clean();
}

#[test]
fn operators_stack_to_a_limit() {
    let host = Host::new();
    let base = host.messages();
    let mut top = base;
    for _ in 0..super::super::MAX_DEPTH {
        top = host.demi.map(top, same, same).unwrap();
    }
    assert_eq!(host.demi.map(top, same, same).unwrap_err(), Error::TooDeep(16));
    let pop = host.demi.pop(top).unwrap();
    host.feed(base, b"up");
    assert_eq!(host.popped(pop).unwrap(), b"up");
    host.base(base, |queue| queue.holds = true);
    let push = host.push(top, b"down");
    assert!(host.is_pending(push));
    host.base(base, |queue| queue.holds = false);
    host.result(push).unwrap().unwrap();
    let pop = host.demi.pop(top).unwrap();
    host.demi.close(top).unwrap();
    assert_eq!(host.popped(pop), Err(Error::Cancelled));
    assert_eq!(host.demi.kind(base), Err(Error::BadDescriptor));
    host.sent(host.messages());
    host.assert_clean();
}

#[test]
fn a_wide_tree_of_merges_is_popped_within_budgets() {
    let host = Host::new();
    let bases: Vec<_> = (0..256).map(|_| host.messages()).collect();
    let mut level = bases.clone();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| host.demi.merge(pair[0], pair[1]).unwrap()).collect();
    }
    let pop = host.demi.pop(level[0]).unwrap();
    host.demi.core().unwrap().policy.takes = 0;
    assert!(host.is_pending(pop));
    host.feed(bases[255], b"x");
    assert_eq!(host.popped(pop).unwrap(), b"x");
    host.demi.close(level[0]).unwrap();
    assert_eq!(host.demi.kind(bases[7]), Err(Error::BadDescriptor));
    host.assert_clean();
}

#[test]
fn closures_cannot_call_back() {
    let host = Host::new();
    let base = host.messages();
    let seen = Rc::new(RefCell::new(None));
    let (demi, saw) = (host.demi.clone(), Rc::clone(&seen));
    let f = host
        .demi
        .filter(base, move |_| {
            *saw.borrow_mut() = demi.pop(base).err();
            true
        })
        .unwrap();
    host.feed(base, b"x");
    assert_eq!(host.pop(f).unwrap(), b"x");
    assert_eq!(*seen.borrow(), Some(Error::Reentrant));
    host.demi.close(f).unwrap();
}

#[test]
fn a_panicking_closure_costs_one_element() {
    let host = Host::new();
    let base = host.messages();
    let f =
        host.demi.filter(base, |sga| if *sga == b"boom"[..] { panic!("as asked") } else { true }).unwrap();
    host.feed(base, b"boom");
    host.feed(base, b"fine");
    host.feed(base, b"too");
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.demi.pop(f)));
    assert!(unwound.is_err());
    assert_eq!(host.pop(f).unwrap(), b"fine");
    assert_eq!(host.pop(f).unwrap(), b"too");
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.push(f, b"boom")));
    assert!(unwound.is_err());
    let pop = host.demi.pop(f).unwrap();
    host.feed(base, b"boom");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.demi.poll())).is_err());
    host.feed(base, b"still");
    assert_eq!(host.popped(pop).unwrap(), b"still", "a pop that waited goes on waiting");
    host.demi.close(f).unwrap();
    host.assert_clean();
}

#[test]
fn a_panicking_closure_takes_no_result_from_whoever_waits_for_another_queue() {
    let host = Host::new();
    let (base, other, third) = (host.messages(), host.messages(), host.messages());
    let f =
        host.demi.filter(base, |sga| if *sga == b"boom"[..] { panic!("as asked") } else { true }).unwrap();
    let (filtered, waited, pending) =
        (host.demi.pop(f).unwrap(), host.demi.pop(other).unwrap(), host.demi.pop(third).unwrap());
    host.feed(other, b"mine");
    host.feed(base, b"boom");
    let wait = || host.demi.wait(waited, None);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(wait)).is_err());
    let none = host.demi.wait(pending, Some(std::time::Duration::ZERO));
    assert_eq!(none.map(|completion| completion.token), Err(Error::TimedOut));
    host.feed(third, b"theirs");
    let next = host.demi.wait(pending, None).unwrap();
    assert_eq!((next.token, next.popped().unwrap().to_vec()), (pending, b"theirs".to_vec()));
    let first = host.demi.wait(waited, None).unwrap();
    assert_eq!((first.token, first.popped().unwrap().to_vec()), (waited, b"mine".to_vec()));
    host.feed(base, b"fine");
    assert_eq!(host.popped(filtered).unwrap(), b"fine");
    host.demi.close(f).unwrap();
    host.assert_clean();
}
