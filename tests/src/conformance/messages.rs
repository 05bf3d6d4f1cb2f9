//! Stream sockets whose connections keep boundaries: elements, in order, both ways, each as it was pushed.

use demi_api::{Done, Error, QDesc, SgArray};

use super::rig::{Harness, Rig, pattern};

/// What one receive holds, what is copied, what is sent in place, what is read, for devices of all kinds; and their neighbours.
const SIZES: [usize; 16] =
    [1, 63, 64, 200, 511, 512, 513, 1500, 4079, 4080, 4081, 16_384, 65_536, 262_145, 1 << 20, 2 << 20];

fn sga<H: Harness>(rig: &Rig<H>, lens: &[usize]) -> (SgArray, Vec<u8>) {
    let bytes = pattern(lens.iter().sum());
    let mut rest = &bytes[..];
    let mut sga = SgArray::new();
    for len in lens {
        let (part, behind) = rest.split_at(*len);
        sga.push(rig.demi.heap().copy_from(part).unwrap()).unwrap();
        rest = behind;
    }
    (sga, bytes)
}

/// Whole, and alone, however they are cut into segments.
pub fn arrays_pop_as_they_were_pushed<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    for size in SIZES {
        for lens in [&[size][..], &[size / 2, size - size / 2], &[0, size, 0], &[size / 8; 8]] {
            let (sga, bytes) = sga(rig, lens);
            let push = rig.demi.push(near, sga).unwrap();
            // What comes behind it stays behind it.
            let behind = rig.start_push(near, b"behind");
            assert!(rig.pop(far).unwrap() == bytes, "segments of {lens:?}");
            assert_eq!(rig.pop(far).unwrap(), b"behind");
            rig.completion(push).pushed().unwrap();
            rig.completion(behind).pushed().unwrap();
        }
    }
    rig.close([near, far]);
}

/// An array without bytes, or without segments, pops as one; it is no end.
pub fn nothing_is_an_element_too<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pop = rig.demi.pop(far).unwrap();
    let empty = rig.demi.push(near, SgArray::new()).unwrap();
    rig.completion(empty).pushed().unwrap();
    assert_eq!(rig.popped(pop), b"");
    rig.push(near, b"").unwrap();
    rig.push(near, b"x").unwrap();
    assert_eq!([rig.pop(far).unwrap(), rig.pop(far).unwrap()], [b"".to_vec(), b"x".to_vec()]);
    rig.close([near, far]);
}

/// Elements do not mix with their neighbours, whichever way each of them goes.
pub fn many_elements_of_all_sizes<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let lens: Vec<usize> =
        (0..300).map(|at| if at % 17 == 0 { 20_000 + at } else { 37 * at % 6000 }).collect();
    let mut expected = lens.iter();
    let mut pushes = Vec::new();
    for batch in lens.chunks(25) {
        pushes.extend(batch.iter().map(|len| rig.start_push(near, &pattern(*len))));
        for len in expected.by_ref().take(batch.len()) {
            assert!(rig.pop(far).unwrap() == pattern(*len), "an element of {len} bytes");
        }
    }
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Pops get the elements in the order in which they were started, one each.
pub fn each_pop_gets_one_element<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pops: Vec<_> = (0..16).map(|_| rig.demi.pop(far).unwrap()).collect();
    let pushes: Vec<_> =
        (0..16_u8).map(|index| rig.start_push(near, &vec![index; 1 + 900 * usize::from(index)])).collect();
    for (index, pop) in pops.into_iter().enumerate() {
        assert!(rig.popped(pop) == vec![index as u8; 1 + 900 * index]);
    }
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// A pop that is cancelled takes nothing with it.
pub fn a_cancelled_pop_keeps_its_place<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let [first, second, third] = [0, 1, 2].map(|_| rig.demi.pop(far).unwrap());
    rig.demi.cancel(second).unwrap();
    assert_eq!(rig.failure(second), Error::Cancelled);
    for element in [b"abc", b"def", b"ghi"] {
        rig.push(near, element).unwrap();
    }
    assert_eq!([rig.popped(first), rig.popped(third)], [b"abc", b"def"]);
    assert_eq!(rig.pop(far).unwrap(), b"ghi");
    rig.close([near, far]);
}

/// A push that waits for its reader can be recalled, and is not sent; those around it are.
pub fn a_push_that_waits_can_be_recalled<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let block = rig.sga(&[b'a'; 700]);
    let mut pushes = Vec::new();
    while rig.demi.counters().unwrap().operations_pending < 2 {
        pushes.push(rig.demi.push(near, block.clone()).unwrap());
        rig.idle();
        assert!(pushes.len() < 10_000, "nothing holds up a peer that does not read");
    }
    let doomed = rig.start_push(near, b"b");
    let last = rig.start_push(near, b"c");
    rig.demi.cancel(doomed).unwrap();
    assert_eq!(rig.failure(doomed), Error::Cancelled);
    for _ in &pushes {
        assert!(rig.pop(far).unwrap() == [b'a'; 700]);
    }
    assert_eq!(rig.pop(far).unwrap(), b"c");
    for push in pushes.into_iter().chain([last]) {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// A sized pop takes so many elements, whatever their size.
pub fn sized_pops_count_elements<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    for element in [&b"one"[..], b"", b"three", b"four"] {
        rig.push(near, element).unwrap();
    }
    rig.idle();
    let mut elements = Vec::new();
    while elements.len() < 4 {
        let Ok(Done::Batch(batch)) = rig.outcome(rig.demi.pop_n(far, 3).unwrap()) else { panic!("no batch") };
        assert!((1..=3).contains(&batch.len()));
        elements.extend(batch.iter().map(SgArray::to_vec));
    }
    assert_eq!(elements, [&b"one"[..], b"", b"three", b"four"].map(<[u8]>::to_vec));
    rig.close([near, far]);
}

/// Both sides push until nothing more goes, on several connections; then what was pushed is there, and nothing was blocked by
/// what another connection did not read.
pub fn neither_side_pops_and_both_push_on<H: Harness>(rig: &Rig<H>) {
    let pairs: Vec<_> = (0..4).map(|_| rig.connected()).collect();
    let ends: Vec<QDesc> = pairs.iter().flat_map(|(near, far)| [*near, *far]).collect();
    let mut pushes = vec![Vec::new(); ends.len()];
    for round in 0..40_usize {
        for (end, pushes) in ends.iter().zip(&mut pushes) {
            let len = if round % 5 == 4 { 10_000 } else { 3_000 };
            pushes.push(rig.start_push(*end, &pattern(len + round)));
        }
    }
    rig.idle();
    for (at, end) in ends.iter().enumerate() {
        // The other end of the same connection.
        let from = at ^ 1;
        for (round, push) in pushes[from].drain(..).enumerate() {
            let len = if round % 5 == 4 { 10_000 } else { 3_000 };
            assert!(
                rig.pop(*end).unwrap() == pattern(len + round),
                "element {round} of connection {}",
                at / 2
            );
            rig.completion(push).pushed().unwrap();
        }
    }
    rig.close(ends);
}
