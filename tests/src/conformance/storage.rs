//! Files and logs: pushes append, pops read at a cursor.
//!
//! A log keeps boundaries, and its pops wait for an append at the end; a file is bytes, and has an end to find.

use std::path::Path;

use demi_api::{Done, Error, OpenOptions, Position, QDesc, SeekTo, SgArray};

use super::rig::{Harness, Rig, pattern};

/// What was appended is read back from the head, in order.
pub fn appends_are_read_in_order<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let elements: Vec<Vec<u8>> = [1, 10, 511, 513, 5000, 70_000, 1 << 20].map(pattern).into();
    for element in &elements {
        rig.push(log, element).unwrap();
    }
    expect(rig, log, &elements);
    rig.close([log]);
}

/// Pushes that are started together complete in order, each behind the one before.
pub fn positions_rise<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let pushes: Vec<_> = (0..50_u8).map(|index| rig.start_push(log, &[index; 9])).collect();
    let positions: Vec<_> = pushes.into_iter().map(|push| rig.completion(push).pushed().unwrap()).collect();
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
    for index in [0_usize, 7, 49, 1] {
        assert_eq!(rig.demi.seek(log, SeekTo::Position(positions[index])), Ok(positions[index]));
        expect(rig, log, &[vec![index as u8; 9]]);
    }
    rig.close([log]);
}

/// The cursor can be set to the oldest element and behind the newest.
pub fn seek_finds_head_and_end<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let first = rig.push(log, b"first").unwrap();
    let second = rig.push(log, b"second").unwrap();
    expect(rig, log, &[b"first".to_vec(), b"second".to_vec()]);
    assert_eq!(rig.demi.seek(log, SeekTo::Head), Ok(first));
    expect(rig, log, &[b"first".to_vec()]);
    assert!(rig.demi.seek(log, SeekTo::End).unwrap() > second);
    expect_end(rig, log, b"third");
    rig.close([log]);
}

/// Truncation discards what lies at and behind a position; what is pushed next follows what is left.
pub fn truncation_discards_the_rest<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    rig.push(log, b"kept").unwrap();
    let gone = rig.push(log, b"gone").unwrap();
    rig.push(log, b"gone too").unwrap();
    rig.demi.truncate(log, gone).unwrap();
    rig.push(log, b"new").unwrap();
    rig.demi.seek(log, SeekTo::Head).unwrap();
    expect(rig, log, &[b"kept".to_vec(), b"new".to_vec()]);
    rig.demi.truncate(log, Position(0)).unwrap();
    rig.demi.seek(log, SeekTo::Head).unwrap();
    expect_end(rig, log, b"fresh");
    rig.close([log]);
}

/// A flush completes behind the pushes before it.
pub fn flush_follows_the_pushes_before<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let pushes: Vec<_> = (0..10).map(|index| rig.start_push(log, &[index; 100])).collect();
    let flush = rig.demi.flush(log).unwrap();
    assert!(matches!(rig.outcome(flush), Ok(Done::Flushed)));
    for push in pushes {
        let done = rig.demi.wait(push, Some(std::time::Duration::ZERO));
        done.expect("done before the flush").pushed().unwrap();
    }
    rig.close([log]);
}

/// An array's segments are one element; one without bytes is none on a file, and one on a log.
pub fn segments_and_nothing_can_be_appended<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let segments = [&b"ab"[..], b"", b"cde"].map(|part| rig.demi.heap().copy_from(part).unwrap());
    let push = rig.demi.push(log, segments.into_iter().collect::<SgArray>()).unwrap();
    rig.completion(push).pushed().unwrap();
    rig.push(log, b"").unwrap();
    rig.push(log, b"fg").unwrap();
    expect(rig, log, &[b"abcde".to_vec(), b"".to_vec(), b"fg".to_vec()]);
    rig.close([log]);
}

/// Content outlives its queue; options do what they say.
pub fn content_outlives_its_queue<H: Harness>(rig: &Rig<H>) {
    let (log, path) = rig.storage();
    rig.push(log, b"old").unwrap();
    rig.close([log]);
    let open = |options: OpenOptions| rig.demi.open(&path, &options);
    let exclusive = OpenOptions { create: true, exclusive: true, ..OpenOptions::default() };
    assert_eq!(open(exclusive.clone()), Err(Error::Exists));
    let log = open(OpenOptions::default()).unwrap();
    rig.push(log, b"more").unwrap();
    expect(rig, log, &[b"old".to_vec(), b"more".to_vec()]);
    rig.close([log]);
    let log = open(OpenOptions { read_only: true, ..OpenOptions::default() }).unwrap();
    let refused = rig.demi.push(log, rig.sga(b"no")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::ReadOnly, b"no".to_vec()));
    expect(rig, log, &[b"old".to_vec()]);
    rig.close([log]);
    let log = rig.demi.creat(&path).unwrap();
    expect_end(rig, log, b"first again");
    rig.close([log]);
    let log = open(OpenOptions { durable: true, ..OpenOptions::default() }).unwrap();
    rig.push(log, b"durable").unwrap();
    rig.close([log]);
    assert_eq!(rig.demi.open(Path::new("/nonexistent/log"), &OpenOptions::default()), Err(Error::NotFound));
}

