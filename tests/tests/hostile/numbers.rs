//! Descriptors and tokens that are any number.

use demi_api::{Addr, QDesc, QToken};
use demi_tests::Loopback;
use demi_tests::conformance::hostile::{every_call_refuses, every_wait_refuses};
use demi_tests::conformance::{InProcess, Rig};
use proptest::prelude::*;

type World = Rig<InProcess<Loopback>>;

/// Any number, often one that is near those that are in use.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..64_u32,
        any::<u32>(),
        (0..32_u32).prop_map(|bit| 1 << bit),
        (0..64_u32).prop_map(|n| u32::MAX - n)
    ]
}

thread_local! {
    /// Some queues are open, some closed, and on each open one a pop waits.
    static WORLD: (World, Vec<QDesc>, Vec<QToken>) = {
        let rig = World::new();
        let mut open = Vec::new();
        for index in 0..8 {
            let queue = rig.demi.queue().unwrap();
            let (near, far) = rig.connected();
            if index % 2 == 0 {
                rig.close([queue, near, far]);
            } else {
                open.extend([queue, near, far]);
            }
        }
        let tokens = open.iter().map(|qd| rig.demi.pop(*qd).unwrap()).collect();
        (rig, open, tokens)
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_descriptor_that_is_not_open_is_refused(raw in number()) {
        WORLD.with(|(rig, open, _)| {
            let qd = QDesc::from_raw(raw);
            // The check opens a queue of its own, which may get the number.
            let next = rig.demi.queue().unwrap();
            rig.close([next]);
            if !open.contains(&qd) && rig.demi.kind(qd).is_err() && qd != next && raw % 4 != 0 {
                every_call_refuses(rig, qd, &"127.0.0.1:9".parse::<Addr>().unwrap());
            }
        });
    }

    #[test]
    fn any_token_that_is_not_alive_is_refused(slot in number(), generation in number(), near in any::<bool>()) {
        WORLD.with(|(rig, _, tokens)| {
            let raw = u64::from(generation) << 32 | u64::from(slot);
            // Around a live one: its slot with other generations, its generation with other slots.
            let raw = if near { tokens[slot as usize % tokens.len()].raw() ^ (1 << (generation % 64)) } else { raw };
            let token = QToken::from_raw(raw);
            if !tokens.contains(&token) {
                every_wait_refuses(rig, token);
            }
        });
    }
}

/// What was alive all the time is unharmed.
#[test]
fn live_operations_survive_what_is_refused() {
    WORLD.with(|(rig, open, tokens)| {
        let addr: Addr = "127.0.0.1:9".parse().unwrap();
        for raw in 1..200 {
            let qd = QDesc::from_raw(4 * raw + 3);
            every_call_refuses(rig, qd, &addr);
            every_wait_refuses(rig, QToken::from_raw(u64::from(raw)));
        }
        let queue = open[0];
        rig.push(queue, b"mine").unwrap();
        assert_eq!(rig.popped(tokens[0]), b"mine");
        for (qd, token) in open.iter().zip(tokens).skip(1) {
            rig.stays_pending(*token);
            assert!(rig.demi.kind(*qd).is_ok());
        }
    });
}
