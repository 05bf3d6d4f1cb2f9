//! A heap that is full, by what peers have left in it or by the application's own doing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::SocketOption;
use demi_api::memalloc::{BufMut, Heap};
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use demi_api::token::QToken;
use demi_api::{Domain, SocketKind};
use demi_libos_catnip::device::fault::{Fault, FaultConfig, Faults};
use demi_libos_catnip::device::{Caps, DeviceCx, Frame, Queue};

use crate::world::{Host, Watched, World};

const LIMIT: Duration = Duration::from_secs(600);

/// How soon what waits for memory is tried again, and arrives.
const SOON: Duration = Duration::from_millis(60);

/// A device that receives into the heap of its own host, as those do that are not made for tests. What there is no memory
/// for is lost, except frames as short as those are without text.
struct Copying(Box<dyn Queue>);

impl Queue for Copying {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let count = self.0.rx_burst(cx, inbox);
        inbox.retain_mut(|frame| {
            let len = frame.data.len();
            let copy = if len <= 14 + 20 + 60 { cx.heap.alloc_urgent(len) } else { cx.heap.alloc(len) };
            let Ok(mut copy) = copy else { return false };
            frame.data.copy_to(&mut copy);
            frame.data = copy.into();
            true
        });
        count
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        self.0.tx_burst(cx, outbox)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.0.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.0.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.0.counters(visit);
    }
}

/// Two hosts whose devices copy, half a millisecond apart; `watch` sees what leaves the second.
fn world(watch: impl FnMut(&mut VecDeque<Frame>) + Clone + 'static) -> World {
    let delay = Faults { delay: Duration::from_micros(500), ..Faults::default() };
    World::over(3, 1500, "", "", |plug, seed| {
        let fault = Fault::new(plug, FaultConfig { seed, tx: delay.clone(), ..FaultConfig::default() });
        let device = Box::new(Copying(Box::new(fault)));
        if seed & 0xff == 2 { Watched::before(device, watch.clone()) } else { device }
    })
}

/// All memory that there is, but for the reserve.
fn fill(heap: &Heap) -> Vec<BufMut> {
    let sizes = (6..=18).rev().map(|bits| 1 << bits);
    sizes.flat_map(|size| std::iter::from_fn(move || heap.alloc(size).ok())).collect()
}

fn fill_reserve(heap: &Heap) -> Vec<BufMut> {
    std::iter::from_fn(|| heap.alloc_urgent(64).ok()).collect()
}

/// A listener of a host, and what it takes to be called by the other.
struct Door<'a> {
    world: &'a World,
    listener: QDesc,
}

const DOOR: &str = "10.0.0.2:7";

impl Door<'_> {
    fn open(world: &World) -> Door<'_> {
        let host = &world.hosts[1];
        let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
        host.bind(listener, DOOR.parse::<SocketAddr>().unwrap()).unwrap();
        host.listen(listener, 8).unwrap();
        Door { world, listener }
    }

    /// A connection through it: the caller's end and the other.
    #[track_caller]
    fn enter(&self) -> [QDesc; 2] {
        let [near, far] = &self.world.hosts;
        let accept = far.accept(self.listener).unwrap();
        let client = near.socket(Domain::Inet, SocketKind::Stream).unwrap();
        let connect = near.connect(client, DOOR.parse::<SocketAddr>().unwrap()).unwrap();
        let mut server = None;
        self.world.run(Duration::from_secs(1), |world| {
            server = server.or_else(|| Some(world.take(1, accept)?.accepted().unwrap().0));
            server.is_some()
        });
        near.wait(connect, None).unwrap().result.unwrap();
        [client, server.unwrap()]
    }
}

fn bytes(host: &Host, len: usize) -> SgArray {
    host.copy_from(&vec![7; len]).unwrap()
}

/// Pops so many bytes.
#[track_caller]
fn pop_all(world: &World, host: usize, queue: QDesc, mut left: usize, limit: Duration) {
    let mut pop: Option<QToken> = None;
    world.run(limit, |world| {
        while left > 0 {
            let token = *pop.get_or_insert_with(|| world.hosts[host].pop(queue).unwrap());
            let Some(done) = world.take(host, token) else { return false };
            left -= done.popped().unwrap().len();
            pop = None;
        }
        true
    });
}

fn pass(world: &World, time: Duration) {
    let end = world.now() + time;
    world.run(LIMIT, |world| world.now() >= end);
}

