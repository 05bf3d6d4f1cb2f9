//! Random work on both sides over a bad wire: what is sent arrives once and in order, what is written stands there, what is read
//! is what stood there, and each posting ends once and in order.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::sga::SgArray;
use fastrand::Rng;

use super::super::Params;
use super::world::{Faults, World};
use crate::device::{Access, Atomic, Event, Grant, Region, Remote, Then};

const REGION: usize = 64 << 10;
/// Words for atomic operations, in front of the bytes that are written.
const WORDS: usize = 64;
const RECEIVE: usize = 20_000;

/// What one side has posted, and what has to come of it.
struct Side {
    /// Here the other side writes.
    region: Region,
    place: Remote,
    /// What the other side's region holds once all that was posted has been carried out.
    model: Vec<u8>,
    grants: Vec<(Grant, Remote, Vec<u8>)>,
    /// Messages that the other side has to receive.
    sent: VecDeque<Vec<u8>>,
    /// Ends that have to come, in order.
    due: VecDeque<Due>,
    cookie: u64,
}

#[derive(Debug, PartialEq)]
enum Due {
    Sent(u64),
    Read(u64, Vec<u8>),
    Fetched(u64, u64),
}

fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// More often short than long.
fn length(rng: &mut Rng, most: usize) -> usize {
    match rng.u8(..10) {
        0 => 0,
        1..=5 => rng.usize(..300),
        6..=8 => rng.usize(..5000.min(most)),
        _ => rng.usize(..=most),
    }
}

/// In up to eight segments, which may be empty.
fn segments(world: &World, side: usize, rng: &mut Rng, data: &[u8]) -> SgArray {
    let mut array = SgArray::new();
    let mut rest = data;
    for left in (0..rng.usize(1..=8)).rev() {
        let len = if left == 0 { rest.len() } else { rng.usize(..=rest.len()) };
        let (part, after) = rest.split_at(len);
        array.push(world.hosts[side].heap.copy_from(part).unwrap()).unwrap();
        rest = after;
    }
    array
}

fn run(seed: u64, faults: Faults, mtu: usize, works: usize, change: impl Fn(&mut Params)) -> World {
    let mut world = World::new(seed, mtu, change);
    world.faults = faults;
    let mut rng = Rng::with_seed(seed ^ 0x5EED);
    let access = Access { read: true, write: true, atomic: true };
    let mut sides: Vec<Side> = world
        .hosts
        .iter_mut()
        .map(|host| {
            let region = host.memory.region(REGION, access).unwrap();
            let mut grants = Vec::new();
            for len in [0, 1, 300, 5000, 70_000] {
                let data = bytes(&mut rng, len);
                let (grant, at) =
                    host.memory.grant(host.qp.params().qp, host.heap.copy_from(&data).unwrap()).unwrap();
                grants.push((grant, at, data));
            }
            Side {
                place: host.memory.place(region).unwrap(),
                region,
                model: vec![0; REGION],
                grants,
                sent: VecDeque::new(),
                due: VecDeque::new(),
                cookie: 0,
            }
        })
        .collect();
    let mut posted = [0; 2];
    let mut idle = 0;
    while posted != [works; 2] || idle < 50 {
        for side in [0, 1] {
            if posted[side] < works && rng.u8(..3) == 0 {
                for _ in 0..rng.usize(..6) {
                    if posted[side] < works && world.hosts[side].qp.room() > 0 {
                        post(&mut world, &mut sides, side, &mut rng);
                        posted[side] += 1;
                    }
                }
                world.transmit(side);
            }
            // Sometimes late, so that the other side has to wait.
            if rng.u8(..20) == 0 {
                let missing = 8 - world.hosts[side].receives.len().min(8);
                world.hosts[side].post_receives(missing, RECEIVE);
            }
        }
        if world.step() {
            idle = 0;
        } else {
            idle += 1;
            world.now = world.now + Duration::from_micros(10);
        }
        for side in [0, 1] {
            check(&mut world, &mut sides, side);
        }
    }
    for side in [0, 1] {
        assert_eq!(world.hosts[side].qp.failed(), None);
        assert!(sides[side].due.is_empty() && sides[side].sent.is_empty(), "{:?}", sides[side].due);
        let other = &sides[1 - side];
        assert!(world.hosts[1 - side].memory.bytes(other.region) == Some(&sides[side].model[..]));
        assert_eq!(world.hosts[side].qp.room(), world.hosts[side].qp.params().depth);
        world.hosts[side].receives.clear();
        for (grant, ..) in &sides[side].grants {
            assert!(world.hosts[side].memory.revoke(*grant).is_some());
        }
        assert_eq!(world.hosts[side].heap.stats().objects_live, 0, "buffers are held");
    }
    world
}

