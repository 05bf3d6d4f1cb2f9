//! Opening, filling up, sleeping, resetting, closing.

use std::os::fd::AsFd;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::Heap;
use demi_libos_cattree::device::nvme::{Nvme, NvmeConfig};
use demi_libos_cattree::device::{BlockDevice, Buffers, Command};
use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::{heap, pattern};
use super::{Host, Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("what_cannot_be_opened_says_why", what_cannot_be_opened_says_why),
        ("a_full_device_gives_the_request_back", a_full_device_gives_the_request_back),
        ("a_sleeper_is_woken", a_sleeper_is_woken),
        ("nothing_is_lost_in_a_reset", nothing_is_lost_in_a_reset),
        ("what_is_too_slow_fails_in_bounded_time", what_is_too_slow_fails_in_bounded_time),
        ("closing_lets_go_of_what_is_under_way", closing_lets_go_of_what_is_under_way),
    ]
}

fn what_cannot_be_opened_says_why(place: &Place) -> Result<(), Failed> {
    let heap = heap();
    let config = |address: &str| NvmeConfig { address: address.into(), ..NvmeConfig::default() };
    let refusal = |config: &NvmeConfig| match Nvme::open(&heap, config) {
        Err(Error::Config(reason)) => reason,
        other => panic!("{config:?} gives {other:?}"),
    };
    let reason = refusal(&NvmeConfig { namespace: 4, ..config(&place.ours) });
    assert!(reason.contains("no namespace 4; there are: 1, 2, 3"), "{reason}");
    let reason = refusal(&config("0000:00:1e.7"));
    assert!(reason.contains("no such PCI device") && reason.contains(&place.ours), "{reason}");
    let reason = refusal(&config("0000:00:00.0"));
    assert!(reason.contains("no NVMe controller"), "{reason}");
    if let Some(kernels) = &place.kernels {
        let reason = refusal(&config(kernels));
        assert!(reason.contains("`nvme` has it") && reason.contains("driver/unbind"), "{reason}");
    }
    let first = Nvme::open(&heap, &config(&place.ours)).expect("it can be opened");
    let reason = refusal(&config(&place.ours));
    assert!(reason.contains("in use"), "{reason}");
    assert_eq!(first.identity(), ("QEMU NVMe Ctrl", "demi0000"));
    drop(first);
    drop(Nvme::open(&heap, &config(&place.ours)).expect("it can be opened again"));
    Ok(())
}

fn a_full_device_gives_the_request_back(place: &Place) -> Result<(), Failed> {
    let mut host = Host::with(&NvmeConfig { address: place.ours.clone(), depth: 4, ..NvmeConfig::default() });
    assert_eq!(host.caps().depth, 4);
    for round in 0..50 {
        for at in 0..4 {
            // Each is several commands, for which there is no room at once.
            let pieces = (0..3).map(|piece| host.buffer(512, round + at * 3 + piece).freeze());
            let data = pieces.collect();
            host.submit(Command::Write { offset: at * 1536, data, durable: false }).expect("there is room");
        }
        let refused = host.submit(Command::Flush).expect_err("it is full");
        assert!(matches!(refused.command, Command::Flush));
        assert!(host.wait(4).iter().all(|done| done.result == Ok(())));
    }
    for piece in 0..12 {
        assert!(host.read(piece * 512, 512) == pattern(512, 49 + piece));
    }
    Ok(())
}

fn is_readable(host: &Host, limit: Duration) -> bool {
    let fd = host.device.wait_fd();
    let limit = Timespec::try_from(limit).expect("seconds");
    poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], Some(&limit)).expect("poll") == 1
}

fn a_sleeper_is_woken(place: &Place) -> Result<(), Failed> {
    let mut host = Host::open(place, 1);
    assert!(host.arm(), "there is nothing to do");
    assert!(!is_readable(&host, Duration::from_millis(50)));
    let (mut slept, mut round) = (0, 0);
    while slept < 20 {
        round += 1;
        assert!(round < 1000, "slept only {slept} times");
        // Between sleeps, enough polling for interrupts to be switched off.
        if round % 5 == 0 {
            for _ in 0..70 {
                host.read(0, 512);
            }
        }
        let into = host.buffer(512 << 10, 0);
        host.submit(Command::Read { offset: 0, into }).expect("there is room");
        // It is handed over by arming: there was no poll.
        while host.arm() {
            assert!(is_readable(&host, Duration::from_secs(5)), "not woken in round {round}");
            slept += 1;
        }
        assert_eq!(host.poll().len(), 1);
    }
    Ok(())
}

