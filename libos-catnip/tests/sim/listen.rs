//! Backlogs, cookies, and a flood of SYNs.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::{Domain, SocketKind, SocketOption};
use demi_libos_catnip::device::fault::Faults;
use demi_libos_catnip::device::{Caps, DeviceCx, Frame, Loopback, Queue};

use crate::raw::{ACK, CWR, ECE, PSH, RAW, RST, Raw, SYN, Seg};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// Two hosts on a perfect wire, of which the second sends strangers' packets to the raw end.
fn world(more: &str) -> World {
    World::over(1, 1500, more, "gateway4 = \"10.0.0.9\"", |plug, _| Box::new(plug))
}

fn address() -> SocketAddr {
    "10.0.0.2:80".parse().unwrap()
}

fn listen(world: &World, backlog: u32) -> QDesc {
    let host = &world.hosts[1];
    let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
    host.bind(listener, address()).unwrap();
    host.listen(listener, backlog).unwrap();
    listener
}

/// A message each way.
fn echo(world: &World, raw: &mut Raw, ends: [QDesc; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        let sga = world.hosts[from].copy_from(b"as always").unwrap();
        let push = world.hosts[from].push(ends[from], sga).unwrap();
        let pop = world.hosts[to].pop(ends[to]).unwrap();
        raw.settle(world);
        world.take(from, push).expect("pushed").pushed().unwrap();
        assert_eq!(world.take(to, pop).expect("popped at once").popped().unwrap().to_vec(), b"as always");
    }
}

fn connect(world: &World, raw: &mut Raw, listener: QDesc) -> [QDesc; 2] {
    let accept = world.hosts[1].accept(listener).unwrap();
    let client = world.hosts[0].socket(Domain::Inet, SocketKind::Stream).unwrap();
    let connect = world.hosts[0].connect(client, address()).unwrap();
    raw.settle(world);
    world.take(0, connect).expect("connected at once").result.unwrap();
    [client, world.take(1, accept).expect("accepted at once").accepted().unwrap().0]
}

#[test]
fn a_flood_of_syns_stops_neither_old_connections_nor_new_ones() {
    const SYNS: u32 = 100_000;
    let world = world("half_open = 256");
    let mut raw = Raw::new(&world);
    raw.blind = true;
    let listener = listen(&world, 16);
    let old = connect(&world, &mut raw, listener);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut most = 0;
    for number in 0..SYNS {
        let from = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() | rng.u32(..1 << 22));
        let seg = Seg {
            ports: (rng.u16(1..), 80),
            seq: rng.u32(..),
            flags: SYN,
            window: 1024,
            mss: Some(1460),
            ..Seg::default()
        };
        raw.send_from(world.now(), from, &seg);
        if number % 64 == 63 {
            raw.settle(&world);
            echo(&world, &mut raw, old);
            most = most.max(world.hosts[1].heap().stats().objects_live);
            world.clock.set(world.now() + Duration::from_millis(1));
        }
        if number % 2048 == 2047 {
            let ends = connect(&world, &mut raw, listener);
            echo(&world, &mut raw, ends);
            for (host, qd) in world.hosts.iter().zip(ends) {
                host.close(qd).unwrap();
            }
        }
    }
    assert!(most < 2000, "{most} objects");
    let count = |name| world.counter(1, name);
    assert!(count("tcp_cookies_sent") > u64::from(SYNS) * 9 / 10, "{:#?}", world.counters());
    assert!(count("tcp_cookies_accepted") >= u64::from(SYNS) / 2048 - 1);
    assert!(count("tcp_connections") <= 256 + 2 + u64::from(SYNS) / 2048, "{}", count("tcp_connections"));
    assert!(raw.count >= SYNS as usize * 9 / 10, "{} answers", raw.count);
    assert_eq!(world.counter(0, "tcp_timeouts") + count("tcp_resets_sent"), 0);
}

