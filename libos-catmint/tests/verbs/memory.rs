//! What peers may reach, and what not.

use demi_api::memalloc::Buf;
use demi_api::sga::SgArray;
use demi_libos_catmint::device::{Access, Atomic, Event, Fault, Grant, Qp, RdmaDevice, Region, Remote, Then};
use demi_libos_catmint::verbs::{VerbsConfig, Windows};
use libtest_mimic::Failed;

use super::ends::{End, Pair, pattern};
use super::{Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("regions_are_written_read_and_changed", regions_are_written_read_and_changed),
        ("rights_to_a_region_are_kept", rights_to_a_region_are_kept),
        ("a_grant_is_read_while_it_lasts", a_grant_is_read_while_it_lasts),
        ("a_grant_is_for_one_queue_pair_and_its_bytes", a_grant_is_for_one_queue_pair_and_its_bytes),
        ("grants_come_and_go_by_the_thousand", grants_come_and_go_by_the_thousand),
        ("grants_end_with_their_queue_pair", grants_end_with_their_queue_pair),
        ("grants_hold_in_whatever_way_they_are_made", grants_hold_in_whatever_way_they_are_made),
        ("atomics_of_both_sides_are_one", atomics_of_both_sides_are_one),
        ("the_heap_is_out_of_reach", the_heap_is_out_of_reach),
    ]
}

const ALL: Access = Access { read: true, write: true, atomic: true };

fn region(end: &mut End, len: usize, access: Access) -> (Region, Remote) {
    let region = end.device.region(len, access).expect("there is memory");
    let remote = end.device.place(region).expect("it was just made");
    (region, remote)
}

fn at(remote: Remote, offset: u64) -> Remote {
    Remote { addr: remote.addr.wrapping_add(offset), key: remote.key }
}

/// Reads, and how it ended.
fn read(pair: &mut Pair, qp: Qp, from: Remote, len: usize) -> Result<Vec<u8>, Fault> {
    let into = pair.a.filled(len, 0);
    let (device, cx) = pair.a.both();
    device.read(&cx, qp, from, into, 77).expect("there is room");
    let is_it = |event: &Event| matches!(event, Event::Read { cookie: 77, .. });
    pair.until("the end of a read", |a, _| {
        a.find(is_it, |event| match event {
            Event::Read { into, result, .. } => result.map(|()| into[..].to_vec()),
            _ => unreachable!("it is one"),
        })
    })
}

/// Writes, and how it ended.
fn write(pair: &mut Pair, to: Remote, bytes: &[u8]) -> Result<(), Fault> {
    let data = SgArray::copy_from(&pair.a.heap, bytes).expect("there is room");
    let qa = pair.qa;
    let (device, cx) = pair.a.both();
    device.write(&cx, qa, to, data, Then::Tell(78)).expect("there is room");
    ended(pair, 78)
}

fn ended(pair: &mut Pair, cookie: u64) -> Result<(), Fault> {
    let is_it =
        move |event: &Event| matches!(event, Event::Sent { cookie: Some(told), .. } if *told == cookie);
    pair.until("the end of a posting", |a, _| {
        a.find(is_it, |event| match event {
            Event::Sent { result, .. } => result,
            _ => unreachable!("it is one"),
        })
    })
}

fn change(pair: &mut Pair, at: Remote, op: Atomic) -> Result<u64, Fault> {
    let qa = pair.qa;
    let (device, cx) = pair.a.both();
    device.atomic(&cx, qa, at, op, 79).expect("there is room");
    let is_it = |event: &Event| matches!(event, Event::Fetched { cookie: 79, .. });
    pair.until("the end of an atomic operation", |a, _| {
        a.find(is_it, |event| match event {
            Event::Fetched { result, .. } => result,
            _ => unreachable!("it is one"),
        })
    })
}

