//! What becomes of operators when something closes, fails or is recalled under them.

use demi_api::graph::frame::Codec;
use demi_api::{Error, LibOs, QDesc, QueueKind, SgArray, Shutdown};

use super::line::codec;
use super::rig::{Harness, Rig, pattern};

/// Closing a derived queue cancels its pops, and closes its source.
pub fn closing_a_derived_queue_closes_its_source<H: Harness>(rig: &Rig<H>) {
    for derive in derivations::<H>() {
        for line in rig.message_lines() {
            let derived = derive(rig, line.far);
            let pops = [0, 1].map(|_| rig.demi.pop(derived).unwrap());
            rig.idle();
            rig.close([derived]);
            for pop in pops {
                assert_eq!(rig.failure(pop), Error::Cancelled, "{}", line.what);
            }
            for qd in [derived, line.far] {
                assert_eq!(rig.demi.kind(qd), Err(Error::BadDescriptor), "{}", line.what);
            }
            line.close_near(rig);
        }
    }
}

/// Closing the source of a derived queue cancels its pops, now and later; its descriptor stays.
pub fn closing_a_source_cancels_pops_above<H: Harness>(rig: &Rig<H>) {
    for derive in derivations::<H>() {
        for line in rig.message_lines() {
            let derived = derive(rig, line.far);
            let pop = rig.demi.pop(derived).unwrap();
            rig.idle();
            rig.close([line.far]);
            assert_eq!(rig.failure(pop), Error::Cancelled, "{}", line.what);
            assert_eq!(rig.pop(derived), Err(Error::Cancelled), "{}", line.what);
            let refused = rig.demi.push(derived, rig.sga(b"back")).unwrap_err();
            assert_eq!((refused.error, refused.sga.to_vec()), (Error::Cancelled, b"back".to_vec()));
            rig.close([derived]);
            line.close_near(rig);
        }
    }
}

/// The source's number may be another queue's by then, which is not confused with it.
pub fn a_reused_number_is_not_confused<H: Harness>(rig: &Rig<H>) {
    let source = rig.demi.queue().unwrap();
    let derived = rig.demi.filter(source, |_| true).unwrap();
    rig.close([source]);
    let mut others = Vec::new();
    while !others.contains(&source) {
        others.push(rig.demi.queue().unwrap());
        assert!(others.len() < 100);
    }
    rig.push(source, b"another's").unwrap();
    assert_eq!(rig.pop(derived), Err(Error::Cancelled));
    assert_eq!(rig.pop(source).unwrap(), b"another's");
    rig.close([derived]);
    rig.close(others);
}

/// A cancelled pop is done with at once, and the element it had asked for is kept for the next.
pub fn a_cancelled_pop_keeps_its_element<H: Harness>(rig: &Rig<H>) {
    for derive in derivations::<H>() {
        for line in rig.message_lines() {
            let derived = derive(rig, line.far);
            let [first, second] = [0, 1].map(|_| rig.demi.pop(derived).unwrap());
            rig.idle();
            rig.demi.cancel(first).unwrap();
            assert_eq!(rig.failure(first), Error::Cancelled, "{}", line.what);
            rig.push(line.near, b"1").unwrap();
            assert_eq!(rig.popped(second), b"1", "{}", line.what);
            rig.push(line.near, b"2").unwrap();
            assert_eq!(rig.pop(derived).unwrap(), b"2", "{}", line.what);
            rig.close([derived]);
            line.close_near(rig);
        }
    }
}

/// The end of what is below is the end of what is above.
pub fn the_end_comes_through<H: Harness>(rig: &Rig<H>) {
    for derive in derivations::<H>() {
        for line in rig.message_lines() {
            if !["queue in memory", "framed connection", "connection"].contains(&line.what) {
                line.close(rig);
                continue;
            }
            let derived = derive(rig, line.far);
            let pop = rig.demi.pop(derived).unwrap();
            rig.push(line.near, b"last").unwrap();
            rig.demi.shutdown(line.near, Shutdown::Write).unwrap();
            assert_eq!(rig.popped(pop), b"last", "{}", line.what);
            assert_eq!(rig.pop(derived), Err(Error::EndOfStream), "{}", line.what);
            assert_eq!(rig.pop(derived), Err(Error::EndOfStream), "{}: again", line.what);
            rig.close([derived]);
            line.close_near(rig);
        }
    }
}

