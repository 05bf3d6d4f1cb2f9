//! Two connection managers in virtual time, one of them sometimes Linux's.

use std::collections::BTreeMap;

use demi_api::time::Instant;
use fastrand::Rng;

use super::super::wire::{
    Answered, CommId, Envelope, Header, IpService, Mad, Message, Reply, Request, tcp_service,
};
use super::*;

const LISTENER: ListenId = ListenId(3);

struct World {
    now: Instant,
    rng: Rng,
    sides: [Side; 2],
    /// Datagrams on their way, by when they arrive.
    flying: BTreeMap<(Instant, u64), (usize, Datagram)>,
    sent: u64,
    /// Of a hundred.
    lost: u32,
    doubled: u32,
}

struct Side {
    manager: Manager,
    events: Vec<Event>,
}

fn addr(side: usize) -> SocketAddr {
    format!("10.0.0.{}:{}", side + 1, 7000 + side).parse().unwrap()
}

fn offer(side: usize) -> Offer {
    Offer { qpn: Qpn::new(40 + side as u32), psn: Psn::new(1000 * (side as u32 + 1)) }
}

impl World {
    fn new(seed: u64) -> World {
        let sides = [0, 1].map(|side| {
            let config = Config { guid: 100 + side, reads: 8 + 4 * side as u8, ..Config::default() };
            Side { manager: Manager::new(config, seed * 2 + side), events: Vec::new() }
        });
        let now = Instant::from_nanos(1_000_000_000);
        let mut world = World {
            now,
            rng: Rng::with_seed(seed),
            sides,
            flying: BTreeMap::new(),
            sent: 0,
            lost: 0,
            doubled: 0,
        };
        world.sides[1].manager.listen(LISTENER, "0.0.0.0:7001".parse().unwrap());
        world
    }

    fn connect(&mut self) -> CommId {
        let (from, to) = (addr(0), addr(1));
        self.sides[0].manager.connect(self.now, Qp(5), offer(0), from, to, b"it is me").unwrap()
    }

    fn collect(&mut self) {
        for side in [0, 1] {
            while let Some(datagram) = self.sides[side].manager.outgoing() {
                assert_eq!((datagram.from, datagram.to), (addr(side).ip(), addr(1 - side).ip()));
                for _ in 0..1 + u32::from(self.rng.u32(..100) < self.doubled) {
                    if self.rng.u32(..100) >= self.lost {
                        let at = self.now + Duration::from_micros(self.rng.u64(50..80));
                        self.sent += 1;
                        self.flying.insert((at, self.sent), (1 - side, datagram.clone()));
                    }
                }
            }
        }
    }

