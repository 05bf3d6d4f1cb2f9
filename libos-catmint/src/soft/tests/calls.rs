//! Every call of the seam, over each link.

use std::net::SocketAddr;

use super::net::Weather;
use super::side::World;
use crate::device::{Access, Atomic, Event, Fault, Qp, Then};
use crate::soft::link::udp::RawChoice;

fn worlds() -> [World; 4] {
    let bad = Weather { loss: 50, twice: 50, late: 200, full: 50 };
    [
        World::shm(),
        World::net(1, Weather::default(), 1024),
        World::net(2, bad, 256),
        World::udp(RawChoice::Never),
    ]
}

/// What a refused access may be told as: who refuses says so once, and if that is lost the end of the connection is all
/// that is heard.
fn refusal(world: &World) -> &'static [Fault] {
    if world.is_bad { &[Fault::RemoteAccess, Fault::Disconnected] } else { &[Fault::RemoteAccess] }
}

#[test]
fn hellos_are_exchanged_and_messages_arrive_whole_and_in_order() {
    for mut world in worlds() {
        let (_, at) = world.listen(1);
        let now = world.now;
        (0..2).for_each(|side| world.sides[side].receives(now, 64, 16 << 10));
        let hello: Vec<u8> = (0..56).collect();
        let ours = world.sides[0].call(now, |device, cx| device.connect(cx, at, &hello)).unwrap();
        assert_eq!(world.sides[0].device.room(ours), 0, "not before it is connected");
        let (request, said) = world.request(1);
        assert_eq!(said[..56], hello);
        let now = world.now;
        let theirs = world.sides[1].call(now, |device, cx| device.accept(cx, request, b"welcome")).unwrap();
        assert!(world.established(0, ours).starts_with(b"welcome"));
        assert!(world.established(1, theirs).is_empty());
        let (from, to) = world.sides[0].device.addrs(ours).unwrap();
        assert_eq!((from.ip(), to), (world.sides[0].address, at));
        assert_eq!(world.sides[1].device.addrs(theirs), Some((at, from)));

        let sizes = [0, 1, 3, 64, 100, 255, 256, 257, 1000, 1024, 4096, 5000, 16_000];
        for (number, size) in sizes.into_iter().enumerate() {
            for (side, qp) in [(0, ours), (1, theirs)] {
                let head = [number as u8; 16];
                let data: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
                let now = world.now;
                assert!(world.sides[side].send(now, qp, &head, &data, Then::Tell(number as u64)));
                let message = world.until("message", |world| world.sides[1 - side].messages().pop());
                assert_eq!(message, [&head[..], &data].concat());
                world.until("word of it", |world| {
                    world.sides[side].take(|event| match event {
                        Event::Sent { cookie: Some(cookie), result: Ok(()), .. }
                            if *cookie == number as u64 =>
                        {
                            Some(())
                        }
                        _ => None,
                    })
                });
                let now = world.now;
                world.sides[1 - side].receives(now, 1, 16 << 10);
            }
        }
    }
}

#[test]
fn a_first_message_right_behind_the_last_word_of_the_connection_manager_is_heard_and_answered() {
    // Where nothing is lost: what is would have to be asked for again by the side that does not look.
    for mut world in worlds().into_iter().filter(|world| !world.is_bad) {
        let (_, at) = world.listen(1);
        let now = world.now;
        (0..2).for_each(|side| world.sides[side].receives(now, 8, 1024));
        let ours = world.sides[0].call(now, |device, cx| device.connect(cx, at, b"")).unwrap();
        let (request, _) = world.request(1);
        let now = world.now;
        let theirs = world.sides[1].call(now, |device, cx| device.accept(cx, request, b"")).unwrap();
        // The side that accepted does not look until both are there.
        while world.sides[0].device.room(ours) == 0 {
            let now = world.now;
            world.sides[0].turn(now);
            world.pass();
        }
        let now = world.now;
        assert!(world.sides[0].send(now, ours, b"", b"ping", Then::Quiet));
        world.sides[0].turn(now);
        assert_eq!(world.until("message", |world| world.sides[1].messages().pop()), b"ping");
        world.established(1, theirs);
        let now = world.now;
        assert!(world.sides[1].send(now, theirs, b"", b"pong", Then::Quiet));
        assert_eq!(world.until("answer", |world| world.sides[0].messages().pop()), b"pong");
        let established = |event: &Event| matches!(event, Event::Established { .. }).then_some(());
        assert_eq!(world.sides[1].take(established), None, "told once");
    }
}

