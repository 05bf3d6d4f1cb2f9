//! The end of connections, and what may take their place.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::{Domain, SocketKind};

use crate::raw::{ACK, FIN, HOST, RST, Raw, SYN, Seg};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

fn world() -> World {
    World::over(1, 1500, "", "", |plug, _| Box::new(plug))
}

fn listen(world: &World) -> QDesc {
    let host = &world.hosts[1];
    let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
    host.bind(listener, SocketAddr::new(HOST.into(), 80)).unwrap();
    host.listen(listener, 8).unwrap();
    listener
}

/// Brings a connection of the raw end's to the second host into TIME-WAIT; returns the peer's last segment.
fn closed(world: &World, raw: &mut Raw, stamp: Option<u32>) -> Seg {
    let host = &world.hosts[1];
    let listener = listen(world);
    let accept = host.accept(listener).unwrap();
    let stamps = stamp.map(|value| (value, 0));
    raw.send(world, &Seg { ports: (9, 80), seq: 100, flags: SYN, stamps, ..Seg::default() });
    let answer = raw.one();
    let echo = answer.stamps.map_or(0, |(value, _)| value);
    let stamps = stamp.map(|value| (value, echo));
    let theirs = answer.seq.wrapping_add(1);
    let ack =
        Seg { ports: (9, 80), seq: 101, ack: theirs, flags: ACK, window: 999, stamps, ..Seg::default() };
    raw.send(world, &ack);
    let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
    host.close(server).unwrap();
    raw.settle(world);
    assert!(raw.one().has(FIN));
    let last = Seg { flags: FIN | ACK, ack: theirs.wrapping_add(1), ..ack };
    raw.send(world, &last);
    assert_eq!(raw.one().ack, 102);
    assert_eq!(world.counter(1, "tcp_connections"), 1);
    last
}

#[test]
fn rfc9293_3_10_7_4_time_wait_acknowledges_a_fin_again_and_begins_anew() {
    let world = world();
    let mut raw = Raw::new(&world);
    let last = closed(&world, &mut raw, Some(5));
    raw.pass(&world, 200 * SECOND);
    raw.send(&world, &last);
    let ack = raw.one();
    assert_eq!((ack.flags, ack.ack, ack.seq), (ACK, 102, last.ack));
    assert_eq!(ack.stamps.map(|(_, echo)| echo), Some(5));
    // 240 s from then on.
    raw.pass(&world, 239 * SECOND);
    assert_eq!(world.counter(1, "tcp_connections"), 1);
    raw.pass(&world, 2 * SECOND);
    assert_eq!(world.counter(1, "tcp_connections"), 0);
    raw.send(&world, &last);
    assert_eq!(raw.one().flags, RST);
}

#[test]
fn rfc9293_3_10_7_4_time_wait_answers_what_does_not_fit_and_ends_with_a_reset() {
    let world = world();
    let mut raw = Raw::new(&world);
    let last = closed(&world, &mut raw, None);
    let ack = Seg { seq: 102, flags: ACK, ..last.clone() };
    raw.send(&world, &ack);
    raw.none();
    for bad in [
        Seg { seq: 50, ..ack.clone() },
        Seg { seq: 60, flags: SYN, ..ack.clone() },
        Seg { seq: 102, data: vec![0; 9], ..ack.clone() },
    ] {
        raw.send(&world, &bad);
        let challenge = raw.one();
        assert_eq!((challenge.flags, challenge.ack, challenge.seq), (ACK, 102, last.ack), "{bad:?}");
    }
    raw.send(&world, &Seg { seq: 103, flags: RST, ..ack.clone() });
    raw.none();
    assert_eq!(world.counter(1, "tcp_connections"), 1);
    raw.send(&world, &Seg { seq: 102, flags: RST, ..ack });
    raw.none();
    assert_eq!(world.counter(1, "tcp_connections"), 0);
}