#[test]
fn connections_beyond_the_backlog_wait_for_their_turn() {
    for more in ["", "syn_cookies = \"always\"", "syn_cookies = \"off\""] {
        let world = World::new(3, &Faults::default(), 1500, more);
        let listener = listen(&world, 2);
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let client = world.hosts[0].socket(Domain::Inet, SocketKind::Stream).unwrap();
                (client, world.hosts[0].connect(client, address()).unwrap())
            })
            .collect();
        let mut connected = vec![false; clients.len()];
        let mut accepted = Vec::new();
        let mut accept = None;
        let begin = world.now();
        world.run(60 * SECOND, |world| {
            for ((client, token), connected) in clients.iter().zip(&mut connected) {
                if !*connected && let Some(done) = world.take(0, *token) {
                    done.result.unwrap();
                    *connected = true;
                    // With cookies, it is on the client to say something until it is heard.
                    world.hosts[0].push(*client, world.hosts[0].copy_from(b"hello").unwrap()).unwrap();
                }
            }
            // For the first while, nobody is accepted.
            if world.now() - begin > SECOND / 2 {
                let token = *accept.get_or_insert_with(|| world.hosts[1].accept(listener).unwrap());
                if let Some(done) = world.take(1, token) {
                    accept = None;
                    accepted.push(done.accepted().unwrap().0);
                }
            }
            accepted.len() == clients.len() && connected.iter().all(|connected| *connected)
        });
        assert!(world.counter(1, "tcp_backlog_full") > 0, "{more}");
        assert_eq!(world.counter(1, "tcp_resets_sent"), 0, "{more}");
        let mut pops: Vec<_> = accepted.iter().map(|qd| (*qd, world.hosts[1].pop(*qd).unwrap())).collect();
        world.run(10 * SECOND, |world| {
            pops.retain(|(_, pop)| world.take(1, *pop).is_none_or(|done| done.popped().unwrap().len() != 5));
            pops.is_empty()
        });
    }
}

/// A SYN with every option, and the answer.
fn call(world: &World, raw: &mut Raw) -> (Seg, Seg) {
    let syn = Seg {
        ports: (4000, 80),
        seq: 7_000_000,
        flags: SYN | ECE | CWR,
        window: 5000,
        mss: Some(1400),
        shift: Some(7),
        sack: true,
        stamps: Some((900, 0)),
        ..Seg::default()
    };
    raw.send(world, &syn);
    (syn, raw.one())
}

/// The acknowledgement of a SYN's answer, with data.
fn greeting(syn: &Seg, answer: &Seg) -> Seg {
    Seg {
        ports: syn.ports,
        seq: syn.seq + 1,
        ack: answer.seq.wrapping_add(1),
        flags: ACK | PSH,
        window: 100,
        stamps: answer.stamps.map(|(value, _)| (901, value)),
        data: b"hello".to_vec(),
        ..Seg::default()
    }
}

#[test]
fn rfc4987_a_cookie_keeps_what_the_syn_said() {
    let world = world("syn_cookies = \"always\"");
    let mut raw = Raw::new(&world);
    let listener = listen(&world, 16);
    let (syn, answer) = call(&world, &mut raw);
    assert_eq!((answer.flags, answer.ack), (SYN | ACK | ECE, syn.seq + 1));
    assert_eq!((answer.mss, answer.shift.is_some(), answer.sack), (Some(1460), true, true));
    assert_eq!(answer.stamps.map(|(_, echo)| echo), Some(900));
    assert_eq!(world.counter(1, "tcp_connections"), 0, "nothing is kept");
    // The same SYN gets the same answer.
    raw.send(&world, &syn);
    assert_eq!(raw.one().seq, answer.seq);
    raw.pass(&world, 100 * Duration::from_millis(1));
    let accept = world.hosts[1].accept(listener).unwrap();
    raw.send(&world, &greeting(&syn, &answer));
    let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
    let ack = raw.one();
    assert_eq!((ack.flags, ack.ack, ack.seq), (ACK, syn.seq + 6, answer.seq.wrapping_add(1)));
    assert!(
        ack.stamps.unwrap().0.wrapping_sub(answer.stamps.unwrap().0).cast_signed() > 0,
        "the clock goes on"
    );
    // The peer's window is scaled: 12,800 bytes. Its segment size is 1400 less the timestamps, or what is nearest below.
    world.hosts[1].push(server, world.hosts[1].copy_from(&[1; 40_000]).unwrap()).unwrap();
    raw.settle(&world);
    let sizes: Vec<usize> = raw.seen.iter().map(|seg| seg.data.len()).collect();
    assert_eq!(sizes, [1360 - 12; 9]);
    assert!(raw.seen.iter().all(|seg| seg.ecn == 2), "and it agreed to congestion marks");
}

#[test]
fn rfc4987_without_timestamps_only_the_segment_size_is_known() {
    let world = world("syn_cookies = \"always\"");
    let mut raw = Raw::new(&world);
    let listener = listen(&world, 16);
    let syn = Seg {
        ports: (4000, 80),
        seq: 1,
        flags: SYN | ECE | CWR,
        mss: Some(600),
        shift: Some(7),
        sack: true,
        ..Seg::default()
    };
    raw.send(&world, &syn);
    let answer = raw.one();
    assert_eq!((answer.flags, answer.shift, answer.sack, answer.stamps), (SYN | ACK, None, false, None));
    let accept = world.hosts[1].accept(listener).unwrap();
    raw.send(&world, &Seg { window: 2000, ..greeting(&syn, &answer) });
    let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
    world.hosts[1].push(server, world.hosts[1].copy_from(&[1; 40_000]).unwrap()).unwrap();
    raw.settle(&world);
    let sent: Vec<usize> = raw.seen.iter().map(|seg| seg.data.len()).filter(|len| *len > 0).collect();
    assert_eq!(sent, [536, 536, 536], "as the window, which is not scaled, allows");
}