fn nothing_is_lost_in_a_reset(place: &Place) -> Result<(), Failed> {
    let mut host = Host::open(place, 2);
    for round in 0..5_u64 {
        for at in 0..64 {
            let data = host.buffer(8192, round * 64 + at).freeze().into();
            host.submit(Command::Write { offset: at * 8192, data, durable: true }).expect("there is room");
        }
        // Arming hands them over, and takes no completions: the controller forgets those that it has made. Polling may
        // take some of them.
        host.arm();
        let mut done = if round % 2 == 0 { 0 } else { host.poll().len() };
        host.reset();
        // What comes while it is being reset waits.
        for at in 64..96 {
            let data = host.buffer(8192, round * 64 + at).freeze().into();
            host.submit(Command::Write { offset: at * 8192, data, durable: false }).expect("there is room");
        }
        let rest = host.wait(96 - done);
        done += rest.len();
        assert!(done == 96 && rest.iter().all(|done| done.result == Ok(())));
        for at in 0..96 {
            assert!(
                host.read(at * 8192, 8192) == pattern(8192, round * 64 + at),
                "round {round}, write {at}"
            );
        }
    }
    assert_eq!(host.counter("nvme_resets"), 5);
    assert!(host.counter("nvme_retries") >= 3 * 64, "all that was under way was given to it again");
    Ok(())
}

/// A namespace that does 20 commands a second, with a time limit that it cannot keep: commands are aborted, which does
/// not help, and the controller is reset. That does not help either, as a reset makes this one no faster, so some
/// fail, in bounded time. What is said to be written is.
fn what_is_too_slow_fails_in_bounded_time(place: &Place) -> Result<(), Failed> {
    let patient = NvmeConfig { address: place.ours.clone(), namespace: 3, ..NvmeConfig::default() };
    let mut host = Host::with(&NvmeConfig { timeout_ms: 200, retries: 2, ..patient.clone() });
    let tags: Vec<u64> = (0..32)
        .map(|at| {
            let data = host.buffer(8192, at).freeze().into();
            host.submit(Command::Write { offset: at * 8192, data, durable: true }).expect("there is room")
        })
        .collect();
    let done = host.wait(32);
    assert!(done.iter().all(|done| matches!(done.result, Ok(()) | Err(Error::Io))), "{done:?}");
    let written: Vec<u64> = done.iter().filter(|done| done.result == Ok(())).map(|done| done.tag).collect();
    assert!(!written.is_empty() && host.counter("nvme_aborts") > 0 && host.counter("nvme_timeouts") > 0);
    drop((host, done));
    let mut host = Host::with(&patient);
    let read = host.read(0, 32 * 8192);
    for (at, (part, tag)) in read.chunks(8192).zip(tags).enumerate() {
        assert!(!written.contains(&tag) || part == pattern(8192, at as u64), "write {at}");
    }
    Ok(())
}

fn closing_lets_go_of_what_is_under_way(place: &Place) -> Result<(), Failed> {
    for _ in 0..5 {
        let mut host = Host::open(place, 1);
        let heap: Heap = host.heap.clone();
        for at in 0..100 {
            let into = host.buffer(65536, 0);
            host.submit(Command::Read { offset: at * 65536, into }).expect("there is room");
        }
        host.poll();
        drop(host);
        assert_eq!(heap.stats().bytes_live, 0, "all buffers are back");
        // And nobody writes to them any more.
        let mut buffers: Vec<_> = (0..100).map(|_| heap.alloc(65536).expect("room")).collect();
        buffers.iter_mut().for_each(|buffer| buffer.fill(0xa5));
        std::thread::sleep(Duration::from_millis(20));
        assert!(buffers.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0xa5)));
    }
    let mut host = Host::open(place, 1);
    assert!(matches!(host.run(Command::Flush), (Ok(()), Buffers::None)));
    Ok(())
}