#[test]
fn rfc6191_a_newer_call_takes_the_place_of_a_closed_connection() {
    // By its timestamp, whatever its sequence number, or else by that.
    for (stamp, call, taken) in [
        (Some(5), Seg { seq: 1, stamps: Some((6, 0)), ..Seg::default() }, true),
        (Some(5), Seg { seq: 9000, stamps: Some((4, 0)), ..Seg::default() }, false),
        (Some(5), Seg { seq: 9000, stamps: Some((5, 0)), ..Seg::default() }, true),
        (None, Seg { seq: 9000, ..Seg::default() }, true),
        (None, Seg { seq: 90, ..Seg::default() }, false),
    ] {
        let world = world();
        let mut raw = Raw::new(&world);
        closed(&world, &mut raw, stamp);
        let call = Seg { ports: (9, 80), flags: SYN, ..call };
        raw.send(&world, &call);
        let answer = raw.one();
        assert_eq!(answer.flags, if taken { SYN | ACK } else { ACK }, "{call:?}");
        assert_eq!(answer.ack, if taken { call.seq + 1 } else { 102 }, "{call:?}");
    }
}

#[test]
fn rfc6191_a_call_of_ones_own_may_take_the_ports_after_a_second() {
    let world = world();
    let mut raw = Raw::new(&world);
    let listener = listen(&world);
    let [near, far] = &world.hosts;
    let call = || {
        let socket = near.socket(Domain::Inet, SocketKind::Stream).unwrap();
        near.bind(socket, "10.0.0.1:5000".parse::<SocketAddr>().unwrap()).unwrap();
        let connect = near.connect(socket, SocketAddr::new(HOST.into(), 80));
        (socket, connect)
    };
    for round in 0..3 {
        let accept = far.accept(listener).unwrap();
        let (client, connect) = call();
        let connect = connect.unwrap();
        raw.settle(&world);
        world.take(0, connect).expect("connected").result.unwrap();
        let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
        near.close(client).unwrap();
        raw.settle(&world);
        far.close(server).unwrap();
        raw.settle(&world);
        assert_eq!(
            (world.counter(0, "tcp_connections"), world.counter(1, "tcp_connections")),
            (1, 0),
            "{round}"
        );
        let (socket, refused) = call();
        assert_eq!(refused.unwrap_err(), Error::AddressInUse);
        near.close(socket).unwrap();
        raw.pass(&world, SECOND * 3 / 2);
    }
}

#[test]
fn both_ends_may_call_each_other() {
    let world = world();
    let mut raw = Raw::new(&world);
    let addrs = ["10.0.0.1:7000", "10.0.0.2:7000"].map(|addr| addr.parse::<SocketAddr>().unwrap());
    // Each knows where the other is.
    raw.pass(&world, SECOND);
    let calls: Vec<_> = (0..2)
        .map(|host| {
            let socket = world.hosts[host].socket(Domain::Inet, SocketKind::Stream).unwrap();
            world.hosts[host].bind(socket, addrs[host]).unwrap();
            (socket, world.hosts[host].connect(socket, addrs[1 - host]).unwrap())
        })
        .collect();
    raw.pass(&world, 2 * SECOND);
    for (host, (socket, connect)) in calls.iter().enumerate() {
        world.take(host, *connect).expect("connected").result.unwrap();
        world.hosts[host].push(*socket, world.hosts[host].copy_from(b"you").unwrap()).unwrap();
    }
    for (host, (socket, _)) in calls.iter().enumerate() {
        let pop = world.hosts[host].pop(*socket).unwrap();
        raw.settle(&world);
        assert_eq!(world.take(host, pop).expect("popped").popped().unwrap().to_vec(), b"you");
    }
}

#[test]
fn rfc5961_7_challenges_are_rare_and_nobody_can_count_them() {
    let world = world();
    let mut raw = Raw::new(&world);
    let host = &world.hosts[1];
    let listener = listen(&world);
    let accept = host.accept(listener).unwrap();
    raw.send(&world, &Seg { ports: (9, 80), seq: 100, flags: SYN, ..Seg::default() });
    let theirs = raw.one().seq.wrapping_add(1);
    let ack = Seg { ports: (9, 80), seq: 101, ack: theirs, flags: ACK, window: 999, ..Seg::default() };
    raw.send(&world, &ack);
    world.take(1, accept).expect("accepted").accepted().unwrap();
    let mut counts = Vec::new();
    for _ in 0..3 {
        raw.pass(&world, SECOND * 11 / 10);
        for _ in 0..2000 {
            // In the window, and not where the next segment begins.
            raw.send(&world, &Seg { seq: 105, flags: RST, ..ack.clone() });
        }
        counts.push(raw.seen.drain(..).filter(|seg| seg.flags == ACK).count());
    }
    assert!(counts.iter().all(|count| (500..1500).contains(count)), "{counts:?}");
    assert!(counts[0] != counts[1] || counts[1] != counts[2], "{counts:?}");
}