#[test]
fn rfc4987_old_and_invented_cookies_are_refused() {
    let world = world("syn_cookies = \"always\"");
    let mut raw = Raw::new(&world);
    listen(&world, 16);
    let (syn, answer) = call(&world, &mut raw);
    let good = greeting(&syn, &answer);
    for bad in [
        Seg { ack: good.ack ^ 0x10, ..good.clone() },
        Seg { seq: good.seq + 1, ..good.clone() },
        Seg { ports: (4001, 80), ..good.clone() },
        Seg { stamps: good.stamps.map(|(value, echo)| (value, echo ^ 1)), ..good.clone() },
        Seg { stamps: None, ..good.clone() },
    ] {
        raw.send(&world, &bad);
        let reset = raw.one();
        assert_eq!((reset.flags, reset.seq), (RST, bad.ack), "{bad:?}");
    }
    raw.pass(&world, Duration::from_secs(129));
    raw.send(&world, &good);
    assert_eq!(raw.one().flags, RST);
    assert_eq!(world.counter(1, "tcp_connections"), 0);
}

#[test]
fn rfc4987_a_cookie_that_finds_no_room_is_ignored() {
    let world = world("syn_cookies = \"always\"");
    let mut raw = Raw::new(&world);
    let listener = listen(&world, 1);
    let (syn, answer) = call(&world, &mut raw);
    let other = world.hosts[0].socket(Domain::Inet, SocketKind::Stream).unwrap();
    let connect = world.hosts[0].connect(other, address()).unwrap();
    raw.settle(&world);
    world.take(0, connect).expect("connected").result.unwrap();
    raw.send(&world, &greeting(&syn, &answer));
    raw.none();
    // Somebody is accepted, and what comes again finds room.
    for _ in 0..2 {
        let accept = world.hosts[1].accept(listener).unwrap();
        raw.send(&world, &greeting(&syn, &answer));
        world.take(1, accept).expect("accepted").accepted().unwrap();
    }
    assert!(raw.seen.iter().all(|seg| !seg.has(RST)), "{:#?}", raw.seen);
}

#[test]
fn stray_acknowledgements_are_reset_where_no_cookie_was_given() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let listener = listen(&world, 1);
    raw.send(&world, &Seg { ports: (1, 80), seq: 1, ack: 2, flags: ACK, ..Seg::default() });
    assert_eq!(raw.one().flags, RST);
    assert_eq!(world.counter(1, "tcp_cookies_refused"), 0);
    let accept = world.hosts[1].accept(listener).unwrap();
    world.hosts[1].close(listener).unwrap();
    assert_eq!(world.take(1, accept).unwrap().result.unwrap_err(), Error::Cancelled);
}

/// A device that transmits nothing while it is told so.
pub(crate) struct Stuck {
    pub(crate) behind: Loopback,
    pub(crate) stuck: Rc<Cell<bool>>,
}

impl Queue for Stuck {
    fn caps(&self) -> &Caps {
        self.behind.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        self.behind.rx_burst(cx, inbox)
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        if self.stuck.get() { 0 } else { self.behind.tx_burst(cx, outbox) }
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.behind.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.behind.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.behind.counters(visit);
    }
}

#[test]
fn strangers_fill_no_memory_while_the_device_does_not_keep_up() {
    for port in [80, 81] {
        let stuck = Rc::new(Cell::new(false));
        let world = World::over(1, 1500, "half_open = 16", "gateway4 = \"10.0.0.9\"", |behind, _| {
            Box::new(Stuck { behind, stuck: Rc::clone(&stuck) })
        });
        let mut raw = Raw::new(&world);
        listen(&world, 16);
        let seg = Seg { ports: (9, port), flags: SYN, ..Seg::default() };
        // The way back is known.
        raw.send(&world, &seg);
        stuck.set(true);
        for number in 0..10_000 {
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() | number);
            raw.send_from(world.now(), from, &seg);
            if number % 100 == 99 {
                raw.settle(&world);
            }
        }
        let held = world.hosts[1].heap().stats().objects_live;
        assert!((4000..4500).contains(&held), "port {port}: {held} objects");
        stuck.set(false);
        raw.blind = true;
        raw.settle(&world);
        assert!(world.hosts[1].heap().stats().objects_live < 100);
    }
}

