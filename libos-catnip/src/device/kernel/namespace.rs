//! Networks for tests that need interfaces: each test has one of its own, gone when its thread ends.

use std::process::Command;
use std::time::{Duration, Instant as Wall};

use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::time::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::{DeviceCx, Frame, Queue};
use super::sys::unshare_network;

/// Runs a test in a thread with a network of its own, or says that it was skipped and why.
pub(in crate::device) fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    let name = name.to_owned();
    let outcome = std::thread::spawn(move || {
        if let Err(errno) = unshare_network() {
            return skip(&name, &format!("a network namespace is refused ({errno}): run as root"));
        }
        if !run("ip", &["link", "set", "lo", "up"]) {
            return skip(&name, "there is no `ip` command: install iproute2");
        }
        // The kernel's own neighbour discovery would mix with what the test sends.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        test();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Says on standard error, which the test harness does not swallow at `--nocapture`, what was not tested.
pub(in crate::device) fn skip(name: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

/// Runs a command in this thread's network; whether it could be run and succeeded.
pub(in crate::device) fn run(command: &str, args: &[&str]) -> bool {
    Command::new(command).args(args).status().is_ok_and(|status| status.success())
}

/// `ip`, which must succeed.
pub(in crate::device) fn ip(args: &str) {
    let args: Vec<&str> = args.split_whitespace().collect();
    assert!(run("ip", &args), "ip {args:?}");
}

/// A heap, a clock and an inbox around a device.
pub(in crate::device) struct Bench {
    pub(in crate::device) heap: Heap,
    pub(in crate::device) clock: Clock,
    pub(in crate::device) inbox: Vec<Frame>,
}

impl Bench {
    pub(in crate::device) fn new() -> Bench {
        let config = HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() };
        Bench { heap: Heap::new(&config).unwrap(), clock: Clock::start(), inbox: Vec::new() }
    }

    /// Receives once; returns how many frames came.
    pub(in crate::device) fn receive(&mut self, device: &mut impl Queue) -> usize {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        let before = self.inbox.len();
        let count = device.rx_burst(&cx, &mut self.inbox);
        assert_eq!(count, self.inbox.len() - before);
        count
    }

    /// Receives until at least `count` frames are in the inbox, within some seconds.
    pub(in crate::device) fn receive_all(&mut self, device: &mut impl Queue, count: usize) {
        let limit = Wall::now() + Duration::from_secs(10);
        while self.inbox.len() < count {
            if self.receive(device) == 0 {
                assert!(Wall::now() < limit, "{} of {count} frames came", self.inbox.len());
                self.sleep(device, Duration::from_millis(100));
            }
        }
    }

    /// Sleeps on the device as the wait loop does; whether there is work.
    pub(in crate::device) fn sleep(&mut self, device: &mut impl Queue, limit: Duration) -> bool {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        !device.arm(&cx) || readable(device, limit)
    }
}

/// Whether the device's descriptor polls readable within `limit`.
pub(in crate::device) fn readable(device: &impl Queue, limit: Duration) -> bool {
    let fd = device.wait_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() == 1
}

/// The value of one of a device's counters.
pub(in crate::device) fn counter(device: &impl Queue, name: &str) -> u64 {
    let mut value = None;
    device.counters(&mut |found, count| {
        if found == name {
            value = Some(count);
        }
    });
    value.unwrap_or_else(|| panic!("there is no counter {name}"))
}