#[test]
fn many_messages_at_once_arrive_in_order() {
    for mut world in worlds() {
        let [ours, _] = world.connect();
        let (mut sent, mut received) = (0_u32, 0_u32);
        while received < 2000 {
            let now = world.now;
            while sent < 2000
                && sent - received < 50
                && world.sides[0].device.room(ours) > 0
                && world.sides[0].send(now, ours, &sent.to_be_bytes(), &[sent as u8; 300], Then::Quiet)
            {
                sent += 1;
            }
            world.turn();
            let messages = world.sides[1].messages();
            let now = world.now;
            world.sides[1].receives(now, messages.len(), 16 << 10);
            for message in messages {
                assert_eq!(message[..4], received.to_be_bytes());
                assert_eq!(message[4..], [received as u8; 300]);
                received += 1;
            }
        }
        let events = &world.sides[0].events;
        assert!(events.is_empty(), "quiet ones say nothing: {events:?}");
        assert_eq!(world.sides[1].heap.stats().bytes_live, 64 * (16 << 10), "all receives are there");
    }
}

#[test]
fn memory_is_written_read_and_changed_from_afar() {
    for mut world in worlds() {
        let [ours, _] = world.connect();
        let now = world.now;
        let region =
            world.sides[1].device.region(8192, Access { read: true, write: true, atomic: true }).unwrap();
        let place = world.sides[1].device.place(region).unwrap();
        let at = |offset: u64| crate::device::Remote { addr: place.addr + offset, key: place.key };

        let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
        let data = world.sides[0].array(&bytes);
        let post = world.sides[0].call(now, |device, cx| device.write(cx, ours, at(8), data, Then::Tell(1)));
        assert!(post.is_ok());
        let word = 0x0102_0304_0506_0708;
        world.sides[0].call(now, |device, cx| device.write_word(cx, ours, at(0), word, Then::Quiet)).unwrap();
        let into = world.sides[0].heap.alloc(5008).unwrap();
        assert!(world.sides[0].call(now, |device, cx| device.read(cx, ours, at(0), into, 2)).is_ok());
        let read = world.until("read", |world| {
            world.sides[0].take(|event| match event {
                Event::Read { cookie: 2, into, result: Ok(()), .. } => Some(into.to_vec()),
                _ => None,
            })
        });
        assert_eq!(read[..8], word.to_ne_bytes());
        assert_eq!(read[8..], bytes);
        // What is read may be looked up late: atomic operations do not wait for it by themselves.
        let now = world.now;
        let add = Atomic::FetchAdd(10);
        world.sides[0].call(now, |device, cx| device.atomic(cx, ours, at(0), add, 3)).unwrap();
        let swap = Atomic::CompareSwap { expected: word + 10, new: 5 };
        world.sides[0].call(now, |device, cx| device.atomic(cx, ours, at(0), swap, 4)).unwrap();
        for (cookie, was) in [(3, word), (4, word + 10)] {
            let found = world.until("atomic", |world| {
                world.sides[0].take(|event| match event {
                    Event::Fetched { cookie: it, result: Ok(found), .. } if *it == cookie => Some(*found),
                    _ => None,
                })
            });
            assert_eq!(found, was);
        }
        assert!(
            world.sides[0]
                .take(|event| matches!(event, Event::Sent { cookie: Some(1), .. }).then_some(()))
                .is_some()
        );
        let device = &mut world.sides[1].device;
        assert_eq!(device.load(region, 0), 5);
        assert_eq!(device.load(region, 8192), 0);
        assert_eq!(device.atomic_here(region, 0, Atomic::FetchAdd(1)), Some(5));
        let mut out = [0; 8];
        assert!(
            device.copy_out(region, 8, &mut out)
                && out == bytes[..8]
                && !device.copy_out(region, 8185, &mut out)
        );
        assert!(device.copy_in(region, 8184, &out) && !device.copy_in(region, usize::MAX, &out));
        device.unregion(region);
        assert!(device.place(region).is_none());
        // What is gone cannot be read, and who tries is cut off.
        let (now, into) = (world.now, world.sides[0].heap.alloc(8).unwrap());
        assert!(world.sides[0].call(now, |device, cx| device.read(cx, ours, at(0), into, 9)).is_ok());
        let result = world.until("refusal", |world| {
            world.sides[0].take(|event| match event {
                Event::Read { cookie: 9, result, .. } => Some(*result),
                _ => None,
            })
        });
        let fault = refusal(&world);
        assert!(fault.contains(&result.unwrap_err()));
        assert!(fault.contains(&world.gone(0, ours)));
    }
}

