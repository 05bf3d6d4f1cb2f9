//! A connection, in any order of pushes, pops and cancels, with delays.
//!
//! The oracle is a list of what was pushed and not recalled: what arrives is that, in order, whatever was going on.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::{Demikernel, Error, QDesc, QToken, Shutdown};
use demi_tests::Loopback;
use demi_tests::conformance::{InProcess, PATIENCE, Rig};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Push(usize),
    Pop(usize),
    CancelPop(usize),
    CancelPush(usize),
    Turn,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => prop_oneof![0..10_usize, 0..2000_usize, 100_000..200_000_usize].prop_map(Call::Push),
        4 => prop_oneof![1..100_usize, Just(usize::MAX)].prop_map(Call::Pop),
        1 => (0..8_usize).prop_map(Call::CancelPop),
        1 => (0..8_usize).prop_map(Call::CancelPush),
        3 => Just(Call::Turn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delayed_stream_carries_what_was_not_recalled(calls in prop::collection::vec(call(), 1..60)) {
        thread_local!(static RIG: Rig<InProcess<Loopback<4>>> = Rig::new());
        RIG.with(|rig| check(rig, &calls));
    }

    #[test]
    fn an_immediate_stream_carries_what_was_not_recalled(calls in prop::collection::vec(call(), 1..60)) {
        thread_local!(static RIG: Rig<InProcess<Loopback<0>>> = Rig::new());
        RIG.with(|rig| check(rig, &calls));
    }
}

fn check<const TURNS: u64>(rig: &Rig<InProcess<Loopback<TURNS>>>, calls: &[Call]) {
    let live = rig.demi.heap().stats().objects_live;
    let (near, far) = rig.connected();
    let mut wire =
        Wire { demi: &rig.demi, far, pushes: Vec::new(), pops: VecDeque::new(), arrived: Vec::new() };
    for call in calls {
        match call {
            Call::Push(len) => {
                let fill = wire.pushes.len() as u8;
                let push = rig.start_push(near, &vec![fill; *len]);
                wire.pushes.push((push, fill, *len));
            }
            Call::Pop(limit) => wire.pops.push_back(rig.demi.pop_n(far, *limit).unwrap()),
            Call::CancelPop(choice) => wire.cancel_pop(*choice),
            Call::CancelPush(choice) => wire.cancel_push(*choice),
            Call::Turn => rig.demi.poll().unwrap(),
        }
        wire.take_ready();
    }
    rig.demi.shutdown(near, Shutdown::Write).unwrap();
    wire.take_rest();
    let expected: Vec<u8> = wire.pushes.iter().flat_map(|(_, fill, len)| vec![*fill; *len]).collect();
    assert!(
        wire.arrived == expected,
        "{} of {} bytes arrived, or in disorder",
        wire.arrived.len(),
        expected.len()
    );
    for (push, ..) in wire.pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
    assert_eq!(rig.demi.counters().unwrap().operations_pending, 0);
    assert_eq!(rig.demi.heap().stats().objects_live, live);
}

struct Wire<'a, const TURNS: u64> {
    demi: &'a Demikernel<Loopback<TURNS>>,
    far: QDesc,
    /// Those that were not recalled, with what they are filled with and how long they are.
    pushes: Vec<(QToken, u8, usize)>,
    pops: VecDeque<QToken>,
    arrived: Vec<u8>,
}

impl<const TURNS: u64> Wire<'_, TURNS> {
    fn cancel_pop(&mut self, choice: usize) {
        let Some(pop) = self.pops.get(choice).copied() else { return };
        if self.demi.cancel(pop).is_ok() {
            self.pops.remove(choice);
            assert_eq!(self.demi.wait(pop, PATIENCE).unwrap().popped().unwrap_err(), Error::Cancelled);
        }
    }

    fn cancel_push(&mut self, choice: usize) {
        let Some(place) = self.pushes.len().checked_sub(choice + 1) else { return };
        let (push, ..) = self.pushes[place];
        if self.demi.cancel(push).is_ok() {
            self.pushes.remove(place);
            assert_eq!(self.demi.wait(push, PATIENCE).unwrap().pushed().unwrap_err(), Error::Cancelled);
        }
    }

    /// Takes what has been popped so far. Pops complete in order.
    fn take_ready(&mut self) {
        while let Some(pop) = self.pops.front()
            && let Ok(done) = self.demi.wait(*pop, Some(Duration::ZERO))
        {
            self.pops.pop_front();
            self.arrived.extend(done.popped().unwrap().to_vec());
        }
    }

    fn take_rest(&mut self) {
        loop {
            let pop = self.pops.pop_front().map_or_else(|| self.demi.pop(self.far), Ok).unwrap();
            let part = self.demi.wait(pop, PATIENCE).unwrap().popped().unwrap();
            if part.is_empty() && self.pops.is_empty() {
                return;
            }
            self.arrived.extend(part.to_vec());
        }
    }
}
