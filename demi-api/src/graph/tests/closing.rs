use super::script::Host;
use crate::error::Error;
use crate::op::{Done, Position};
use crate::sga::SgArray;

fn same(_: &crate::Heap, sga: SgArray) -> Result<SgArray, Error> {
    Ok(sga)
}

#[test]
fn pushes_outlive_their_operator() {
    let host = Host::new();
    let (a, b) = (host.messages(), host.messages());
    let m = host.demi.merge(a, b).unwrap();
    let top = host.demi.map(m, same, same).unwrap();
    for base in [a, b] {
        host.base(base, |queue| queue.holds = true);
    }
    let pushes = [host.push(top, b"1"), host.push(top, b"2")];
    let pop = host.demi.pop(top).unwrap();
    host.demi.close(top).unwrap();
    assert_eq!(host.popped(pop), Err(Error::Cancelled));
    for closed in [top, m, a, b] {
        assert_eq!(host.demi.close(closed).unwrap_err(), Error::BadDescriptor);
    }
    for push in pushes {
        assert!(matches!(host.result(push), Some(Ok(Done::Pushed(Position(77))))), "the base's own word");
    }
    host.assert_clean();
}

#[test]
fn closing_a_base_queue_reaches_whoever_waits_above() {
    let host = Host::new();
    let base = host.messages();
    let f = host.demi.filter(base, |_| true).unwrap();
    let top = host.demi.map(f, same, same).unwrap();
    let pops = [0; 3].map(|_| host.demi.pop(top).unwrap());
    host.demi.close(base).unwrap();
    for pop in pops {
        assert_eq!(host.popped(pop), Err(Error::Cancelled));
    }
    let other = host.messages();
    host.feed(other, b"not theirs");
    assert_eq!(host.pop(top), Err(Error::Cancelled));
    let refused = host.demi.push(top, host.array(b"x")).unwrap_err();
    assert_eq!(refused.error, Error::Cancelled);
    assert_eq!(host.pop(other).unwrap(), b"not theirs");
    host.demi.close(top).unwrap();
    assert!(host.demi.kind(other).is_ok(), "a closed source is not closed again");
    host.demi.close(other).unwrap();
    drop(refused);
    host.assert_clean();
}

#[test]
fn numbers_of_closed_sources_are_reused_safely() {
    let host = Host::with(|config| config.queues.max = 4);
    for _ in 0..20 {
        let q = host.demi.queue().unwrap();
        let m = host.demi.map(q, same, same).unwrap();
        let pop = host.demi.pop(m).unwrap();
        host.demi.close(q).unwrap();
        let again = host.demi.queue().unwrap();
        assert!(host.demi.pop(again).is_ok(), "a claim does not outlive its queue");
        assert_eq!(host.popped(pop), Err(Error::Cancelled));
        host.demi.close(m).unwrap();
        host.demi.close(again).unwrap();
        let mut results = Vec::new();
        host.demi.wait_next_n(&mut results, 9, Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(results.len(), 1);
        host.assert_clean();
    }
}

#[test]
fn an_element_already_here_survives_its_source() {
    let host = Host::new();
    let base = host.messages();
    let m = host.demi.map(base, same, same).unwrap();
    let pop = host.demi.pop(m).unwrap();
    host.demi.cancel(pop).unwrap();
    assert!(host.result(pop).unwrap().is_err());
    host.feed(base, b"here");
    host.demi.poll().unwrap();
    host.demi.close(base).unwrap();
    assert_eq!(host.pop(m).unwrap(), b"here");
    assert_eq!(host.pop(m), Err(Error::Cancelled));
    host.demi.close(m).unwrap();
    host.assert_clean();
}

#[test]
fn what_is_held_when_closed_is_counted() {
    let host = Host::new();
    let base = host.messages();
    let s = host.demi.sort(base, |_, _| std::cmp::Ordering::Equal).unwrap();
    for _ in 0..4 {
        host.feed(base, b"x");
    }
    assert!(host.pop(s).is_ok());
    host.demi.close(s).unwrap();
    assert_eq!(host.dropped(), 3);
    host.assert_clean();
}

#[test]
fn a_merge_goes_on_with_the_source_that_is_left() {
    let host = Host::new();
    let (a, b) = (host.messages(), host.demi.queue().unwrap());
    let m = host.demi.merge(a, b).unwrap();
    let pop = host.demi.pop(m).unwrap();
    host.demi.close(a).unwrap();
    assert!(host.is_pending(pop));
    let push = host.push(m, b"x");
    let Some(Err(Error::Branch { qd, cause })) = host.result(push) else { panic!("a branch is closed") };
    assert_eq!((qd, *cause), (a, Error::Cancelled));
    assert_eq!(host.popped(pop).unwrap(), b"x");
    let pop = host.demi.pop(m).unwrap();
    host.demi.close(b).unwrap();
    assert_eq!(host.popped(pop), Err(Error::Cancelled));
    assert_eq!(host.pop(m), Err(Error::Cancelled));
    host.demi.close(m).unwrap();
    host.assert_clean();
}

#[test]
fn a_partition_of_a_partition_closes_from_the_top() {
    let host = Host::new();
    let base = host.messages();
    let (yes, no) = host.demi.partition(base, |sga| sga.len() > 1).unwrap();
    let (yy, yn) = host.demi.partition(yes, |sga| sga.len() > 2).unwrap();
    assert_eq!(host.demi.pop(yes).unwrap_err(), Error::Claimed);
    for element in ["a", "bb", "ccc"] {
        host.feed(base, element.as_bytes());
    }
    assert_eq!(host.pop(yy).unwrap(), b"ccc");
    assert_eq!(host.pop(yn).unwrap(), b"bb");
    host.demi.close(yy).unwrap();
    host.demi.close(yn).unwrap();
    assert_eq!(host.pop(no).unwrap(), b"a", "the other side of the lower one is still open");
    host.demi.close(no).unwrap();
    assert_eq!(host.demi.kind(base), Err(Error::BadDescriptor));
    host.assert_clean();
}