/// A reader follows a writer on the same log.
pub fn two_handles_share_the_content<H: Harness>(rig: &Rig<H>) {
    let (writer, path) = rig.storage();
    let reader = rig.demi.open(&path, &OpenOptions { read_only: true, ..OpenOptions::default() }).unwrap();
    for index in 0..20_u8 {
        rig.push(writer, &[index; 40]).unwrap();
        expect(rig, reader, &[vec![index; 40]]);
    }
    rig.close([writer, reader]);
}

/// At its end a log's pop waits for an append, a file's yields no bytes; neither loses what is appended then.
pub fn pops_at_the_end<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    expect_end(rig, log, b"a");
    expect_end(rig, log, b"b");
    if rig.is_message(log) {
        let pops = [0, 1, 2].map(|_| rig.demi.pop(log).unwrap());
        rig.demi.cancel(pops[1]).unwrap();
        assert_eq!(rig.failure(pops[1]), Error::Cancelled);
        rig.push(log, b"c").unwrap();
        assert_eq!(rig.popped(pops[0]), b"c");
        rig.close([log]);
        assert_eq!(rig.failure(pops[2]), Error::Cancelled);
    } else {
        rig.close([log]);
    }
}

/// Pushes of a closed log meet their fate, and what completed is there.
pub fn close_finishes_pushes<H: Harness>(rig: &Rig<H>) {
    let (log, path) = rig.storage();
    let pushes: Vec<_> = (0..20_u8).map(|index| rig.start_push(log, &[index; 1000])).collect();
    rig.close([log]);
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    let log = rig.demi.open(&path, &OpenOptions::default()).unwrap();
    expect(rig, log, &(0..20_u8).map(|index| vec![index; 1000]).collect::<Vec<_>>());
    rig.close([log]);
}

/// Socket calls on storage are refused.
pub fn socket_calls_are_refused<H: Harness>(rig: &Rig<H>) {
    let (log, _) = rig.storage();
    let addr: demi_api::Addr = "127.0.0.1:1".parse().unwrap();
    assert!(rig.demi.accept(log).is_err());
    assert!(rig.demi.connect(log, addr.clone()).is_err());
    assert!(rig.demi.bind(log, addr.clone()).is_err());
    assert!(rig.demi.listen(log, 1).is_err());
    assert!(rig.demi.push_to(log, rig.sga(b"x"), addr).is_err());
    assert!(rig.demi.local_addr(log).is_err());
    expect_end(rig, log, b"unharmed");
    rig.close([log]);
}

/// The path of a region names no file and no log, and makes none.
pub fn regions_are_no_files<H: Harness>(rig: &Rig<H>) {
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    if rig.harness.has_regions() {
        let region = rig.demi.open("rdma:///words?size=64", &create).unwrap();
        assert_eq!(rig.demi.list(), Ok(Vec::new()));
        rig.close([region]);
        return;
    }
    for path in ["rdma:///words?size=64", "rdma://127.0.0.1:7/words"] {
        assert!(matches!(rig.demi.open(path, &create), Err(Error::NotSupported(_))), "{path}");
    }
}

/// Pops these elements: one by one from a log, as one run of bytes from a file.
#[track_caller]
fn expect<H: Harness>(rig: &Rig<H>, log: QDesc, elements: &[Vec<u8>]) {
    if rig.is_message(log) {
        for element in elements {
            assert!(rig.pop(log).unwrap() == *element, "an element of {} bytes", element.len());
        }
    } else {
        let bytes = elements.concat();
        assert!(rig.pop_exactly(log, bytes.len()) == bytes, "elements of {} bytes together", bytes.len());
    }
}

/// Checks that the cursor is at the end, and that `next`, appended now, is what comes next.
#[track_caller]
fn expect_end<H: Harness>(rig: &Rig<H>, log: QDesc, next: &[u8]) {
    if rig.is_message(log) {
        let pop = rig.demi.pop(log).unwrap();
        rig.stays_pending(pop);
        rig.push(log, next).unwrap();
        assert_eq!(rig.popped(pop), next);
    } else {
        assert_eq!(rig.pop(log).unwrap(), b"");
        rig.push(log, next).unwrap();
        assert_eq!(rig.pop_exactly(log, next.len()), next);
    }
}
