//! Devices without a catmint, which ask and answer as they please.

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::{Error, SgArray};

use super::super::hello::{self, Found};
use super::super::path::ALL;
use super::world::{AT, World, ip};
use crate::device::ideal::{Conditions, Ideal};
use crate::device::{Access, Atomic, DeviceCx, Event, Fault, Qp, RdmaDevice, Remote, Then};
use crate::wire::Word;

struct Stranger<'a> {
    world: &'a World,
    device: Ideal,
    heap: Heap,
}

impl Stranger<'_> {
    fn new(world: &World) -> Stranger<'_> {
        let config = HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false };
        Stranger { world, device: world.fabric.plug(&[ip(8)]).unwrap(), heap: Heap::new(&config).unwrap() }
    }

    fn with<T>(&mut self, call: impl FnOnce(&mut Ideal, &DeviceCx<'_>) -> T) -> T {
        call(&mut self.device, &DeviceCx { heap: &self.heap, now: self.world.now() })
    }

    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..50 {
            self.world.turn();
            self.with(|device, cx| device.poll(cx, &mut events));
        }
        events
    }

    /// Asks at the first instance's address.
    fn ask(&mut self, hello: &[u8]) -> Result<(Qp, Found), Vec<u8>> {
        let qp = self.with(|device, cx| device.connect(cx, AT.parse().unwrap(), hello)).unwrap();
        match self.events().into_iter().next() {
            Some(Event::Established { hello, .. }) => Ok((qp, hello::parse_found(&hello).unwrap())),
            Some(Event::Refused { hello, .. }) => Err(hello),
            other => panic!("{other:?}"),
        }
    }

    /// Posts something that must not be, and sees the queue pair fail.
    #[track_caller]
    fn fails(&mut self, name: &str, post: impl FnOnce(&mut Ideal, &DeviceCx<'_>, Qp, Found)) -> Fault {
        let (qp, found) = self.ask(&hello::request(name)).unwrap();
        self.with(|device, cx| post(device, cx, qp, found));
        let events = self.events();
        let fault = events.iter().find_map(|event| match event {
            Event::Sent { result: Err(fault), .. }
            | Event::Read { result: Err(fault), .. }
            | Event::Fetched { result: Err(fault), .. } => Some(*fault),
            Event::Gone { why, .. } => Some(*why),
            _ => None,
        });
        assert!(events.iter().any(|event| matches!(event, Event::Gone { .. })), "{events:?}");
        fault.expect("it failed")
    }

    fn array(&self, bytes: &[u8]) -> SgArray {
        SgArray::copy_from(&self.heap, bytes).unwrap()
    }
}

fn lenient(hosts: usize) -> World {
    World::with(hosts, Conditions { strict: false, ..Conditions::default() }, "")
}

#[test]
fn nothing_outside_of_a_region_is_reached_and_nobody_else_suffers() {
    let world = lenient(2);
    let open = world.export(0, "open?size=4096");
    let closed = world.export(0, "closed?size=4096&access=r");
    world.push(0, open, &[1; 4096]);
    world.push(0, closed, &[2; 4096]);
    let honest = world.find(1, "open");
    let mut stranger = Stranger::new(&world);
    let at =
        |found: Found, offset: u64| Remote { addr: found.place.addr.wrapping_add(offset), ..found.place };
    let bad = stranger.array(&[0xbb; 64]);

    // Beyond the end, before the begin, across either, and all around.
    for offset in [4096, 4096 - 63, u64::MAX, 0_u64.wrapping_sub(64), 1 << 40] {
        let data = bad.clone();
        let fault = stranger.fails("open", |device, cx, qp, found| {
            device.write(cx, qp, at(found, offset), data, Then::Quiet).unwrap();
        });
        assert_eq!(fault, Fault::RemoteAccess, "a write at {offset:#x}");
        let fault = stranger.fails("open", |device, cx, qp, found| {
            let into = cx.heap.alloc(64).unwrap();
            device.read(cx, qp, at(found, offset), into, 1).unwrap();
        });
        assert_eq!(fault, Fault::RemoteAccess, "a read at {offset:#x}");
    }
    for offset in [4096, 4100 - 8, 0_u64.wrapping_sub(8)] {
        stranger.fails("open", |device, cx, qp, found| {
            device.atomic(cx, qp, at(found, offset), Atomic::FetchAdd(1), 1).unwrap();
        });
    }
    // What may be read only is not written, nor counted in.
    let data = bad.clone();
    let fault = stranger.fails("closed", |device, cx, qp, found| {
        device.write(cx, qp, found.place, data, Then::Tell(9)).unwrap();
    });
    assert_eq!(fault, Fault::RemoteAccess);
    let fault = stranger.fails("closed", |device, cx, qp, found| {
        device.atomic(cx, qp, found.place, Atomic::FetchAdd(1), 1).unwrap();
    });
    assert_eq!(fault, Fault::RemoteAccess);
    // Keys that were never given.
    for key in 0..64_u32 {
        let data = bad.clone();
        stranger.fails("open", |device, cx, qp, found| {
            let key = found.place.key.wrapping_add(1 + key);
            device.write(cx, qp, Remote { key, ..found.place }, data, Then::Quiet).unwrap();
        });
    }
    world.settle();
    world.demi(0).seek(open, demi_api::SeekTo::Head).unwrap();
    world.demi(0).seek(closed, demi_api::SeekTo::Head).unwrap();
    assert_eq!(world.pop(0, open, 4096), [1; 4096]);
    assert_eq!(world.pop(0, closed, 4096), [2; 4096]);
    assert_eq!(world.add(1, honest, 0, 1), u64::from_ne_bytes([1; 8]), "who asks for what is there gets it");
    assert_eq!(world.fabric.queue_pairs(ip(0)), 1, "the others have gone");
    world.assert_clean(0);
}

