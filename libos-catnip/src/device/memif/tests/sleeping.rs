//! Ends that sleep on `wait_fd`, and are woken.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

impl End {
    /// Whether `wait_fd` is readable within some milliseconds.
    fn wakes(&self, millis: i64) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.device.wait_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit))) == Ok(1)
    }

    /// One turn as a wait loop makes it: polls, and sleeps if there is nothing, until a deadline if there is one.
    fn turn(&mut self) {
        if self.receive() > 0 || !self.outbox.is_empty() && self.send() > 0 || !self.arm() {
            return;
        }
        let now = self.clock.now();
        let deadline = self.device.next_deadline().map(|at| (at - now).as_millis() as i64 + 1);
        let woken = self.wakes(deadline.unwrap_or(5000));
        assert!(woken || deadline.is_some(), "asleep for five seconds");
    }
}

#[test]
fn an_armed_end_is_woken_by_a_frame_and_not_before() {
    let (mut server, mut client) = pair(|_| {});
    assert!(!server.arm() && !client.arm(), "the link is news");
    for side in [0, 1, 0, 1] {
        let [to, from] = if side == 0 { [&mut server, &mut client] } else { [&mut client, &mut server] };
        assert!(to.arm() && !to.wakes(0), "nothing has happened");
        from.push(&pattern(60, side));
        let interrupts = from.counter("memif_interrupts_sent");
        from.send();
        assert_eq!(from.counter("memif_interrupts_sent"), interrupts + 1);
        assert!(to.wakes(1000));
        assert!(!to.arm(), "there is work");
        assert_eq!(to.receive(), 1);
        from.push(&pattern(60, side));
        from.send();
        assert_eq!(from.counter("memif_interrupts_sent"), interrupts + 1, "it is awake and polls");
        assert_eq!(to.receive(), 1);
        assert!(to.arm() && !to.wakes(0), "the interrupt is used up");
        assert_eq!(to.receive(), 0);
    }
}

#[test]
fn an_armed_end_is_woken_by_a_peer_that_comes_and_goes() {
    let socket = socket_name();
    let mut server = End::open(&config(Role::Server, &socket));
    server.receive();
    assert!(server.arm() && !server.wakes(0));
    let mut client = End::open(&config(Role::Client, &socket));
    client.receive();
    assert!(server.wakes(1000), "a connection");
    until(&mut [&mut server, &mut client], both_up);
    assert!(!server.arm() && !client.arm(), "the link is news");
    assert!(server.arm() && client.arm() && !server.wakes(0) && !client.wakes(0));
    drop(client);
    assert!(server.wakes(1000), "it has gone");
    assert!(!server.arm() && !server.device.is_up());
    assert!(server.arm() && !server.wakes(0), "and that is done with");
}

/// Two threads that sleep whenever they have nothing to do send a ball back and forth.
#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: usize = 5000;
    let socket = socket_name();
    let (as_server, as_client) = (config(Role::Server, &socket), config(Role::Client, &socket));
    let echo = std::thread::spawn(move || {
        let mut server = End::open(&as_server);
        let mut returned = 0;
        while returned < ROUNDS {
            server.turn();
            for frame in std::mem::take(&mut server.inbox) {
                server.outbox.push_back(frame);
                returned += 1;
            }
            server.send();
        }
        // The client closes last.
        while server.device.is_up() {
            server.turn();
        }
    });
    let mut client = End::open(&as_client);
    while !client.device.is_up() {
        client.turn();
    }
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..ROUNDS {
        let ball = pattern(14 + round % 1400, round);
        client.push(&ball);
        client.send();
        // Now and then awake when the answer comes, now and then asleep, or on the way there.
        for _ in 0..rng.usize(..300) {
            client.receive();
        }
        while client.inbox.is_empty() {
            client.turn();
        }
        assert_eq!(client.take(), [ball]);
    }
    drop(client);
    echo.join().unwrap();
}

/// The same with frames that stream one way through a ring that is often full, at which the sender has to sleep too.
#[test]
fn a_sleeping_sender_notices_room() {
    const COUNT: usize = 20_000;
    let socket = socket_name();
    let (as_server, as_client) = (
        MemifConfig { ring_log2: 4, ..config(Role::Server, &socket) },
        MemifConfig { ring_log2: 4, ..config(Role::Client, &socket) },
    );
    let sink = std::thread::spawn(move || {
        let mut server = End::open(&as_server);
        let mut received = 0;
        while received < COUNT {
            server.turn();
            for frame in server.take() {
                assert_eq!(frame, pattern(64, received));
                received += 1;
            }
        }
    });
    let mut client = End::open(&as_client);
    while !client.device.is_up() {
        client.turn();
    }
    for number in 0..COUNT {
        client.push(&pattern(64, number));
        if client.outbox.len() > 50 {
            client.send();
        }
        while client.outbox.len() > 50 {
            client.turn();
        }
    }
    while client.device.is_up() && !client.outbox.is_empty() {
        client.turn();
    }
    sink.join().unwrap();
}
