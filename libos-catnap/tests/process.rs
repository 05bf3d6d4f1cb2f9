//! What can only be seen on a process of one's own: its descriptors, its limit of them, its processor time, its
//! signals. Each test runs in a child process: this program again, for one test.

#[path = "catnap/common.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod common;

use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use demi_api::addr::{Addr, Domain};
use demi_api::error::Error;
use demi_api::libos::SocketOption;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Runs `body` in a child process, which this program's own test `name` becomes.
fn alone(name: &str, body: impl FnOnce()) {
    const CHILD: &str = "CATNAP_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The number that the next descriptor gets; all below it are in use.
fn lowest_free() -> u64 {
    std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn at_the_limit_of_descriptors_an_accept_fails_and_later_ones_work() {
    alone("at_the_limit_of_descriptors_an_accept_fails_and_later_ones_work", || {
        let demi = demi();
        let (listening, addr) = listener(&demi, Domain::Inet);
        let waiting = demi.accept(listening).unwrap();
        assert!(is_pending(&demi, waiting));
        let mut peers: Vec<_> = (0..4).map(|_| connect(&demi, &addr).unwrap()).collect();
        completion(&demi, waiting).accepted().unwrap();

        let limit = getrlimit(Resource::Nofile);
        let used = lowest_free();
        setrlimit(Resource::Nofile, Rlimit { current: Some(used), maximum: limit.maximum }).unwrap();
        for _ in 0..3 {
            let token = demi.accept(listening).unwrap();
            assert_eq!(completion(&demi, token).accepted(), Err(Error::TooManyFiles));
            assert_eq!(demi.socket(Domain::Inet, demi_api::SocketKind::Stream), Err(Error::TooManyFiles));
        }
        demi.close(peers.pop().unwrap()).unwrap();
        accept(&demi, listening);

        setrlimit(Resource::Nofile, limit).unwrap();
        accept(&demi, listening);
        accept(&demi, listening);

        // Nobody waits any more: at the limit that is not an error, but a reason to wait.
        let used = lowest_free();
        let token = demi.accept(listening).unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(used), maximum: limit.maximum }).unwrap();
        let second = demi.accept(listening).unwrap();
        assert!(is_pending(&demi, token) && is_pending(&demi, second));
        setrlimit(Resource::Nofile, limit).unwrap();
        connect(&demi, &addr).unwrap();
        completion(&demi, token).accepted().unwrap();
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    alone("ten_thousand_connections_leave_nothing_behind", || {
        let demi = demi();
        let (listening, addr) = listener(&demi, Domain::Inet);
        // Once through everything, so that what is made once and kept is there.
        connection(&demi, listening, &addr, 3);
        let (descriptors, bytes) = (open_descriptors(), live(&demi));
        for round in 0..10_000 {
            connection(&demi, listening, &addr, round);
        }
        demi.wait(demi.accept(listening).unwrap(), Some(Duration::from_millis(20))).unwrap_err();
        assert_eq!(open_descriptors(), descriptors);
        assert_eq!(live(&demi), bytes);
        assert_eq!(demi.counters().unwrap().operations_pending, 1);
        assert_eq!(counter(&demi, "accepted"), 10_001);
    });
}

/// One connection, ended in one of several ways.
fn connection(demi: &Demi, listening: demi_api::QDesc, addr: &Addr, round: usize) {
    let client = connect(demi, addr).unwrap();
    let (server, _) = accept(demi, listening);
    let waiting = demi.pop(server).unwrap();
    match round % 4 {
        0 => {}
        1 => drop(push(demi, client, b"unread").unwrap()),
        2 => demi.set_option(client, SocketOption::Linger(Some(Duration::ZERO))).unwrap(),
        _ => {
            push(demi, client, &pattern(2000)).unwrap();
            completion(demi, waiting).popped().unwrap();
            demi.close(server).unwrap();
            demi.close(client).unwrap();
            return;
        }
    }
    demi.close(client).unwrap();
    if round % 8 >= 4 {
        drop(wait(demi, waiting));
        demi.close(server).unwrap();
    } else {
        demi.close(server).unwrap();
        drop(wait(demi, waiting));
    }
}

#[test]
fn an_idle_server_uses_no_processor() {
    alone("an_idle_server_uses_no_processor", || {
        let demi = demi();
        let (listening, addr) = listener(&demi, Domain::Inet);
        let accept_token = demi.accept(listening).unwrap();
        let client = connect(&demi, &addr).unwrap();
        let (server, _) = completion(&demi, accept_token).accepted().unwrap();
        demi.accept(listening).unwrap();
        push(&demi, client, b"once").unwrap();
        pop(&demi, server).unwrap();
        let token = demi.pop(server).unwrap();
        let _ = demi.wait(token, Some(Duration::from_millis(50)));

        let (used, begun) = (processor_time(), Instant::now());
        assert_eq!(demi.wait(token, Some(Duration::from_secs(1))).unwrap_err(), Error::TimedOut);
        let used = processor_time() - used;
        assert!(used < begun.elapsed() / 100, "{used:?} in {:?}", begun.elapsed());
    });
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn signals_end_no_wait() {
    alone("signals_end_no_wait", || {
        static DONE: AtomicBool = AtomicBool::new(false);
        static SEEN: AtomicBool = AtomicBool::new(false);
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, &SEEN).unwrap();
        let demi = demi();
        let (client, server) = pair(&demi, Domain::Inet);
        let process = rustix::process::getpid();
        // The child runs its only test on its first thread, which is where the kernel sends the signal.
        let thread = std::thread::spawn(move || {
            while !DONE.load(Ordering::Relaxed) {
                rustix::process::kill_process(process, rustix::process::Signal::USR1).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let token = demi.pop(server).unwrap();
        let begun = Instant::now();
        assert_eq!(demi.wait(token, Some(Duration::from_millis(200))).unwrap_err(), Error::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(200));
        push(&demi, client, b"awake").unwrap();
        assert_eq!(completion(&demi, token).popped().unwrap().to_vec(), b"awake");
        for _ in 0..20 {
            let bytes = pattern(1 << 20);
            let pushed = demi.push(client, demi.copy_from(&bytes).unwrap()).unwrap();
            assert_eq!(pop_exactly(&demi, server, bytes.len()), bytes);
            completion(&demi, pushed).pushed().unwrap();
        }
        DONE.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        assert!(SEEN.load(Ordering::Relaxed) && demi.counters().unwrap().sleeps > 0);
    });
}
