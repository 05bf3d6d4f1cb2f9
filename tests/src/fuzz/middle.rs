//! Two instances, and somebody in the middle who drops, repeats, reorders, delays and rewrites frames.
//!
//! As long as nothing is rewritten, every byte arrives, once and in order, when the network is good again.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::{Domain, QDesc, QToken, Shutdown, SocketOption};

use super::host::{Host, MTU, PEER4, PEER6};
use super::input::Input;
use super::packet::{mend, sound};

/// Bytes pushed in one direction, at the most.
const MOST: usize = 200_000;

/// How long a connection is given for what the middle has left of it.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// One end of the connection.
struct End {
    host: Host,
    qd: QDesc,
    /// What the middle holds of what it sent.
    under_way: VecDeque<Vec<u8>>,
    pushed: usize,
    shut: bool,
    pop: Option<QToken>,
    popped: usize,
    ended: bool,
    reads: bool,
}

/// See the module: commands of one byte each, with what they need behind them.
pub fn middle(data: &[u8]) {
    let mut input = Input::new(data);
    let variant = input.byte();
    let more = ["", "congestion = \"newreno\"", "recv_buffer = 3000", "send_buffer = 3000"];
    let mut more = String::from(more[usize::from(variant & 3)]);
    if variant & 8 != 0 {
        more += "\necn = \"on\"";
    }
    if variant & 16 != 0 {
        more += "\nsyn_cookies = \"always\"";
    }
    let mut ends = connected(variant & 4 != 0, &more);
    let mut rewritten = false;
    while !input.is_empty() {
        let command = input.byte();
        let place = usize::from(command >> 4 & 1);
        let [near, far] = &mut ends;
        let (from, to) = if place == 0 { (near, far) } else { (far, near) };
        match command & 15 {
            0..4 => from.deliver(to),
            4 => drop(from.under_way.pop_front()),
            5 => {
                if let Some(first) = from.under_way.front() {
                    to.host.arrive(first);
                }
            }
            6 => {
                if let Some(first) = from.under_way.pop_front() {
                    from.under_way.push_back(first);
                }
            }
            7 if from.under_way.len() > 1 => from.under_way.swap(0, 1),
            8 => {
                if let Some(first) = from.under_way.front_mut() {
                    let at = usize::from(input.half()) % first.len();
                    first[at] ^= input.byte();
                    mend(first);
                    rewritten = true;
                }
            }
            9 => {
                let scale = input.byte() % 35;
                from.host.pass(Duration::from_nanos(1 << scale));
            }
            10 => to_deadline(&mut ends),
            11 | 12 => {
                let len = usize::from(input.half());
                from.push(place, if command & 15 == 11 { len % 600 } else { len });
            }
            13 => from.reads = !from.reads,
            14 => {
                for _ in 0..input.byte() {
                    from.deliver(to);
                }
            }
            _ => from.shut(),
        }
        for (place, end) in ends.iter_mut().enumerate() {
            end.go_on(place, rewritten);
        }
    }
    if rewritten {
        // Whatever they believe now, they let go of it.
        for mut end in ends {
            end.host.tokens.extend(end.pop);
            end.host.end();
        }
        return;
    }
    finish(&mut ends);
    // Both at a time: what one closes with, the other answers.
    for end in &mut ends {
        end.host.close(end.qd);
    }
    settle(&mut ends);
    for end in ends {
        end.host.end();
    }
}

/// Lets a good network carry all that is left.
fn finish(ends: &mut [End; 2]) {
    let limit = ends[0].host.now() + PATIENCE;
    for end in ends.iter_mut() {
        end.shut();
        end.reads = true;
    }
    loop {
        settle(ends);
        if ends.iter().all(|end| end.ended && end.host.tokens.is_empty()) {
            break;
        }
        let counters = ends.each_ref().map(|end| end.host.counters());
        assert!(ends[0].host.now() < limit, "it does not arrive: {counters:?}");
        assert!(
            ends.iter().any(|end| end.host.next_deadline().is_some()),
            "nothing will happen: {counters:?}"
        );
        to_deadline(ends);
    }
    assert_eq!((ends[0].popped, ends[1].popped), (ends[1].pushed, ends[0].pushed));
}

/// Carries frames until there are none.
fn settle(ends: &mut [End; 2]) {
    loop {
        for (place, end) in ends.iter_mut().enumerate() {
            end.go_on(place, false);
        }
        let [near, far] = ends;
        if near.under_way.is_empty() && far.under_way.is_empty() {
            return;
        }
        while !near.under_way.is_empty() {
            near.deliver(far);
        }
        while !far.under_way.is_empty() {
            far.deliver(near);
        }
    }
}