    /// To the next arrival or deadline. False: there is none.
    fn step(&mut self) -> bool {
        self.collect();
        let deadlines = self.sides.iter().filter_map(|side| side.manager.deadline());
        let Some(next) = self.flying.keys().map(|(at, _)| *at).chain(deadlines).min() else { return false };
        self.now = self.now.max(next);
        while let Some(first) = self.flying.first_entry().filter(|first| first.key().0 <= self.now) {
            let (to, datagram) = first.remove();
            let Side { manager, events } = &mut self.sides[to];
            manager.datagram(self.now, datagram.from, datagram.to, &datagram.mad, events);
        }
        for Side { manager, events } in &mut self.sides {
            manager.tick(self.now, events);
        }
        self.collect();
        true
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    /// Until a side has been told of something.
    fn until(&mut self, side: usize) -> Event {
        while self.sides[side].events.is_empty() {
            assert!(self.step(), "nothing comes");
        }
        self.sides[side].events.remove(0)
    }

    fn request(&mut self) -> RequestId {
        let Event::Request { listener: LISTENER, id, from, hello } = self.until(1) else {
            panic!("no request");
        };
        assert_eq!(from, addr(0));
        assert!(hello.starts_with(b"it is me\0") && hello.len() == 56);
        id
    }

    fn accept(&mut self, id: RequestId) -> (CommId, Agreed) {
        self.sides[1].manager.accept(self.now, id, Qp(6), offer(1), b"welcome").unwrap()
    }

    /// Both ends of a connection.
    fn connected(&mut self) -> [CommId; 2] {
        let ours = self.connect();
        let id = self.request();
        let (theirs, agreed) = self.accept(id);
        let Event::Connected { qp: Qp(5), agreed: Some(mine), hello } = self.until(0) else {
            panic!("not connected");
        };
        assert!(hello.starts_with(b"welcome\0"));
        assert_eq!((mine.remote, agreed.remote), (offer(1).qpn, offer(0).qpn));
        assert_eq!((mine.send_psn, mine.receive_psn), (offer(1).psn, offer(0).psn));
        assert_eq!((agreed.send_psn, agreed.receive_psn), (offer(0).psn, offer(1).psn));
        assert_eq!((mine.mtu, mine.initiator_depth, mine.responder_resources), (1024, 8, 8));
        assert_eq!((agreed.mtu, agreed.initiator_depth, agreed.responder_resources), (1024, 8, 8));
        assert_eq!(self.until(1), Event::Connected { qp: Qp(6), agreed: None, hello: Vec::new() });
        [ours, theirs]
    }

    /// Nothing is kept, nothing is due, and nobody was told of anything more.
    fn is_clean(&mut self) {
        self.settle();
        for Side { manager, events } in &mut self.sides {
            assert_eq!(manager.connections(), 0);
            assert_eq!(events, &[]);
            assert!(manager.deadline().is_none());
        }
    }
}

#[test]
fn a_connection_is_made_and_ended_by_either_side() {
    for by in [0, 1] {
        let mut world = World::new(1);
        let names = world.connected();
        world.sides[by].manager.disconnect(world.now, names[by]);
        let qp = [Qp(5), Qp(6)][1 - by];
        assert_eq!(world.until(1 - by), Event::Gone { qp, why: Fault::Disconnected });
        world.is_clean();
    }
    let mut world = World::new(2);
    let names = world.connected();
    for by in [0, 1] {
        world.sides[by].manager.disconnect(world.now, names[by]);
    }
    world.is_clean();
}

#[test]
fn where_nobody_listens_the_answer_is_no() {
    let mut world = World::new(1);
    world.sides[1].manager.unlisten(world.now, LISTENER);
    world.connect();
    let refused = Event::Refused { qp: Qp(5), reason: Reason::INVALID_SERVICE, hello: Vec::new() };
    assert_eq!(world.until(0), refused);
    world.is_clean();
}

#[test]
fn a_request_that_waits_is_refused_when_its_listener_goes() {
    let mut world = World::new(1);
    world.connect();
    let id = world.request();
    world.sides[1].manager.unlisten(world.now, LISTENER);
    assert!(matches!(world.until(0), Event::Refused { reason: Reason::INVALID_SERVICE, .. }));
    assert_eq!(world.sides[1].manager.accept(world.now, id, Qp(6), offer(1), b""), Err(NotThere));
    world.is_clean();
}

#[test]
fn an_application_says_no_in_its_own_words_even_if_they_get_lost() {
    let mut world = World::new(1);
    world.connect();
    let id = world.request();
    world.lost = 100;
    world.sides[1].manager.reject(world.now, id, b"not you");
    world.collect();
    world.lost = 0;
    let Event::Refused { qp: Qp(5), reason: Reason::CONSUMER, hello } = world.until(0) else {
        panic!("not refused");
    };
    assert!(hello.starts_with(b"not you\0") && hello.len() == 148);
    world.is_clean();
}

#[test]
fn a_slow_application_has_its_peer_wait() {
    let mut world = World::new(1);
    world.connect();
    let id = world.request();
    let start = world.now;
    let mut waits = 0;
    while world.now.since(start) < Duration::from_secs(60) {
        assert!(world.step());
        assert_eq!(world.sides[0].events, []);
        waits += 1;
    }
    // It asks again seldom, as it knows for how long to wait.
    assert!(waits < 80, "{waits} steps");
    world.accept(id);
    assert!(matches!(world.until(0), Event::Connected { .. }));
    assert!(matches!(world.until(1), Event::Connected { .. }));
}

#[test]
fn who_does_not_answer_is_given_up() {
    let mut world = World::new(1);
    world.lost = 100;
    let start = world.now;
    world.connect();
    assert_eq!(world.until(0), Event::Gone { qp: Qp(5), why: Fault::Timeout });
    let took = world.now.since(start);
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(20), "{took:?}");
    world.is_clean();

    world.lost = 0;
    world.connect();
    let id = world.request();
    world.accept(id);
    world.lost = 100;
    world.collect();
    assert_eq!(world.until(1), Event::Gone { qp: Qp(6), why: Fault::Timeout });
    assert_eq!(world.until(0), Event::Gone { qp: Qp(5), why: Fault::Timeout });
    world.is_clean();
}

