//! Two devices that sleep whenever there is nothing to do, each in a thread of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::time::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::side::{Side, settings};
use crate::device::{Event, Qp, Then};
use crate::soft::Soft;
use crate::soft::link::shm::{Shm, ShmConfig};

const ROUNDS: usize = 300;

/// A side that is polled until it has events, and sleeps in between as the wait loop does.
struct Sleeper {
    side: Side,
    clock: Clock,
    sleeps: usize,
}

impl Sleeper {
    fn new(directory: &std::path::Path, number: u8) -> Sleeper {
        let address = IpAddr::from([10, 0, 0, number]);
        let config = ShmConfig { directory: directory.to_owned(), address, ..ShmConfig::default() };
        let device = Soft::new(Shm::open(&config).unwrap(), settings(number.into()));
        let mut sleeper =
            Sleeper { side: Side::new(Box::new(device), address), clock: Clock::start(), sleeps: 0 };
        sleeper.side.receives(sleeper.clock.now(), 8, 1024);
        sleeper
    }

    /// The next event.
    fn next(&mut self) -> Event {
        loop {
            let now = self.clock.now();
            self.side.turn(now);
            if !self.side.events.is_empty() {
                return self.side.events.remove(0);
            }
            if !self.side.call(now, |device, cx| device.arm(cx)) {
                continue;
            }
            let deadline = self.side.device.next_deadline();
            let patience = deadline.map_or(Duration::from_secs(5), |at| at.since(self.clock.now()));
            let patience = patience.min(Duration::from_secs(5));
            let mut fds = [PollFd::from_borrowed_fd(self.side.device.wait_fd(), PollFlags::IN)];
            let woken = poll(&mut fds, Some(&Timespec::try_from(patience).unwrap())).unwrap();
            assert!(woken == 1 || patience < Duration::from_secs(5), "nobody wakes a sleeper");
            self.sleeps += 1;
        }
    }

    fn echo(&mut self, qp: Qp, bytes: &[u8]) {
        let now = self.clock.now();
        assert!(self.side.send(now, qp, b"", bytes, Then::Quiet));
        self.side.call(now, |device, cx| device.flush(cx));
        self.side.receives(now, 1, 1024);
    }
}

#[test]
fn who_sleeps_is_woken_by_connections_and_by_messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let mut server = Sleeper::new(&path, 1);
        let at = SocketAddr::from(([10, 0, 0, 1], 7));
        let now = server.clock.now();
        server.side.call(now, |device, cx| device.listen(cx, at)).unwrap();
        ready.send(()).unwrap();
        let mut echoed = 0;
        loop {
            match server.next() {
                Event::Request { id, .. } => {
                    let now = server.clock.now();
                    server.side.call(now, |device, cx| device.accept(cx, id, b"")).unwrap();
                }
                Event::Received { qp, message } => {
                    server.echo(qp, &message);
                    echoed += 1;
                }
                Event::Gone { .. } => return (echoed, server.sleeps),
                _ => {}
            }
        }
    });
    is_ready.recv().unwrap();
    // The server is asleep by now.
    std::thread::sleep(Duration::from_millis(50));
    let mut client = Sleeper::new(directory.path(), 2);
    let now = client.clock.now();
    let at = SocketAddr::from(([10, 0, 0, 1], 7));
    let qp = client.side.call(now, |device, cx| device.connect(cx, at, b"")).unwrap();
    loop {
        if let Event::Established { .. } = client.next() {
            break;
        }
    }
    for round in 0..ROUNDS {
        client.echo(qp, &round.to_ne_bytes());
        match client.next() {
            Event::Received { message, .. } => assert_eq!(message[..], round.to_ne_bytes()),
            other => panic!("{other:?}"),
        }
        if round.is_multiple_of(20) {
            // Both have nothing to do for a while.
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    let now = client.clock.now();
    client.side.call(now, |device, cx| device.disconnect(cx, qp));
    client.side.call(now, |device, cx| device.flush(cx));
    let (echoed, sleeps) = server.join().unwrap();
    assert_eq!(echoed, ROUNDS);
    assert!(sleeps > 15, "the server slept {sleeps} times");
}