/// Posts something and notes what has to come of it.
fn post(world: &mut World, sides: &mut [Side], side: usize, rng: &mut Rng) {
    let place = sides[1 - side].place;
    let at = |offset: usize| Remote { addr: place.addr + offset as u64, ..place };
    let cookie = sides[side].cookie;
    sides[side].cookie += 1;
    let tell = rng.bool();
    let then = if tell { Then::Tell(cookie) } else { Then::Quiet };
    let mut due = tell.then_some(Due::Sent(cookie));
    let kind = rng.u8(..10);
    match kind {
        0..=4 => {
            let head = {
                let len = rng.usize(..=crate::device::HEAD_MAX);
                bytes(rng, len)
            };
            let data = {
                let len = length(rng, RECEIVE - head.len());
                bytes(rng, len)
            };
            let array = segments(world, side, rng, &data);
            world.hosts[side].qp.send(&head, array, then).unwrap();
            sides[side].sent.push_back([head, data].concat());
        }
        5 => {
            let data = {
                let len = length(rng, 20_000);
                bytes(rng, len)
            };
            let offset = rng.usize(8 * WORDS..=REGION - data.len());
            let array = segments(world, side, rng, &data);
            world.hosts[side].qp.write(at(offset), array, then).unwrap();
            sides[side].model[offset..offset + data.len()].copy_from_slice(&data);
        }
        6 => {
            let (offset, word) = (rng.usize(8 * WORDS..REGION - 8), rng.u64(..));
            world.hosts[side].qp.write_word(at(offset), word, then).unwrap();
            sides[side].model[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
        }
        7 | 8 => {
            let number = rng.usize(..sides[1 - side].grants.len());
            let (_, place, data) = &sides[1 - side].grants[number];
            let from = rng.usize(..=data.len());
            let to = rng.usize(from..=data.len());
            let into = world.hosts[side].heap.alloc(to - from).unwrap();
            let place = Remote { addr: place.addr + from as u64, ..*place };
            due = Some(Due::Read(cookie, data[from..to].to_vec()));
            world.hosts[side].qp.read(place, into, cookie).unwrap();
        }
        _ => {
            let offset = 8 * rng.usize(..WORDS);
            let mut word = [0; 8];
            word.copy_from_slice(&sides[side].model[offset..offset + 8]);
            let found = u64::from_ne_bytes(word);
            let (op, after) = match rng.u8(..3) {
                0 => (Atomic::FetchAdd(found ^ 77), found.wrapping_add(found ^ 77)),
                1 => (Atomic::CompareSwap { expected: found, new: cookie }, cookie),
                _ => (Atomic::CompareSwap { expected: !found, new: cookie }, found),
            };
            sides[side].model[offset..offset + 8].copy_from_slice(&after.to_ne_bytes());
            due = Some(Due::Fetched(cookie, found));
            world.hosts[side].qp.atomic(at(offset), op, cookie).unwrap();
        }
    }
    sides[side].due.extend(due);
}

/// Holds what has happened against what has to.
fn check(world: &mut World, sides: &mut [Side], side: usize) {
    for event in std::mem::take(&mut world.hosts[side].events) {
        let end = match event {
            Event::Received { message, .. } => {
                assert_eq!(sides[1 - side].sent.pop_front().as_deref(), Some(&message[..]));
                continue;
            }
            Event::Sent { cookie: Some(cookie), result: Ok(()), .. } => Due::Sent(cookie),
            Event::Read { cookie, into, result: Ok(()), .. } => Due::Read(cookie, into.to_vec()),
            Event::Fetched { cookie, result: Ok(found), .. } => Due::Fetched(cookie, found),
            other => panic!("{other:?}"),
        };
        assert_eq!(sides[side].due.pop_front(), Some(end));
    }
}

/// How many seeds: `DEMI_SEEDS`, or the usual number.
fn seeds(usual: u64) -> u64 {
    std::env::var("DEMI_SEEDS").map_or(usual, |count| count.parse().expect("a number"))
}

#[test]
fn over_a_good_wire_nothing_is_sent_twice() {
    for seed in 0..seeds(10) {
        println!("seed {seed}");
        // Enough receives, as otherwise the other side has to wait and send again.
        let mut world = run(seed, Faults::default(), 1024, 0, |_| ());
        assert_eq!(world.wire.packets, [0, 0]);
        world.wire.log = Some(Vec::new());
        world.hosts[1].post_receives(60, RECEIVE);
        for number in 0..60_u8 {
            let data = world.hosts[0].heap.copy_from(&vec![number; 100 * usize::from(number)]).unwrap();
            let then = if number % 7 == 0 { Then::Tell(number.into()) } else { Then::Quiet };
            world.hosts[0].qp.send(&[number], data.into(), then).unwrap();
            world.transmit(0);
            world.step();
        }
        world.settle();
        let log = world.wire.log.take().unwrap();
        let mut psns: Vec<_> =
            log.iter().filter(|(side, _)| *side == 0).map(|(_, header)| header.psn).collect();
        let sent = psns.len();
        psns.dedup();
        // The last one is asked for again, as nothing follows.
        assert!(sent - psns.len() <= 1, "{sent} packets, {} numbers", psns.len());
        assert_eq!(world.hosts[1].events.len(), 60);
    }
}

#[test]
fn what_is_posted_is_carried_out_once_and_in_order_whatever_the_wire_does() {
    for seed in 0..seeds(60) {
        let mut rng = Rng::with_seed(seed);
        let mtu = 256 << rng.u32(..5);
        let mut rate = |most: u32| if rng.bool() { rng.u32(..most) } else { 0 };
        let faults = Faults {
            lost: rate(60),
            doubled: rate(60),
            late: rate(100),
            spoiled: rate(40),
            blocked: rate(300),
        };
        println!("seed {seed}: mtu {mtu}, {faults:?}");
        run(seed, faults, mtu, 300, |params| params.retries = 60);
    }
}

#[test]
fn small_limits_are_kept() {
    for seed in 0..seeds(30) {
        let faults = Faults { lost: 10, late: 20, ..Faults::default() };
        println!("seed {seed}");
        run(seed, faults, 256, 200, |params| {
            params.initiator_depth = 1;
            params.responder_resources = 1;
            params.window = 2;
            params.retries = 60;
            params.set_depth(4, 64);
        });
    }
}