/// A push through a derived queue is the base queue's: it waits there, completes there and can be recalled there.
pub fn pushes_through_operators_obey_back_pressure<H: Harness>(rig: &Rig<H>) {
    for derive in derivations::<H>() {
        let base = rig.demi.queue_with(1).unwrap();
        let derived = derive(rig, base);
        let pushes = [0, 1, 2, 3].map(|index| rig.start_push(derived, &[index]));
        rig.completion(pushes[0]).pushed().unwrap();
        rig.stays_pending(pushes[1]);
        rig.demi.cancel(pushes[2]).unwrap();
        assert_eq!(rig.failure(pushes[2]), Error::Cancelled);
        let popped: Vec<u8> = (0..3).map(|_| rig.pop(derived).unwrap()[0]).collect();
        let mut sorted = popped.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 3]);
        for index in [1, 3] {
            rig.completion(pushes[index]).pushed().unwrap();
        }
        rig.close([derived]);
    }
}

/// A source can be claimed once; after the claimant is gone, so is it.
pub fn a_source_is_claimed_once<H: Harness>(rig: &Rig<H>) {
    let source = rig.demi.queue().unwrap();
    let other = rig.demi.queue().unwrap();
    let derived = rig.demi.filter(source, |_| true).unwrap();
    let refusals = [
        rig.demi.pop(source).err(),
        rig.demi.pop_n(source, 2).err(),
        rig.demi.filter(source, |_| true).err(),
        rig.demi.map(source, |_, sga| Ok(sga), |_, sga| Ok(sga)).err(),
        rig.demi.partition(source, |_| true).err(),
        rig.demi.sort(source, |_, _| std::cmp::Ordering::Equal).err(),
        rig.demi.merge(source, other).err(),
        rig.demi.merge(other, source).err(),
        rig.demi.qconnect(source, other).err(),
    ];
    assert!(refusals.iter().all(|error| *error == Some(Error::Claimed)), "{refusals:?}");
    rig.push(source, b"pushing stays possible").unwrap();
    assert_eq!(rig.pop(derived).unwrap(), b"pushing stays possible");
    rig.push(other, b"unclaimed").unwrap();
    assert_eq!(rig.pop(other).unwrap(), b"unclaimed");
    rig.close([derived, other]);
}

/// Operators stand upon one another up to a depth, which is enough for anybody, and not for a stack overflow.
pub fn the_depth_is_bounded<H: Harness>(rig: &Rig<H>) {
    let mut top = rig.demi.queue().unwrap();
    let mut depth = 0;
    let error = loop {
        match rig.demi.map(top, |_, sga| Ok(sga), |_, sga| Ok(sga)) {
            Ok(derived) => top = derived,
            Err(error) => break error,
        }
        depth += 1;
    };
    assert_eq!((error, depth), (Error::TooDeep(demi_api::graph::MAX_DEPTH), demi_api::graph::MAX_DEPTH));
    rig.push(top, b"through all of them").unwrap();
    assert_eq!(rig.pop(top).unwrap(), b"through all of them");
    rig.close([top]);
}

/// Frames over a connection: whole messages however they were cut, and the end between two of them.
pub fn frames_survive_any_cut<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    if keeps_boundaries(rig, near, far) {
        return;
    }
    let framed = rig.demi.frame(far, codec()).unwrap();
    let sizes = [0, 1, 3, 500, 70_000, 0, 2, 300_000];
    let mut wire = Vec::new();
    for size in sizes {
        wire.extend((size as u32).to_be_bytes());
        wire.extend(pattern(size));
    }
    let pushes: Vec<_> = wire.chunks(1 + wire.len() / 37).map(|chunk| rig.start_push(near, chunk)).collect();
    for size in sizes {
        assert!(rig.pop(framed).unwrap() == pattern(size), "a message of {size} bytes");
    }
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.demi.shutdown(near, Shutdown::Write).unwrap();
    assert_eq!(rig.pop(framed), Err(Error::EndOfStream));
    rig.push(framed, b"goodbye").unwrap();
    assert_eq!(rig.pop_exactly(near, 11), b"\0\0\0\x07goodbye");
    rig.close([near, framed]);
}