#[test]
fn a_request_can_be_withdrawn() {
    let mut world = World::new(1);
    let name = world.connect();
    let id = world.request();
    world.sides[0].manager.disconnect(world.now, name);
    assert_eq!(world.until(1), Event::Withdrawn { id });
    assert_eq!(world.sides[1].manager.accept(world.now, id, Qp(6), offer(1), b""), Err(NotThere));
    world.is_clean();
}

#[test]
fn a_packet_counts_as_the_word_that_all_is_ready() {
    let mut world = World::new(1);
    world.connect();
    let id = world.request();
    let (name, _) = world.accept(id);
    assert!(matches!(world.until(0), Event::Connected { .. }));
    world.flying.clear();
    let Side { manager, events } = &mut world.sides[1];
    manager.heard(name, events);
    manager.heard(name, events);
    assert_eq!(world.sides[1].events.len(), 1);
    assert!(matches!(world.until(1), Event::Connected { qp: Qp(6), .. }));
    world.settle();
    assert_eq!(world.sides[1].events, []);
}

#[test]
fn the_last_word_is_said_again_when_it_is_lost() {
    let mut world = World::new(1);
    world.connect();
    let id = world.request();
    world.accept(id);
    assert!(matches!(world.until(0), Event::Connected { .. }));
    world.flying.clear();
    assert!(matches!(world.until(1), Event::Connected { qp: Qp(6), .. }));
}

#[test]
fn who_begins_anew_ends_what_was_before() {
    let mut world = World::new(1);
    world.connected();
    // Without a word, as after a crash.
    let config = Config { guid: 100, reads: 8, ..Config::default() };
    world.sides[0].manager = Manager::new(config, 77);
    world.connect();
    assert_eq!(world.until(1), Event::Gone { qp: Qp(6), why: Fault::Disconnected });
    assert!(matches!(world.until(0), Event::Refused { reason: Reason::STALE, .. }));
    world.connected();
}

#[test]
fn over_a_bad_wire_it_ends_well_or_in_time() {
    let mut made = 0;
    for seed in 0..2000 {
        let mut world = World::new(seed);
        (world.lost, world.doubled) = (world.rng.u32(..70), world.rng.u32(..50));
        let mut names = [Some(world.connect()), None];
        let (mut ends, mut asked) = ([0, 0], 0);
        let leaver = world.rng.usize(..2);
        while world.step() {
            for side in [0, 1] {
                for event in std::mem::take(&mut world.sides[side].events) {
                    match event {
                        Event::Request { id, .. } => {
                            asked += 1;
                            names[1] = Some(world.accept(id).0);
                        }
                        Event::Connected { .. } => {
                            assert_eq!(ends[side], 0, "seed {seed}");
                            made += 1;
                            if side == leaver
                                && let Some(name) = names[side]
                            {
                                world.sides[side].manager.disconnect(world.now, name);
                                ends[side] = 2;
                            } else {
                                ends[side] = 1;
                            }
                        }
                        Event::Gone { .. } | Event::Refused { .. } => {
                            assert!(ends[side] < 2, "seed {seed}");
                            ends[side] = 2;
                        }
                        Event::Withdrawn { .. } => panic!("it was accepted at once"),
                    }
                }
            }
        }
        assert!(asked <= 1, "seed {seed}: asked {asked} times");
        // Who never heard that the other side has gone finds out by sending.
        assert!(ends[leaver] == 2 || asked == 0 || ends[1 - leaver] == 2, "seed {seed}: {ends:?}");
    }
    assert!(made > 2500, "{made} ends of 4000");
}