fn to_deadline(ends: &mut [End; 2]) {
    let next = ends.iter().filter_map(|end| end.host.next_deadline()).min();
    if let Some(next) = next {
        let now = ends[0].host.now();
        ends[0].host.pass(next - now);
        ends[1].host.settle();
    }
}

/// The byte that belongs at a place of a direction's stream.
fn byte(from: usize, at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8 ^ from as u8
}

impl End {
    /// Hands one frame to the other side.
    fn deliver(&mut self, to: &mut End) {
        if let Some(frame) = self.under_way.pop_front() {
            to.host.arrive(&frame);
            to.host.settle();
        }
    }

    fn push(&mut self, place: usize, len: usize) {
        if self.shut || self.host.tokens.len() >= 32 || self.pushed + len > MOST {
            return;
        }
        let bytes: Vec<u8> = (self.pushed..self.pushed + len).map(|at| byte(place, at)).collect();
        let Ok(sga) = self.host.demi.copy_from(&bytes) else { return };
        if let Ok(push) = self.host.demi.push(self.qd, sga) {
            self.host.tokens.push(push);
            self.pushed += len;
        }
    }

    fn shut(&mut self) {
        if !std::mem::replace(&mut self.shut, true) {
            // It may have been reset after something was rewritten.
            let _ = self.host.demi.shutdown(self.qd, Shutdown::Write);
        }
    }

    /// One look: takes what the instance has sent, and what has arrived for its application.
    fn go_on(&mut self, place: usize, rewritten: bool) {
        self.host.settle();
        while self.reads && !self.ended {
            let token = match self.pop {
                Some(token) => token,
                None => match self.host.demi.pop(self.qd) {
                    Ok(token) => *self.pop.insert(token),
                    Err(_) if rewritten => break,
                    Err(error) => panic!("{error}"),
                },
            };
            let Some(done) = self.host.result(token) else { break };
            self.pop = None;
            match done.popped() {
                Ok(sga) => {
                    let right = |(at, found): (usize, &u8)| *found == byte(1 - place, self.popped + at);
                    assert!(rewritten || sga.to_vec().iter().enumerate().all(right), "wrong bytes");
                    self.popped += sga.len();
                    self.ended = sga.is_empty();
                }
                Err(_) if rewritten => self.ended = true,
                Err(error) => panic!("{error}: {:?}", self.host.counters()),
            }
        }
        for done in self.host.reap() {
            assert!(rewritten || done.result.is_ok(), "{:?}: {:?}", done.result, self.host.counters());
        }
        self.host.settle();
        for frame in self.host.take() {
            sound(&frame, MTU);
            self.under_way.push_back(frame);
        }
    }
}

fn connected(v6: bool, more: &str) -> [End; 2] {
    let [mut near, mut far] = Host::two(4, more);
    let domain = if v6 { Domain::Inet6 } else { Domain::Inet };
    let addr = |v4: std::net::Ipv4Addr, six: std::net::Ipv6Addr| -> std::net::SocketAddr {
        (if v6 { six.into() } else { std::net::IpAddr::from(v4) }, 80).into()
    };
    let listener = far.demi.socket(domain, demi_api::SocketKind::Stream).expect("there is room");
    far.demi.bind(listener, addr(PEER4, PEER6)).expect("the port is free");
    far.demi.listen(listener, 1).expect("it is bound");
    let accept = far.demi.accept(listener).expect("it listens");
    near.settle();
    far.settle();
    let client = near.socket(v6, demi_api::SocketKind::Stream, 0);
    let connect = near.demi.connect(client, addr(PEER4, PEER6)).expect("it is fresh");
    for _ in 0..20 {
        near.settle();
        for frame in near.take() {
            far.arrive(&frame);
        }
        far.settle();
        for frame in far.take() {
            near.arrive(&frame);
        }
    }
    near.result(connect).expect("the network is good").result.expect("somebody listens");
    let (server, _) = far.result(accept).expect("the network is good").accepted().expect("somebody calls");
    far.demi.close(listener).expect("it is open");
    far.open.push(server);
    [(near, client), (far, server)].map(|(host, qd)| {
        host.demi.set_option(qd, SocketOption::UserTimeout(PATIENCE * 2)).expect("it is a connection");
        End {
            host,
            qd,
            under_way: VecDeque::new(),
            pushed: 0,
            shut: false,
            pop: None,
            popped: 0,
            ended: false,
            reads: true,
        }
    })
}