fn regions_are_written_read_and_changed(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let qa = pair.qa;
    let (shared, remote) = region(&mut pair.b, 100_000, ALL);
    assert_eq!(pair.b.device.load(shared, 0), 0, "it is zeroed");
    let bytes = pattern(70_001, 1);
    assert_eq!(write(&mut pair, at(remote, 13), &bytes), Ok(()));
    let mut out = vec![0; bytes.len()];
    assert!(pair.b.device.copy_out(shared, 13, &mut out));
    assert!(out == bytes);
    assert!(read(&mut pair, qa, at(remote, 1013), 60_000) == Ok(bytes[1000..61_000].to_vec()));
    // From the other side.
    assert!(pair.b.device.copy_in(shared, 5, b"here"));
    assert_eq!(read(&mut pair, qa, at(remote, 5), 4), Ok(b"here".to_vec()));
    let len = read(&mut pair, qa, remote, 0).map(|bytes| bytes.len());
    assert_eq!(len, Ok(0));
    // A word, and the word after a write of no bytes.
    let (device, cx) = pair.a.both();
    device.write_word(&cx, qa, at(remote, 16), u64::MAX - 5, Then::Quiet).expect("there is room");
    device.write(&cx, qa, Remote { addr: 0, key: 0 }, SgArray::new(), Then::Tell(5)).expect("there is room");
    assert_eq!(ended(&mut pair, 5), Ok(()));
    assert_eq!(pair.b.device.load(shared, 16), u64::MAX - 5);
    assert_eq!(change(&mut pair, at(remote, 16), Atomic::FetchAdd(7)), Ok(u64::MAX - 5));
    assert_eq!(pair.b.device.load(shared, 16), 1);
    let swap = |expected, new| Atomic::CompareSwap { expected, new };
    assert_eq!(change(&mut pair, at(remote, 16), swap(2, 9)), Ok(1));
    assert_eq!(change(&mut pair, at(remote, 16), swap(1, 9)), Ok(1));
    assert_eq!(pair.b.device.load(shared, 16), 9);
    // Out of range, or not a word.
    assert!(
        !pair.b.device.copy_in(shared, usize::MAX, b"x")
            && !pair.b.device.copy_out(shared, 1 << 20, &mut [0])
    );
    assert_eq!(pair.b.device.load(shared, 1 << 20), 0);
    assert_eq!(pair.b.device.atomic_here(shared, 4, Atomic::FetchAdd(1)), None);
    Ok(())
}

fn rights_to_a_region_are_kept(place: &Place) -> Result<(), Failed> {
    type Try = fn(&mut Pair, Remote) -> Option<Fault>;
    let readable = Access { read: true, ..Access::default() };
    let writable = Access { write: true, ..Access::default() };
    let tries: [(&str, Access, Try); 7] = [
        ("write what is readable", readable, |pair, remote| write(pair, remote, b"no").err()),
        ("read what is writable", writable, |pair, remote| read(pair, pair.qa, remote, 8).err()),
        ("change what is writable", writable, |pair, remote| change(pair, remote, Atomic::FetchAdd(1)).err()),
        ("write beyond the end", ALL, |pair, remote| write(pair, at(remote, 4090), b"too long").err()),
        ("write before the begin", ALL, |pair, remote| {
            write(pair, at(remote, 0_u64.wrapping_sub(8)), b"no").err()
        }),
        ("write by another key", ALL, |pair, remote| {
            write(pair, Remote { key: remote.key ^ 0x100, ..remote }, b"no").err()
        }),
        ("write what was taken away", ALL, |pair, remote| {
            let names: Vec<_> =
                (0..8).map(Region).filter(|name| pair.b.device.place(*name) == Some(remote)).collect();
            pair.b.device.unregion(names[0]);
            write(pair, remote, b"no").err()
        }),
    ];
    for (what, access, attempt) in tries {
        let mut pair = Pair::new(place);
        let (shared, remote) = region(&mut pair.b, 4096, access);
        let (_, neighbour) = region(&mut pair.b, 4096, Access::default());
        assert_ne!(neighbour.key, remote.key);
        pair.b.device.copy_in(shared, 0, &[3; 4096]);
        assert_eq!(attempt(&mut pair, remote), Some(Fault::RemoteAccess), "{what}");
        let mut out = [3; 4096];
        pair.b.device.copy_out(shared, 0, &mut out);
        assert!(out == [3; 4096], "{what}: nothing has changed");
        assert_eq!(pair.ended().0, Fault::RemoteAccess, "{what}");
    }
    Ok(())
}

fn grant(pair: &mut Pair, qp: Qp, data: &Buf) -> (Grant, Remote) {
    let (device, cx) = pair.b.both();
    let given = device.grant(&cx, qp, data.clone());
    given.unwrap_or_else(|_| panic!("no room; there are {:?} and {:?}", pair.a.events, pair.b.events))
}