#[test]
fn linux_is_answered_as_it_answers() {
    let mut lines = include_str!("../wire/golden.txt").lines();
    let mut golden = |name: &str| {
        lines.find(|line| *line == name).unwrap();
        let hex = lines.next().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let packet: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let (envelope, content) = Envelope::open(&packet).unwrap();
        let mad = Header::parse(content).unwrap().1.to_vec();
        (envelope.ends.source(), envelope.ends.destination(), mad)
    };
    let (client, server, request) = golden("request");
    let reply = golden("reply").2;
    let ready = golden("ready to use").2;
    let Message::Reply(theirs) = Mad::parse(&reply).unwrap().message else { panic!("no reply") };

    let mut manager = Manager::new(Config { guid: theirs.guid, reads: 4, ..Config::default() }, 1);
    manager.listen(LISTENER, "10.7.0.1:7471".parse().unwrap());
    let (now, mut events) = (Instant::from_nanos(1), Vec::new());
    manager.datagram(now, client, server, &request, &mut events);
    let Some(Event::Request { id, hello, .. }) = events.pop() else { panic!("no request") };
    assert!(hello.starts_with(b"hello from the client\0"));
    let offer = Offer { qpn: theirs.qpn, psn: theirs.psn };
    let (name, _) = manager.accept(now, id, Qp(1), offer, b"hello from the server").unwrap();
    let ours = manager.outgoing().unwrap().mad;
    let Mad { transaction, message: Message::Reply(ours) } = Mad::parse(&ours).unwrap() else {
        panic!("no reply");
    };
    assert_eq!(transaction, Mad::parse(&reply).unwrap().transaction);
    let expected = Reply { local: name, ack_delay: ours.ack_delay, shared_receives: true, ..theirs };
    assert_eq!(ours, expected);

    // Its RTU names the connection as Linux' own server did.
    let Mad { transaction, message: Message::Ready { local, .. } } = Mad::parse(&ready).unwrap() else {
        panic!("no RTU");
    };
    let ready = Mad { transaction, message: Message::Ready { local, remote: name } }.emit();
    manager.datagram(now, client, server, &ready, &mut events);
    assert!(matches!(events.pop(), Some(Event::Connected { qp: Qp(1), .. })));
}

#[test]
fn strangers_change_nothing_and_fill_nothing() {
    let mut world = World::new(1);
    let names = world.connected();
    let mut rng = Rng::with_seed(9);
    let private = IpService { source: addr(0).ip(), source_port: 7000, destination: addr(1).ip() }.emit(b"");
    let stranger: IpAddr = "10.0.0.66".parse().unwrap();
    let (mut events, mut requests) = (Vec::new(), 0);
    for number in 0..5000_u32 {
        let id = |rng: &mut Rng| if rng.bool() { names[rng.usize(..2)] } else { CommId(rng.u32(..)) };
        let (local, remote) = (id(&mut rng), id(&mut rng));
        let message = match rng.u8(..7) {
            0 => Message::Delay { local, remote, answered: Answered::Reply, timeout: rng.u8(..32) },
            1 => Message::Reject {
                local,
                remote,
                answered: Answered::Request,
                reason: [Reason::TIMEOUT, Reason::CONSUMER, Reason::STALE][rng.usize(..3)],
                private: &[],
            },
            2 => Message::Ready { local, remote },
            3 => Message::Disconnect { local, remote, qpn: offer(1).qpn },
            4 => Message::Disconnected { local, remote },
            5 => Message::Reply(Reply {
                local,
                remote,
                guid: 100,
                qpn: Qpn::new(rng.u32(..)),
                psn: Psn::new(rng.u32(..)),
                responder_resources: rng.u8(..),
                initiator_depth: rng.u8(..),
                ack_delay: 0,
                rnr_retry_count: 7,
                shared_receives: false,
                private: &[],
            }),
            _ => Message::Request(Request {
                local: CommId(number),
                service: tcp_service(7001),
                guid: 100,
                qpn: Qpn::new(number),
                psn: Psn::new(0),
                responder_resources: rng.u8(..),
                initiator_depth: rng.u8(..),
                cm_timeouts: [31; 2],
                retry_count: 7,
                rnr_retry_count: 7,
                cm_retries: 15,
                mtu: 1,
                shared_receives: false,
                local_gid: [0; 16],
                remote_gid: [0; 16],
                flow_label: 0,
                rate: 0,
                traffic_class: 0,
                hop_limit: 64,
                ack_timeout: 31,
                private: &private,
            }),
        };
        let mad = Mad { transaction: rng.u64(..), message }.emit();
        let to = addr(1).ip();
        let manager = &mut world.sides[1].manager;
        manager.datagram(world.now, stranger, to, &mad, &mut events);
        for event in events.drain(..) {
            assert!(matches!(event, Event::Request { .. } | Event::Withdrawn { .. }), "{event:?}");
            requests += 1;
        }
        let mut answers = 0;
        while manager.outgoing().is_some() {
            answers += 1;
        }
        assert!(answers <= 1, "no more goes out than came in");
        assert!(manager.connections() <= 1 + 256);
    }
    assert!(requests >= 256);
    world.sides[0].manager.disconnect(world.now, names[0]);
    assert_eq!(world.until(1), Event::Gone { qp: Qp(6), why: Fault::Disconnected });
}