#[test]
fn listeners_may_share_a_port_if_all_agree() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let host = &world.hosts[1];
    let socket = |shares: bool| {
        let socket = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
        host.set_option(socket, SocketOption::ReusePort(shares)).unwrap();
        (socket, host.bind(socket, address()))
    };
    let (one, bound) = socket(true);
    bound.unwrap();
    assert_eq!(socket(false).1.unwrap_err(), Error::AddressInUse);
    let (other, bound) = socket(true);
    bound.unwrap();
    for listener in [one, other] {
        host.listen(listener, 64).unwrap();
    }
    let mut clients = Vec::new();
    for _ in 0..40 {
        let client = world.hosts[0].socket(Domain::Inet, SocketKind::Stream).unwrap();
        clients.push(world.hosts[0].connect(client, address()).unwrap());
        raw.settle(&world);
    }
    for connect in clients {
        world.take(0, connect).expect("connected").result.unwrap();
    }
    let mut counts = [0; 2];
    for (listener, count) in [one, other].into_iter().zip(&mut counts) {
        let accepts: Vec<_> = (0..40).map(|_| host.accept(listener).unwrap()).collect();
        raw.settle(&world);
        *count = accepts.into_iter().filter(|accept| world.take(1, *accept).is_some()).count();
    }
    assert!(counts[0] + counts[1] == 40 && counts[0] > 5 && counts[1] > 5, "{counts:?}");
}

#[test]
fn datagram_sockets_may_share_a_port_and_keep_their_peers() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let host = &world.hosts[1];
    let socket = |shares: bool| {
        let socket = host.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        host.set_option(socket, SocketOption::ReusePort(shares)).unwrap();
        (socket, host.bind(socket, address()))
    };
    let (one, bound) = socket(true);
    bound.unwrap();
    assert_eq!(socket(false).1.unwrap_err(), Error::AddressInUse);
    let (other, bound) = socket(true);
    bound.unwrap();
    let mut ports = Vec::new();
    let mut counts = [0; 2];
    for number in 0..40u8 {
        let client = world.hosts[0].socket(Domain::Inet, SocketKind::Datagram).unwrap();
        let mut heard = Vec::new();
        for _ in 0..2 {
            let sga = world.hosts[0].copy_from(&[number]).unwrap();
            world.hosts[0].push_to(client, sga, address()).unwrap();
            raw.settle(&world);
            for (place, socket) in [one, other].into_iter().enumerate() {
                let pop = host.pop(socket).unwrap();
                match world.take(1, pop) {
                    Some(done) => {
                        assert_eq!(done.popped().unwrap().to_vec(), [number]);
                        heard.push(place);
                    }
                    None => {
                        host.cancel(pop).unwrap();
                        world.take(1, pop).expect("it is cancelled");
                    }
                }
            }
        }
        assert!(heard.len() == 2 && heard[0] == heard[1], "{heard:?}");
        counts[heard[0]] += 1;
        ports.push(world.hosts[0].local_addr(client).unwrap().inet().unwrap().port());
    }
    assert!(counts[0] > 5 && counts[1] > 5, "{counts:?}");
    // RFC 6056: nobody can tell the next port from the last.
    assert!(ports.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) < 100).count() < 10, "{ports:?}");
}

#[test]
fn a_datagram_that_was_refused_does_not_bend_the_way_of_the_next() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let (client, server) = (&world.hosts[0], &world.hosts[1]);
    let socket = server.socket(Domain::Inet, SocketKind::Datagram).unwrap();
    server.bind(socket, address()).unwrap();
    let from = client.socket(Domain::Inet, SocketKind::Datagram).unwrap();
    let [first, lost, second] = [1u8, 2, 3].map(|byte| client.copy_from(&[byte]).unwrap());
    client.push_to(from, first, address()).unwrap();
    raw.settle(&world);
    let mut held = Vec::new();
    for size in [1 << 20, 1 << 16, 1 << 12, 1 << 9, 1 << 6, 1] {
        held.extend(std::iter::from_fn(|| client.alloc(size).ok()));
    }
    client.push_to(from, lost, SocketAddr::new(RAW.into(), address().port())).unwrap_err();
    drop(held);
    client.push_to(from, second, address()).unwrap();
    raw.settle(&world);
    for byte in [1, 3] {
        let pop = server.pop(socket).unwrap();
        assert_eq!(world.take(1, pop).expect("it has come").popped().unwrap().to_vec(), [byte]);
    }
}
