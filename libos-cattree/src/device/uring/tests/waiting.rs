//! Sleeping until there are completions, and polling when there are none.

use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::*;
use crate::device::uring::Durability;

/// An epoll instance that looks at the device's descriptor alone.
struct Sleeper(OwnedFd);

impl Sleeper {
    fn new(device: &Uring) -> Sleeper {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let data = epoll::EventData::new_u64(1);
        epoll::add(&epoll, device.wait_fd(), data, epoll::EventFlags::IN).unwrap();
        Sleeper(epoll)
    }

    /// Whether the descriptor becomes readable in that time.
    fn wakes(&self, limit: Duration) -> bool {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
        let limit = Timespec::try_from(limit).unwrap();
        loop {
            match epoll::wait(&self.0, &mut events[..], Some(&limit)) {
                Err(Errno::INTR) => {}
                count => return count.unwrap() > 0,
            }
        }
    }
}

#[test]
fn a_sleeper_is_woken_by_each_completion() {
    let heap = heap(16 << 20);
    for directory in directories() {
        for durability in [Durability::Each, Durability::Group] {
            let mut rig = Rig::new(&heap, &UringConfig { durability, ..config(&path_in(&directory)) });
            let sleeper = Sleeper::new(&rig.device);
            for round in 0..100 {
                let tag = match round % 3 {
                    0 => rig.submit(Command::Flush),
                    1 => rig.submit(Command::Read { offset: 0, into: heap.alloc(64 << 10).unwrap() }),
                    _ => {
                        let data = pattern(&heap, round, 4096).into();
                        rig.submit(Command::Write { offset: 4096 * round, data, durable: true })
                    }
                };
                // As a wait loop does: arm, sleep if there is nothing, poll.
                while rig.done.is_empty() {
                    if rig.device.arm(&cx(&heap)) {
                        assert!(sleeper.wakes(PATIENCE), "nothing wakes the sleeper in round {round}");
                    }
                    rig.poll();
                }
                assert_eq!(rig.wait(tag).result, Ok(()));
            }
        }
    }
}

#[test]
fn a_sleeper_without_requests_sleeps() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        let sleeper = Sleeper::new(&rig.device);
        assert!(rig.device.arm(&cx(&heap)));
        assert!(!sleeper.wakes(Duration::from_millis(50)));
        for _ in 0..20 {
            // Armed in vain, and then polled: what was signalled meanwhile is stale.
            rig.submit(Command::Flush);
            rig.device.arm(&cx(&heap));
            while rig.done.is_empty() {
                rig.poll();
            }
            rig.done.clear();
            assert!(rig.device.arm(&cx(&heap)));
            assert!(!sleeper.wakes(Duration::ZERO), "woken by what is over");
        }
    }
}

#[test]
fn what_is_refused_does_not_let_it_sleep() {
    let heap = heap(16 << 20);
    let Some(directory) = directories().into_iter().next() else { return };
    let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
    rig.submit(Command::Read { offset: 1, into: heap.alloc(512).unwrap() });
    assert!(!rig.device.arm(&cx(&heap)));
    assert_eq!(rig.poll(), 1);
    assert!(rig.device.arm(&cx(&heap)));
}

#[test]
fn polling_in_vain_makes_no_system_call() {
    let heap = heap(16 << 20);
    let Some(directory) = directories().into_iter().next() else { return };
    let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
    for _ in 0..1000 {
        assert_eq!(rig.poll(), 0);
    }
    assert_eq!(rig.counter("uring_enters"), 0);
    // Requests that come together go together: once to hand them over, and seldom more than once each to end them.
    let tags: Vec<u64> = (0..16)
        .map(|at| rig.submit(Command::Read { offset: at * 4096, into: heap.alloc(4096).unwrap() }))
        .collect();
    assert_eq!(rig.counter("uring_enters"), 0);
    for tag in tags {
        rig.wait(tag).result.unwrap();
    }
    assert!((1..=17).contains(&rig.counter("uring_enters")), "{}", rig.counter("uring_enters"));
}