/// A stream that breaks off inside a message, or announces one that is too large, or makes no sense.
pub fn bad_frames_are_final_errors<H: Harness>(rig: &Rig<H>) {
    let resp = Codec::Resp;
    let line = Codec::Delimiter(b"\r\n".to_vec());
    let huge = |error: &Error| matches!(error, Error::TooLarge { .. });
    let malformed = |error: &Error| matches!(error, Error::BadFrame(_));
    let truncated = |error: &Error| *error == Error::Truncated;
    type Expected = fn(&Error) -> bool;
    let cases: [(Codec, &[u8], Expected); 7] = [
        (codec(), b"\xff\xff\xff\xffrest", huge),
        (codec(), b"\0\0\0\x05abc", truncated),
        (codec(), b"\0\0", truncated),
        (resp.clone(), b"*1\r\n!bad\r\n", malformed),
        (resp.clone(), b"$999999999\r\n", huge),
        (resp, b"*2\r\n$1\r\na\r\n", truncated),
        (line, b"no line end", truncated),
    ];
    for (codec, bytes, expected) in cases {
        let (near, far) = rig.connected();
        if keeps_boundaries(rig, near, far) {
            return;
        }
        let framed = rig.demi.frame(far, codec).unwrap();
        rig.push(near, bytes).unwrap();
        rig.demi.shutdown(near, Shutdown::Write).unwrap();
        for attempt in 0..2 {
            let error = rig.pop(framed).unwrap_err();
            assert!(expected(&error), "{:?}, pop {attempt}: {error}", bytes.escape_ascii().to_string());
        }
        rig.close([framed, near]);
    }
}

/// What cannot be framed is refused, and given back unchanged.
pub fn what_cannot_be_framed_is_refused<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    if keeps_boundaries(rig, near, far) {
        return;
    }
    let short = Codec::LengthPrefix { bytes: 1, endian: demi_api::graph::frame::Endian::Little };
    let framed = rig.demi.frame(near, short).unwrap();
    let refused = rig.demi.push(framed, rig.sga(&pattern(256))).unwrap_err();
    assert_eq!(
        (refused.error, refused.sga.to_vec()),
        (Error::TooLarge { len: 256, limit: 255 }, pattern(256))
    );
    rig.push(framed, &pattern(255)).unwrap();
    assert_eq!(rig.pop_exactly(far, 256)[0], 255);
    rig.close([framed, far]);
    let (near, far) = rig.connected();
    let lines = rig.demi.frame(near, Codec::Delimiter(b"\n".to_vec())).unwrap();
    let refused = rig.demi.push(lines, rig.sga(b"two\nlines")).unwrap_err();
    assert!(matches!(refused.error, Error::BadFrame(_)));
    assert_eq!(refused.sga.to_vec(), b"two\nlines");
    let eight: SgArray = (0..8).map(|_| rig.demi.heap().copy_from(b"x").unwrap()).collect();
    let push = rig.demi.push(lines, eight).unwrap();
    rig.completion(push).pushed().unwrap();
    assert_eq!(rig.pop_exactly(far, 9), b"xxxxxxxx\n");
    rig.close([lines, far]);
}

/// Where a connection keeps boundaries by itself it cannot be framed, and stays as it is.
fn keeps_boundaries<H: Harness>(rig: &Rig<H>, near: QDesc, far: QDesc) -> bool {
    if rig.harness.connections() == QueueKind::Stream {
        return false;
    }
    assert_eq!(rig.demi.frame(far, codec()), Err(Error::NeedsStream));
    rig.push(near, b"as it is").unwrap();
    assert_eq!(rig.pop(far).unwrap(), b"as it is");
    rig.close([near, far]);
    true
}

type Derivation<H> = fn(&Rig<H>, QDesc) -> QDesc;

/// Every operator with one source, transparent to what the tests push.
fn derivations<H: Harness>() -> [Derivation<H>; 5] {
    fn lib<L: LibOs>(demi: &demi_api::Demikernel<L>, qd: QDesc) -> QDesc {
        demi.map(qd, |_, sga| Ok(sga), |_, sga| Ok(sga)).unwrap()
    }
    [
        |rig, qd| rig.demi.filter(qd, |_| true).unwrap(),
        |rig, qd| lib(&rig.demi, qd),
        |rig, qd| rig.demi.sort(qd, |_, _| std::cmp::Ordering::Equal).unwrap(),
        |rig, qd| {
            let (yes, no) = rig.demi.partition(qd, |_| true).unwrap();
            rig.close([no]);
            yes
        },
        |rig, qd| {
            let filtered = rig.demi.filter(qd, |_| true).unwrap();
            rig.demi.sort(lib(&rig.demi, filtered), |_, _| std::cmp::Ordering::Equal).unwrap()
        },
    ]
}
