//! Controllers that hang, fail, go away, or lie.

use std::time::Duration;

use demi_api::error::Error;
use fastrand::Rng;
use proptest::prelude::*;

use super::super::command::Status;
use super::super::config::NvmeConfig;
use super::{Host, config};
use crate::device::Buffers;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_command_that_hangs_is_aborted_and_given_again() {
    let mut host = Host::new(4);
    host.device.get().wrong.hang = 1;
    host.submit(host.write_of(0, &[9; 512])).expect("room");
    let done = host.wait(LONG);
    assert!(matches!(done[..], [ref one] if one.result == Ok(())));
    let counters = host.engine.counters;
    assert_eq!((counters.aborts, counters.resets, counters.retries), (1, 0, 1));
    assert_eq!(host.device.get().disk[..512], [9; 512]);
    assert!(host.now.as_nanos() > 1_000_000_000, "not before its time");
}

#[test]
fn what_cannot_be_aborted_is_given_again_after_a_reset() {
    let mut host = Host::new(4);
    host.device.get().wrong.aborts = false;
    host.device.get().wrong.hang = 2;
    for at in 0..4 {
        host.submit(host.write_of(at * 512, &[at as u8 + 1; 512])).expect("room");
    }
    assert_eq!(host.wait(LONG).len(), 2, "those that do not hang");
    assert_eq!(host.wait(LONG).iter().filter(|done| done.result == Ok(())).count(), 2);
    let counters = host.engine.counters;
    assert_eq!((counters.timeouts, counters.resets, counters.retries, counters.unknown), (1, 1, 2, 0));
    assert!((0..4).all(|at| host.device.get().disk[at * 512] == at as u8 + 1));
}

#[test]
fn what_hangs_again_and_again_fails() {
    let mut host = Host::new(2);
    host.device.get().wrong.aborts = false;
    host.device.get().wrong.hang = usize::MAX;
    host.submit(host.read_into(0, 512)).expect("room");
    let done = host.wait(LONG);
    assert!(matches!(done[..], [ref one] if one.result == Err(Error::Io)));
    assert!(host.now.as_nanos() < 20_000_000_000, "in bounded time: {:?}", host.now);
}

#[test]
fn a_failed_controller_is_reset() {
    let mut host = Host::new(2);
    host.device.get().wrong.hang = 1;
    host.submit(host.write_of(512, &[3; 512])).expect("room");
    assert!(host.poll().is_empty());
    host.device.get().status |= 2;
    let done = host.wait(LONG);
    assert!(matches!(done[..], [ref one] if one.result == Ok(())));
    assert_eq!((host.engine.counters.resets, host.device.get().disk[512]), (1, 3));
    assert!(host.now.as_nanos() < 1_000_000_000, "before the command's time was over");
}

#[test]
fn a_controller_that_is_gone_fails_everything() {
    let mut host = Host::new(2);
    host.device.get().wrong.deferred = true;
    host.submit(host.read_into(0, 512)).expect("room");
    // One place is left: the request waits for others.
    host.submit(host.write_in_three()).expect("room");
    assert!(host.poll().is_empty());
    assert_eq!(host.device.get().taken.len(), 2);
    host.device.get().wrong.absent = true;
    let done = host.wait(LONG);
    assert!(done.len() == 2 && done.iter().all(|done| done.result == Err(Error::Io)));
    assert!(!host.device.get().dma);
    assert!(done.iter().all(|done| !matches!(done.buffers, Buffers::None)), "the buffers come back");
    host.submit(host.read_into(0, 512)).expect("room");
    assert_eq!(host.poll()[0].result, Err(Error::Io));
    assert_eq!(host.engine.due, None);
}

#[test]
fn buffers_that_a_device_may_still_write_to_are_given_to_nobody() {
    let mut host = Host::new(2);
    host.device.get().wrong.hang = 1;
    host.submit(host.read_into(0, 512)).expect("room");
    assert!(host.poll().is_empty());
    let live = host.heap.stats().bytes_live;
    host.device.get().wrong.absent = true;
    host.device.get().wrong.no_dma_control = true;
    let done = host.wait(LONG);
    assert!(matches!(done[..], [ref one] if matches!(one.buffers, Buffers::None)));
    assert_eq!(host.heap.stats().bytes_live, live);
}