/// Ends a grant; the memory.
fn revoke(pair: &mut Pair, grant: Grant) -> Buf {
    let (device, cx) = pair.b.both();
    device.revoke(&cx, grant, 80);
    let is_it = |event: &Event| matches!(event, Event::Revoked { cookie: 80, .. });
    pair.until("the end of a grant", |_, b| {
        b.find(is_it, |event| match event {
            Event::Revoked { data, .. } => data,
            _ => unreachable!("it is one"),
        })
    })
}

fn a_grant_is_read_while_it_lasts(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    let data = pair.b.filled(300_000, 4).freeze();
    let (given, remote) = grant(&mut pair, qb, &data);
    // Where it is arrives after it holds.
    pair.a.receives(1);
    pair.b.send(qb, b"take it", SgArray::new(), Then::Quiet);
    pair.until("a message", |a, _| a.message());
    assert!(read(&mut pair, qa, remote, 300_000) == Ok(data[..].to_vec()));
    assert_eq!(read(&mut pair, qa, at(remote, 299_999), 1), Ok(vec![data[299_999]]));
    let back = revoke(&mut pair, given);
    assert!(back.shares_object_with(&data));
    assert_eq!(read(&mut pair, qa, remote, 1), Err(Fault::RemoteAccess));
    assert_eq!(pair.ended().0, Fault::RemoteAccess);
    // Once more is nothing.
    let (device, cx) = pair.b.both();
    device.revoke(&cx, given, 81);
    pair.b.turn();
    assert!(pair.b.events.is_empty());
    Ok(())
}

fn a_grant_is_for_one_queue_pair_and_its_bytes(place: &Place) -> Result<(), Failed> {
    for attempt in 0..4 {
        let mut pair = Pair::new(place);
        let (other_a, other_b) = pair.another(place);
        let whole = pair.b.filled(8192, 4).freeze();
        let (qa, qb) = (pair.qa, pair.qb);
        let (_, remote) = grant(&mut pair, qb, &whole.slice(1000..3000));
        pair.a.receives(1);
        pair.b.send(qb, b"take it", SgArray::new(), Then::Quiet);
        pair.until("a message", |a, _| a.message());
        assert!(read(&mut pair, qa, remote, 2000) == Ok(whole[1000..3000].to_vec()));
        let result = match attempt {
            0 => read(&mut pair, other_a, remote, 8).map(drop),
            1 => read(&mut pair, qa, remote, 2001).map(drop),
            2 => read(&mut pair, qa, at(remote, u64::MAX), 8).map(drop),
            _ => write(&mut pair, remote, b"not to be written"),
        };
        assert_eq!(result, Err(Fault::RemoteAccess), "attempt {attempt}");
        assert!(whole[..] == pattern(8192, 4), "nothing has changed");
        // The other queue pair lives on.
        let (alive_a, alive_b) = if attempt == 0 { (qa, qb) } else { (other_a, other_b) };
        pair.b.receives(1);
        pair.a.send(alive_a, b"alive", SgArray::new(), Then::Quiet);
        assert_eq!(pair.until("a message", |_, b| b.message()).0, alive_b);
    }
    Ok(())
}

fn grants_come_and_go_by_the_thousand(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    let data = pair.b.filled(4096, 6).freeze();
    let room = pair.b.device.room(qb);
    for round in 0..40 {
        let given: Vec<_> = (0..30).map(|at| grant(&mut pair, qb, &data.slice(at..))).collect();
        assert_eq!(pair.b.device.room(qb), room - 60, "one place for each begin, one for each end");
        if round % 10 == 0 {
            pair.b.turn();
            let (last, remote) = (&data[29..], given[29].1);
            assert!(read(&mut pair, qa, remote, last.len()) == Ok(last.to_vec()), "round {round}");
        }
        for (grant, _) in given {
            revoke(&mut pair, grant);
        }
    }
    assert_eq!(pair.b.device.room(qb), room);
    // The ends of grants have their places also when all others are taken.
    let given = grant(&mut pair, qb, &data).0;
    let (device, cx) = pair.b.both();
    while device.room(qb) > 0 {
        let nowhere = Remote { addr: 0, key: 0 };
        device.write(&cx, qb, nowhere, SgArray::new(), Then::Quiet).expect("there is room");
    }
    assert!(device.grant(&cx, qb, data.clone()).is_err());
    revoke(&mut pair, given);
    assert_eq!(pair.b.counter("verbs_failures"), 0);
    Ok(())
}

