//! What is told is what is heard, and noise is neither.

use std::collections::BTreeSet;
use std::net::IpAddr;

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use proptest::prelude::*;

use super::super::message::{put_advert, put_datagram, put_hello, put_problem};
use super::super::*;
use crate::device::Checksum;
use crate::ip::{Cast, ProblemKind, Unreachable};

fn addr() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (any::<[u8; 4]>(), 1..224_u8).prop_map(|(local, first)| (local.into(), [first, 0, 0, 1].into())),
        (any::<[u8; 16]>(), 1..255_u16)
            .prop_map(|(local, first)| (local.into(), [first, 0, 0, 0, 0, 0, 0, 1].into())),
    ]
}

fn kind() -> impl Strategy<Value = ProblemKind> {
    prop_oneof![
        Just(ProblemKind::TimeExceeded),
        Just(ProblemKind::Unreachable(Unreachable::Net)),
        Just(ProblemKind::Unreachable(Unreachable::Prohibited)),
        (0..1_usize << 20).prop_map(ProblemKind::TooBig),
    ]
}

proptest! {
    #[test]
    fn what_is_told_is_what_is_heard(
        (local, remote) in addr(),
        (origin, ecn, summed) in (any::<u16>(), 0..4_u8, any::<bool>()),
        (skipped, aside) in any::<(bool, bool)>(),
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        (quoted, kind) in (any::<[u8; 8]>(), kind()),
        cut in 0..3000_usize,
    ) {
        let heap = Heap::new(&HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
        let mut data = SgArray::from(heap.copy_from(&bytes).unwrap());
        // In two pieces.
        let tail = data.clone();
        let cut = cut.min(bytes.len());
        data = data.split_to(cut);
        let mut rest = tail;
        rest.advance(cut);
        for segment in rest.segments() {
            data.push(segment.clone()).unwrap();
        }
        let checksum = if summed { Checksum::Verified } else { Checksum::Unknown };
        let about = About { local, remote, protocol: 6, ecn, checksum, cast: Cast::Unicast };
        let problem = Problem { local, remote, protocol: 17, quoted, kind };
        let mut packet = Vec::new();
        put_hello(&mut packet, origin);
        let round = Round { origin, skipped, aside };
        put_datagram(&mut packet, round, &about, &data);
        put_problem(&mut packet, &problem);
        let heard: Vec<_> = messages(&packet).map(Result::unwrap).collect();
        let [Message::Hello { id }, Message::Datagram { round: from, about: other, data }, Message::Problem(got)] =
            &heard[..]
        else {
            panic!("{heard:?}");
        };
        prop_assert_eq!((*id, *from, *data, got), (origin, round, &bytes[..], &problem));
        prop_assert_eq!(
            (other.local, other.remote, other.protocol, other.ecn, other.checksum),
            (local, remote, 6, ecn, checksum)
        );
        // Whatever is missing from the end, what stands before it is heard, and then there is one error at the most.
        let short = messages(&packet[..packet.len() - 1]).collect::<Vec<_>>();
        prop_assert!(short.len() == 3 && short[..2].iter().all(Result::is_ok) && short[2].is_err());
    }

    #[test]
    fn noise_is_refused(mut packet in prop::collection::vec(any::<u8>(), 0..200), kind in 0..6_u8, len in 0..100_u8) {
        if packet.len() > 5 {
            packet[..5].copy_from_slice(&[kind, 0, 0, 0, len]);
        }
        let heard: Vec<_> = messages(&packet).collect();
        prop_assert!(heard.iter().rev().skip(1).all(Result::is_ok), "nothing follows an error");
        for message in heard.into_iter().flatten() {
            match message {
                Message::Hello { .. } => {}
                Message::Datagram { about, .. } => {
                    prop_assert!([6, 17].contains(&about.protocol) && about.local.is_ipv4() == about.remote.is_ipv4());
                    prop_assert!(!about.remote.is_multicast() && about.ecn < 4);
                }
                Message::Problem(problem) => prop_assert!([6, 17].contains(&problem.protocol)),
                Message::Advert(frame) => prop_assert!(is_advert(frame)),
            }
        }
    }

    /// Whoever received a packet, all are asked, and nobody twice.
    #[test]
    fn everyone_is_asked_once(ids in prop::collection::btree_set(0..256_u16, 1..20), pick in any::<prop::sample::Index>()) {
        let ids: Vec<u16> = ids.into_iter().collect();
        let origin = ids[pick.index(ids.len())];
        let (mut asked, mut at) = (BTreeSet::from([origin]), origin);
        while let Some(other) = next(origin, at, ids.iter().copied().filter(|id| *id != at)) {
            prop_assert!(asked.insert(other), "{} is asked again", other);
            at = other;
        }
        prop_assert_eq!(asked.into_iter().collect::<Vec<_>>(), ids);
    }
}

#[test]
fn only_what_concerns_all_is_an_advert() {
    let mut frame = vec![0; 60];
    let mut is = |at: usize, bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        is_advert(&frame)
    };
    assert!(!is(12, &[8, 6]) && !is(20, &[0, 1]) && is(20, &[0, 2]));
    assert!(!is(12, &[0x86, 0xdd]) && !is(20, &[58, 255]));
    assert!(is(54, &[136]) && is(54, &[134]) && is(54, &[137]) && !is(54, &[135]) && !is(54, &[128]));
    let heap = Heap::new(&HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
    let mut packet = Vec::new();
    put_advert(&mut packet, &heap.copy_from(&frame).unwrap().into());
    assert!(matches!(messages(&packet).next(), Some(Err(_))), "an echo request is none");
}