#[test]
fn closing_keeps_what_a_device_may_still_write_to() {
    for (dma, live) in [(true, 512), (false, 0)] {
        let mut host = Host::new(2);
        host.device.get().wrong.hang = 1;
        host.submit(host.read_into(0, 512)).expect("room");
        assert!(host.poll().is_empty());
        host.device.get().wrong.absent = true;
        host.device.get().wrong.no_dma_control = dma;
        drop(host.engine);
        assert_eq!(host.heap.stats().bytes_live, live);
    }
}

#[test]
fn a_controller_that_does_not_stop_or_comes_back_as_another_is_lost() {
    let lose = |change: &dyn Fn(&mut Host), reason: &str| {
        let mut host = Host::new(2);
        host.device.get().wrong.hang = 1;
        host.submit(host.read_into(0, 512)).expect("room");
        assert!(host.poll().is_empty());
        change(&mut host);
        host.engine.reset(host.now);
        let done = host.wait(LONG);
        assert!(matches!(done[..], [ref one] if one.result == Err(Error::Io)), "{done:?}");
        assert!(host.engine.controller.reason.contains(reason), "{}", host.engine.controller.reason);
    };
    lose(&|host| host.device.get().wrong.never_stops = true, "did not stop");
    lose(&|host| host.device.get().wrong.never_ready = true, "did not become ready");
    lose(&|host| host.device.get().disk.truncate(512), "not what it was");
    lose(&|host| host.device.get().wrong.mute = true, "no answer to an admin command");
    lose(&|host| host.device.get().wrong.refuse = Some(5), "CompletionQueue");
}

#[test]
fn resets_at_any_time_lose_nothing() {
    let mut host = Host::with(&NvmeConfig { retries: 100, ..config(8) });
    let mut random = Rng::with_seed(11);
    host.device.get().wrong.deferred = true;
    for round in 0..100 {
        for at in 0..8 {
            host.submit(host.write_of(at * 512, &[round ^ at as u8; 512])).expect("room");
        }
        let mut left = 8;
        while left > 0 {
            let done = host.poll();
            assert!(done.iter().all(|done| done.result == Ok(())));
            left -= done.len();
            if random.u8(0..8) == 0 {
                host.engine.reset(host.now);
            }
            let mut device = host.device.get();
            if !device.taken.is_empty() {
                let any = random.usize(0..device.taken.len());
                device.complete(any);
            }
        }
        assert!((0..8).all(|at| host.device.get().disk[at * 512] == round ^ at as u8));
    }
    assert!(host.engine.counters.resets > 50);
}

#[test]
fn completions_of_nothing_end_nothing() {
    let mut host = Host::new(4);
    host.device.get().wrong.deferred = true;
    for garble in [1 << 32, 1 << 40, 3 << 16, 0xff00, 0x7fff << 32] {
        let tag = host.submit(host.read_into(0, 512)).expect("room");
        assert!(host.poll().is_empty());
        // Of this command there come a wrong completion, the right one, and the right one again.
        let entry = host.device.get().taken[0];
        host.device.get().taken.extend([entry, entry]);
        host.device.get().wrong.garble = vec![garble];
        let before = host.engine.counters.unknown;
        host.device.get().complete(0);
        assert!(host.poll().is_empty(), "garbled by {garble:x}");
        host.device.get().complete(0);
        host.device.get().complete(0);
        let done = host.poll();
        assert!(matches!(done[..], [ref one] if one.tag == tag && one.result == Ok(())));
        assert_eq!(host.engine.counters.unknown, before + 2);
    }
}

proptest! {
    /// Whatever it says in completions: nothing panics, and each request ends once, in bounded time.
    #[test]
    fn no_lie_makes_trouble(seed: u64, lies in proptest::collection::vec(any::<u64>(), 0..40)) {
        let mut host = Host::new(3);
        let mut random = Rng::with_seed(seed);
        // Half of them touch little, so that they are nearly right.
        host.device.get().wrong.garble =
            lies.into_iter().map(|lie| if random.bool() { lie } else { 1 << (lie % 64) }).collect();
        host.device.get().wrong.aborts = random.bool();
        host.device.get().wrong.ends = vec![Status::new(0, 6, false)];
        for _ in 0..10 {
            let mut left = 0;
            for _ in 0..3 {
                host.submit(host.read_into(0, 512)).expect("room");
                left += 1;
            }
            let mut turns = 0;
            while left > 0 {
                left -= host.wait(LONG).len();
                turns += 1;
                prop_assert!(turns < 20);
            }
        }
        prop_assert_eq!(host.engine.under_way(), 0);
    }
}