#[test]
fn what_is_not_read_leaves_room_for_others() {
    let world = world(|_| {});
    let door = Door::open(&world);
    let [near, far] = &world.hosts;
    let (there, back) = (bytes(near, 256 << 10), bytes(far, 512 << 10));
    // More than the heap holds, were it taken: nobody reads anything.
    let ends: Vec<[QDesc; 2]> = (0..150).map(|_| door.enter()).collect();
    let mut pushes = Vec::new();
    for [client, server] in &ends {
        near.push(*client, there.clone()).unwrap();
        pushes.push(far.push(*server, back.clone()).unwrap());
    }
    pass(&world, Duration::from_secs(20));
    assert!(world.counter(1, "tcp_no_room") > 0);
    let stats = far.heap().stats();
    assert!(stats.bytes_live > stats.region_size / 2 && stats.superblocks_free > 0, "{stats:?}");
    // Who comes now is served for all that.
    for _ in 0..20 {
        let [client, server] = door.enter();
        near.push(client, bytes(near, 8000)).unwrap();
        pop_all(&world, 1, server, 8000, Duration::from_secs(2));
        far.push(server, bytes(far, 8000)).unwrap();
        pop_all(&world, 0, client, 8000, Duration::from_secs(2));
        near.close(client).unwrap();
        far.close(server).unwrap();
    }
    // Those that have read nothing leave, and what was meant for them is let go of.
    for [client, _] in &ends {
        near.set_option(*client, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
        near.close(*client).unwrap();
    }
    pass(&world, Duration::from_millis(10));
    for push in pushes {
        assert!(matches!(far.wait(push, None).unwrap().result, Err(Error::ConnectionReset)));
    }
    for [_, server] in ends {
        far.close(server).unwrap();
    }
    drop(back);
    assert_eq!(far.heap().stats().objects_live, 0);
}

#[test]
fn a_full_heap_lets_connections_be_made_and_reset() {
    let world = world(|_| {});
    let door = Door::open(&world);
    let [near, far] = &world.hosts;
    // Neighbours know each other.
    let [first, other] = door.enter();
    let full = fill(far.heap());
    let [client, server] = door.enter();
    let pop = far.pop(server).unwrap();
    // There is no room for text, and nothing but text waits for it.
    let push = near.push(client, bytes(near, 1000)).unwrap();
    pass(&world, Duration::from_secs(2));
    assert!(world.take(0, push).is_none() && world.take(1, pop).is_none());
    near.set_option(client, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    near.close(client).unwrap();
    pass(&world, Duration::from_millis(10));
    assert!(matches!(far.wait(pop, None).unwrap().result, Err(Error::ConnectionReset)));
    // And in order.
    let pop = far.pop(other).unwrap();
    near.close(first).unwrap();
    pass(&world, Duration::from_millis(10));
    assert!(far.wait(pop, None).unwrap().popped().unwrap().is_empty());
    far.close(other).unwrap();
    pass(&world, Duration::from_millis(100));
    assert_eq!(world.counter(1, "tcp_connections"), 0);
    assert_eq!(world.counter(1, "tcp_no_memory"), 0);
    drop(full);
}

#[test]
fn what_waits_for_memory_goes_as_soon_as_there_is_some() {
    let lose = std::rc::Rc::new(std::cell::Cell::new(false));
    let losing = lose.clone();
    let world = world(move |outbox: &mut VecDeque<Frame>| {
        if losing.get() {
            outbox.clear();
        }
    });
    let [_, server] = world.connected(LIMIT);
    let [near, far] = &world.hosts;
    // Of new data, of what was lost, of nothing but the end, and of a call.
    for way in ["new", "lost", "fin", "syn"] {
        let data = bytes(far, 4000);
        let mut push = None;
        if way == "lost" {
            lose.set(true);
            push = Some(far.push(server, data.clone()).unwrap());
            pass(&world, Duration::from_millis(1));
            lose.set(false);
        }
        let timeouts = world.counter(1, "tcp_timeouts");
        let full = (fill(far.heap()), fill_reserve(far.heap()));
        let mut connect = None;
        match way {
            "new" => push = Some(far.push(server, data.clone()).unwrap()),
            "fin" => far.shutdown(server, demi_api::libos::Shutdown::Write).unwrap(),
            "syn" => {
                let listener = near.socket(Domain::Inet, SocketKind::Stream).unwrap();
                near.bind(listener, "10.0.0.1:9".parse::<SocketAddr>().unwrap()).unwrap();
                near.listen(listener, 8).unwrap();
                let client = far.socket(Domain::Inet, SocketKind::Stream).unwrap();
                connect = Some(far.connect(client, "10.0.0.1:9".parse::<SocketAddr>().unwrap()).unwrap());
            }
            _ => {}
        }
        let sent = world.counter(1, "tcp_sent");
        // Not so long that the neighbour has to be asked again.
        pass(&world, Duration::from_secs(3));
        assert_eq!(world.counter(1, "tcp_sent"), sent, "{way}");
        assert!(world.counter(1, "tcp_no_memory") > 0, "{way}");
        // What was lost is found to be so once, and not again for as long as it is not sent.
        let lost = u64::from(way == "lost");
        assert_eq!(world.counter(1, "tcp_timeouts"), timeouts + lost, "{way}");
        drop(full);
        if let Some(connect) = connect {
            world.run(SOON, |world| world.take(1, connect).is_some_and(|done| done.result.is_ok()));
        }
        if let Some(push) = push {
            world.run(SOON, |world| world.take(1, push).is_some_and(|done| done.result.is_ok()));
        }
        if way == "fin" {
            let sent = world.counter(1, "tcp_sent");
            pass(&world, SOON);
            assert_eq!(world.counter(1, "tcp_sent"), sent + 1);
        }
    }
}