#[test]
fn a_grant_is_for_one_queue_pair_until_it_is_revoked() {
    for mut world in worlds() {
        let [ours, theirs] = world.connect();
        let bytes: Vec<u8> = (0..10_000_u32).map(|at| (at % 253) as u8).collect();
        let data = world.sides[1].heap.copy_from(&bytes).unwrap();
        let now = world.now;
        let (grant, at) = world.sides[1].call(now, |device, cx| device.grant(cx, theirs, data)).unwrap();
        let into = world.sides[0].heap.alloc(10_000).unwrap();
        assert!(world.sides[0].call(now, |device, cx| device.read(cx, ours, at, into, 1)).is_ok());
        let read = |world: &mut World, cookie: u64| {
            world.until("read", |world| {
                world.sides[0].take(|event| match event {
                    Event::Read { cookie: it, into, result, .. } if *it == cookie => {
                        Some((into.to_vec(), *result))
                    }
                    _ => None,
                })
            })
        };
        assert_eq!(read(&mut world, 1), (bytes.clone(), Ok(())));
        let now = world.now;
        world.sides[1].call(now, |device, cx| device.revoke(cx, grant, 77));
        let data = world.until("revocation", |world| {
            world.sides[1].take(|event| match event {
                Event::Revoked { cookie: 77, data } => Some(data.clone()),
                _ => None,
            })
        });
        assert_eq!(data[..], bytes);
        let now = world.now;
        let into = world.sides[0].heap.alloc(16).unwrap();
        assert!(world.sides[0].call(now, |device, cx| device.read(cx, ours, at, into, 2)).is_ok());
        let fault = refusal(&world);
        assert!(fault.contains(&read(&mut world, 2).1.unwrap_err()));
        assert!(fault.contains(&world.gone(0, ours)));
        world.gone(1, theirs);
    }
}

#[test]
fn requests_are_refused_by_the_application_and_where_nobody_listens() {
    for mut world in worlds() {
        let (listener, at) = world.listen(1);
        let refused = |world: &mut World, qp: Qp| {
            world.until("refusal", |world| {
                world.sides[0].take(|event| match event {
                    Event::Refused { qp: it, hello } if *it == qp => Some(hello.clone()),
                    _ => None,
                })
            })
        };
        let now = world.now;
        let qp = world.sides[0].call(now, |device, cx| device.connect(cx, at, b"let me in")).unwrap();
        let (request, said) = world.request(1);
        assert!(said.starts_with(b"let me in"));
        let now = world.now;
        world.sides[1].call(now, |device, cx| device.reject(cx, request, b"no"));
        assert!(refused(&mut world, qp).starts_with(b"no"));
        let now = world.now;
        assert!(world.sides[1].call(now, |device, cx| device.accept(cx, request, b"")).is_err(), "answered");

        let nobody = SocketAddr::new(at.ip(), at.port() ^ 1);
        let again = world.sides[0].call(now, |device, cx| device.connect(cx, nobody, b"")).unwrap();
        assert_ne!(again, qp, "what was told of it may lie there still");
        assert_eq!(refused(&mut world, again), b"");
        world.turn();
        let now = world.now;
        let once_more = world.sides[0].call(now, |device, cx| device.connect(cx, nobody, b"")).unwrap();
        assert!([qp, again].contains(&once_more), "names are used again");
        assert_eq!(refused(&mut world, once_more), b"");

        // A listener that goes takes its unanswered requests along.
        let now = world.now;
        let qp = world.sides[0].call(now, |device, cx| device.connect(cx, at, b"")).unwrap();
        let (request, _) = world.request(1);
        let now = world.now;
        world.sides[1].call(now, |device, cx| device.unlisten(cx, listener));
        assert_eq!(refused(&mut world, qp), b"");
        let now = world.now;
        assert!(world.sides[1].call(now, |device, cx| device.accept(cx, request, b"")).is_err());
        assert!(world.sides[1].call(now, |device, cx| device.listen(cx, at)).is_ok(), "the port is free");
        assert!(world.sides[1].call(now, |device, cx| device.listen(cx, at)).is_err(), "it is taken");
    }
}

#[test]
fn an_end_is_told_to_both_and_what_was_outstanding_comes_back() {
    for mut world in worlds() {
        let [ours, theirs] = world.connect();
        world.settle();
        let live = world.sides[0].heap.stats().bytes_live;
        let now = world.now;
        let into = world.sides[0].heap.alloc(100).unwrap();
        let access = Access { read: true, ..Access::default() };
        let region = world.sides[1].device.region(100, access).unwrap();
        let place = world.sides[1].device.place(region).unwrap();
        for number in 0..5 {
            assert!(world.sides[0].send(now, ours, b"head", &[7; 2000], Then::Tell(number)));
        }
        assert!(world.sides[0].call(now, |device, cx| device.read(cx, ours, place, into, 6)).is_ok());
        world.sides[0].call(now, |device, cx| device.disconnect(cx, ours));
        assert_eq!(world.sides[0].device.room(ours), 0);
        assert_eq!(world.gone(0, ours), Fault::Disconnected);
        let mut cookies = Vec::new();
        for event in std::mem::take(&mut world.sides[0].events) {
            match event {
                Event::Sent { cookie: Some(cookie), .. } | Event::Read { cookie, .. } => cookies.push(cookie),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(cookies, [0, 1, 2, 3, 4, 6], "each once, in order, before the end");
        assert_eq!(world.sides[0].heap.stats().bytes_live, live, "buffers are back");
        assert_eq!(world.gone(1, theirs), Fault::Disconnected);
        let now = world.now;
        assert!(!world.sides[1].send(now, theirs, b"", b"late", Then::Quiet));
        assert!(world.sides[1].device.addrs(theirs).is_none());
    }
}