fn grants_end_with_their_queue_pair(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    let data = pair.b.filled(4096, 6).freeze();
    let [before, during, after] = [0; 3].map(|_| grant(&mut pair, qb, &data).0);
    pair.b.turn();
    let (device, cx) = pair.b.both();
    device.revoke(&cx, before, 1);
    device.disconnect(&cx, qb);
    device.revoke(&cx, during, 2);
    let is_end = |event: &Event| matches!(event, Event::Revoked { .. } | Event::Gone { .. });
    let mut told = Vec::new();
    pair.until("three ends", |_, b| {
        told.extend(b.find(is_end, |event| match event {
            Event::Revoked { cookie, .. } => cookie,
            _ => 0,
        }));
        (told.len() == 3).then_some(())
    });
    told[..2].sort();
    assert_eq!(told, [1, 2, 0], "memory first, then the queue pair");
    let back = revoke(&mut pair, after);
    assert!(back.shares_object_with(&data));
    pair.until("the other end", |a, _| a.gone().filter(|gone| gone.0 == qa));
    Ok(())
}

fn grants_hold_in_whatever_way_they_are_made(place: &Place) -> Result<(), Failed> {
    for windows in [Windows::Off, Windows::Narrow, Windows::Auto] {
        let config = VerbsConfig { windows, receives: 64, ..VerbsConfig::default() };
        let mut pair = Pair::between(place, End::with(&config), End::with(&config));
        let (qa, qb) = (pair.qa, pair.qb);
        let data = pair.b.filled(20_000, 4).freeze();
        let (given, remote) = grant(&mut pair, qb, &data.slice(100..19_000));
        pair.b.turn();
        assert!(read(&mut pair, qa, remote, 18_900) == Ok(data[100..19_000].to_vec()), "{windows:?}");
        revoke(&mut pair, given);
        assert_eq!(read(&mut pair, qa, remote, 1), Err(Fault::RemoteAccess), "{windows:?}");
    }
    Ok(())
}

fn atomics_of_both_sides_are_one(place: &Place) -> Result<(), Failed> {
    const COUNT: u64 = 200;
    let mut pair = Pair::new(place);
    let qa = pair.qa;
    let (shared, remote) = region(&mut pair.b, 4096, ALL);
    let (mut posted, mut fetched) = (0, Vec::new());
    let mut here = Vec::new();
    while fetched.len() < COUNT as usize {
        if posted < COUNT && pair.a.device.room(qa) > 0 {
            let (device, cx) = pair.a.both();
            device.atomic(&cx, qa, at(remote, 8), Atomic::FetchAdd(1), posted).expect("there is room");
            posted += 1;
        }
        pair.a.turn();
        here.extend(pair.b.device.atomic_here(shared, 8, Atomic::FetchAdd(1)));
        while let Some(event) = pair.a.events.pop_front() {
            let Event::Fetched { cookie, result: Ok(value), .. } = event else { panic!("{event:?}") };
            assert_eq!(cookie, fetched.len() as u64);
            fetched.push(value);
        }
    }
    let mut all = [fetched, here].concat();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..all.len() as u64), "each value was seen once");
    assert_eq!(pair.b.device.load(shared, 8), all.len() as u64);
    Ok(())
}

/// Whatever key a peer has or guesses, the heap's addresses are not to be had by it.
fn the_heap_is_out_of_reach(place: &Place) -> Result<(), Failed> {
    let mut secret = None;
    for attempt in 0..6 {
        let mut pair = Pair::new(place);
        let (qa, qb) = (pair.qa, pair.qb);
        let data = pair.b.filled(4096, 11).freeze();
        let (_, region) = region(&mut pair.b, 4096, ALL);
        let (given, granted) = grant(&mut pair, qb, &data.slice(..64));
        pair.b.turn();
        let beside = at(granted, 64);
        secret.get_or_insert(data[64]);
        let key = match attempt {
            0 => region.key,
            1 => granted.key,
            2 => granted.key.wrapping_sub(1),
            3 => 0,
            4 => region.key.wrapping_sub(0x100),
            _ => {
                revoke(&mut pair, given);
                granted.key
            }
        };
        let from = Remote { addr: beside.addr, key };
        assert_eq!(read(&mut pair, qa, from, 8), Err(Fault::RemoteAccess), "attempt {attempt}");
    }
    Ok(())
}