#[test]
fn a_key_is_worth_nothing_once_its_region_is_closed() {
    let world = lenient(1);
    let here = world.export(0, "table?size=64");
    let _other = world.export(0, "other?size=64");
    let mut stranger = Stranger::new(&world);
    let (qp, found) = stranger.ask(&hello::request("table")).unwrap();
    let (other, _) = stranger.ask(&hello::request("other")).unwrap();
    world.demi(0).close(here).unwrap();
    // By its own queue pair, and by one that goes on.
    for qp in [qp, other] {
        let posted = stranger.with(|device, cx| {
            let into = cx.heap.alloc(8).unwrap();
            device.read(cx, qp, found.place, into, 1).is_ok()
        });
        let events = stranger.events();
        let failed = events.iter().any(|event| matches!(event, Event::Read { result: Err(_), .. }));
        assert!(!posted || failed, "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Read { result: Ok(()), .. })));
    }
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let world = lenient(1);
    let _here = world.export(0, "table?size=64");
    let mut stranger = Stranger::new(&world);
    let mut version = hello::request("table");
    version[4] = 9;
    let mut letters = hello::request("table");
    letters[9] = 0xff;
    let questions = [
        (hello::request("nothing").to_vec(), Word::NO_REGION),
        (hello::request("tabl").to_vec(), Word::NO_REGION),
        (hello::request("").to_vec(), Word::MALFORMED),
        (letters.to_vec(), Word::MALFORMED),
        (version.to_vec(), Word::VERSION),
        (hello::request("table")[..8].to_vec(), Word::MALFORMED),
    ];
    for (question, word) in questions {
        let answer = stranger.ask(&question).unwrap_err();
        assert_eq!(answer[6..8], word.to_le_bytes(), "{question:?}");
    }
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut noise: Vec<u8> = (0..rng.usize(..=56)).map(|_| rng.u8(..)).collect();
        if let Some(begin) = noise.get_mut(..8) {
            begin.copy_from_slice(b"DEMI\x01\0\x02\0");
            assert!(stranger.ask(&noise).is_err());
        }
    }
    assert_eq!(world.fabric.queue_pairs(ip(0)), 0);
    assert_eq!(world.counter(0, "region_users"), 0);
}

#[test]
fn who_sends_a_message_to_a_region_is_disconnected() {
    let world = lenient(2);
    let _here = world.export(0, "table?size=64");
    // So that there are receives.
    let addr: demi_api::Addr = AT.parse().unwrap();
    let stream = demi_api::SocketKind::Stream;
    let near = world.demi(1).socket(demi_api::Domain::Inet, stream).unwrap();
    let connect = world.demi(1).connect(near, addr).unwrap();
    assert_eq!(world.error(1, connect), Error::ConnectionRefused, "a region is no listener");
    let mut stranger = Stranger::new(&world);
    let fault = stranger.fails("table", |device, cx, qp, _| {
        for _ in 0..5 {
            device.send(cx, qp, &[4; 16], SgArray::new(), Then::Quiet).unwrap();
        }
    });
    assert!(matches!(fault, Fault::Disconnected | Fault::Flushed), "{fault}");
    let there = world.find(1, "table");
    assert_eq!(world.add(1, there, 0, 1), 0);
    assert_eq!(world.counter(0, "peers_lost"), 0);
}

#[test]
fn an_exporter_that_talks_nonsense_fails_one_queue() {
    let world = lenient(1);
    let mut stranger = Stranger::new(&world);
    let listener = stranger.with(|device, cx| device.listen(cx, "10.0.0.9:1".parse().unwrap())).unwrap().0;
    let place = Remote { addr: 4096, key: 1 };
    let sound = Found { place, len: 64, access: ALL };
    let answers: [(Vec<u8>, bool); 6] = [
        (Vec::new(), true),
        (vec![0xff; 56], true),
        (hello::found(&Found { len: u64::MAX, ..sound }).to_vec(), true),
        (hello::found(&Found { len: 0, ..sound }).to_vec(), true),
        // It promises what it has not: the first access ends it.
        (hello::found(&sound).to_vec(), false),
        (hello::found(&Found { access: Access::default(), ..sound }).to_vec(), false),
    ];
    for (answer, foreign) in answers {
        let there = world.demi(0).open("rdma://10.0.0.9:1/table", &Default::default()).unwrap();
        let tokens = [
            world.demi(0).pop(there).unwrap(),
            world.demi(0).push(there, world.array(0, b"x")).unwrap(),
            world.demi(0).fetch_and_add(there, demi_api::Position(0), 1).unwrap(),
        ];
        for event in stranger.events() {
            if let Event::Request { id, listener: at, .. } = event {
                assert_eq!(at, listener);
                stranger.with(|device, cx| device.accept(cx, id, &answer)).unwrap();
            }
        }
        stranger.events();
        for token in tokens {
            let error = world.error(0, token);
            assert_eq!(matches!(error, Error::NotSupported(_)), foreign, "{error}");
        }
        world.demi(0).close(there).unwrap();
        stranger.events();
    }
    world.settle();
    assert_eq!(world.fabric.queue_pairs(ip(0)), 0);
    world.assert_clean(0);
}
