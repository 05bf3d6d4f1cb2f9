//! Faults over wires in memory, on a clock that the test sets.

use demi_api::memalloc::{Heap, HeapConfig};

use super::super::{Checksum, Loopback, Wire};
use super::*;

const US: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HEADER: usize = 14;

pub(in crate::device) fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() }).unwrap()
}

/// A frame with a number in it, of `len` bytes.
pub(in crate::device) fn frame(heap: &Heap, number: u64, len: usize) -> Frame {
    let mut data = heap.alloc(len).unwrap();
    data.fill(number as u8);
    data[..6].copy_from_slice(&THEM);
    data[6..12].copy_from_slice(&US);
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    data[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    Frame::new(data.into())
}

pub(in crate::device) fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[HEADER..HEADER + 8].try_into().unwrap())
}

/// A frame that has arrived: when, and what.
type Arrival = (u64, Vec<u8>);

/// Two hosts on a wire, the first of which has faults.
struct World {
    heap: Heap,
    now: u64,
    us: Fault<Loopback>,
    them: Loopback,
    outbox: VecDeque<Frame>,
    arrivals: Vec<Arrival>,
}

impl World {
    fn new(config: FaultConfig) -> World {
        let wire = Wire::new();
        let us = Fault::new(wire.plug(US, 1500).unwrap(), config);
        let them = wire.plug(THEM, 1500).unwrap();
        World { heap: heap(), now: 0, us, them, outbox: VecDeque::new(), arrivals: Vec::new() }
    }

    fn with_tx(seed: u64, tx: Faults) -> World {
        World::new(FaultConfig { seed, tx, ..FaultConfig::default() })
    }

    /// Sends a frame with faults, and receives what there is.
    fn send(&mut self, number: u64, len: usize) {
        let heap = self.heap.clone();
        self.outbox.push_back(frame(&heap, number, len));
        self.turn();
    }

    fn turn(&mut self) {
        let cx = DeviceCx { heap: &self.heap, now: Instant::from_nanos(self.now) };
        self.us.tx_burst(&cx, &mut self.outbox);
        let mut inbox = Vec::new();
        while self.us.rx_burst(&cx, &mut inbox) > 0 {}
        assert!(inbox.is_empty(), "nobody sends to us");
        while self.them.rx_burst(&cx, &mut inbox) > 0 {}
        self.arrivals.extend(inbox.iter().map(|frame| (self.now, frame.data.to_vec())));
    }

    /// Jumps from deadline to deadline until nothing is held.
    fn finish(&mut self) {
        self.advance(u64::MAX);
        assert_eq!(self.us.held(), 0);
    }

    /// Jumps from deadline to deadline, as far as they lie before a time.
    fn advance(&mut self, to: u64) {
        while let Some(due) = self.us.next_deadline().filter(|due| due.as_nanos() < to) {
            assert!(due.as_nanos() > self.now, "what is due has been handed out");
            let before = self.us.held();
            let cx = DeviceCx { heap: &self.heap, now: Instant::from_nanos(due.as_nanos() - 1) };
            assert!(self.us.arm(&cx), "nothing is due before the deadline");
            self.now = due.as_nanos();
            self.turn();
            assert!(self.us.held() < before, "something is due at the deadline");
        }
    }

    /// Sends `count` frames of 100 bytes, 10 µs apart.
    fn stream(mut self, count: u64) -> World {
        for n in 0..count {
            let next = self.now + 10_000;
            self.advance(next);
            self.now = next;
            self.send(n, 100);
        }
        self.finish();
        self
    }

    fn numbers(&self) -> Vec<u64> {
        self.arrivals.iter().map(|(_, bytes)| number(bytes)).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.us.counters(&mut |counter, value| {
            if counter == name {
                found = Some(value);
            }
        });
        found.unwrap()
    }
}

/// Whether `count` of `of` is within five standard deviations of the probability.
fn likely(count: u64, of: u64, probability: f64) -> bool {
    let mean = of as f64 * probability;
    (count as f64 - mean).abs() <= 5.0 * (mean * (1.0 - probability)).sqrt()
}

const MANY: u64 = 10_000;

#[test]
fn without_faults_frames_pass_at_once_and_in_order() {
    let world = World::with_tx(1, Faults::default()).stream(MANY);
    assert_eq!(world.numbers(), (0..MANY).collect::<Vec<_>>());
    assert!(world.arrivals.iter().all(|(time, bytes)| *time == (number(bytes) + 1) * 10_000));
    assert_eq!(world.heap.stats().objects_live, 0);
}

#[test]
fn frames_are_lost_as_often_as_was_asked_for() {
    for (seed, loss) in [(1, 0.01), (2, 0.1), (3, 0.3), (4, 1.0)] {
        let world = World::with_tx(seed, Faults { loss, ..Faults::default() }).stream(MANY);
        let lost = MANY - world.arrivals.len() as u64;
        assert!(likely(lost, MANY, loss), "{lost} at {loss}");
        assert_eq!(world.counter("fault_tx_lost"), lost);
        assert!(world.numbers().is_sorted());
        assert_eq!(world.heap.stats().objects_live, 0);
    }
}

#[test]
fn frames_are_duplicated_as_often_as_was_asked_for() {
    let world = World::with_tx(5, Faults { duplicate: 0.05, ..Faults::default() }).stream(MANY);
    let twice = world.numbers().windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    assert!(likely(twice, MANY, 0.05), "{twice}");
    assert_eq!(world.arrivals.len() as u64, MANY + twice);
    assert_eq!(world.heap.stats().objects_live, 0);
}

#[test]
fn frames_are_corrupted_by_one_bit_and_the_senders_memory_is_not() {
    let mut world = World::with_tx(6, Faults { corrupt: 0.05, ..Faults::default() });
    let heap = world.heap.clone();
    let mut corrupted = 0;
    for n in 0..MANY {
        let sent = frame(&heap, n, 100);
        let kept = sent.data.clone();
        world.outbox.push_back(sent);
        world.turn();
        assert_eq!(kept.to_vec(), frame(&heap, n, 100).data.to_vec());
        // A bit of the destination may have been the one.
        if let Some((_, bytes)) = world.arrivals.pop() {
            let bits: u32 = bytes.iter().zip(&kept.to_vec()).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert!(bits <= 1, "{bits} bits");
            corrupted += u64::from(bits);
        }
    }
    let counted = world.counter("fault_tx_corrupted");
    assert!(likely(counted, MANY, 0.05), "{counted}");
    // 48 of 800 bits are the destination's.
    assert!(corrupted <= counted && likely(corrupted, counted, 752.0 / 800.0), "{corrupted} of {counted}");
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn delay_and_jitter_keep_the_order_and_their_bounds() {
    let (delay, jitter) = (Duration::from_millis(5), Duration::from_millis(3));
    let world = World::with_tx(7, Faults { delay, jitter, ..Faults::default() }).stream(MANY);
    assert_eq!(world.numbers(), (0..MANY).collect::<Vec<_>>());
    let mut sum = 0;
    for (time, bytes) in &world.arrivals {
        let took = time - (number(bytes) + 1) * 10_000;
        assert!((5_000_000..8_000_000).contains(&took), "{took} ns");
        sum += took;
    }
    // Order raises the mean, since nobody passes the slowest: it lies near the upper bound when frames come closely.
    assert!((6_500_000..8_000_000).contains(&(sum / MANY)), "{}", sum / MANY);
    assert_eq!(world.heap.stats().objects_live, 0);
}

#[test]
fn reordered_frames_come_later_once_and_no_later_than_allowed() {
    let reorder_by = Duration::from_millis(2);
    let world = World::with_tx(8, Faults { reorder: 0.1, reorder_by, ..Faults::default() }).stream(MANY);
    let mut numbers = world.numbers();
    let late = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late > 300, "{late}");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MANY).collect::<Vec<_>>());
    assert!(world.arrivals.is_sorted_by_key(|(time, _)| *time));
    assert!(world.arrivals.iter().all(|(time, bytes)| time - (number(bytes) + 1) * 10_000 < 2_000_000));
    let counted = world.counter("fault_tx_reordered");
    assert!(likely(counted, MANY, 0.1), "{counted}");
}

#[test]
fn a_rate_spaces_frames_and_drops_at_the_tail() {
    let faults = Faults { rate: 1_000_000, queue: 20_000, ..Faults::default() };
    let mut world = World::with_tx(9, faults);
    for n in 0..100 {
        world.send(n, 1000);
    }
    world.finish();
    // Twenty wait when the queue is full, and one more may come in behind them.
    assert_eq!(world.numbers(), (0..21).collect::<Vec<_>>());
    assert!(world.arrivals.iter().all(|(time, bytes)| *time == (number(bytes) + 1) * 1_000_000));
    assert_eq!(world.counter("fault_tx_rate_dropped"), 79);
    // When the link is idle again, so is the queue empty.
    world.now += 1_000_000_000;
    world.send(100, 1000);
    world.finish();
    assert_eq!(world.arrivals.last().unwrap().0, world.now);
    assert_eq!(world.heap.stats().objects_live, 0);
}

#[test]
fn picked_frames_are_dropped_and_no_others() {
    let drop = vec![0, 7, 8, 9999, 20_000];
    let world = World::with_tx(10, Faults { drop: drop.clone(), ..Faults::default() }).stream(MANY);
    let expected: Vec<u64> = (0..MANY).filter(|n| !drop.contains(n)).collect();
    assert_eq!(world.numbers(), expected);
    assert_eq!(world.counter("fault_tx_picked"), 4);
}

fn everything() -> Faults {
    Faults {
        drop: vec![3, 1000],
        loss: 0.05,
        duplicate: 0.05,
        corrupt: 0.05,
        rate: 50_000_000,
        delay: Duration::from_micros(700),
        jitter: Duration::from_micros(300),
        reorder: 0.1,
        ..Faults::default()
    }
}

#[test]
fn a_seed_repeats_exactly_and_another_does_not() {
    let run = |seed| World::with_tx(seed, everything()).stream(MANY).arrivals;
    let first = run(11);
    assert!(first == run(11));
    assert!(first != run(12));
}

#[test]
fn what_becomes_of_a_frame_does_not_hang_on_the_others_faults() {
    let lost = |duplicate| {
        let world = World::with_tx(13, Faults { loss: 0.1, duplicate, ..Faults::default() }).stream(1000);
        let numbers = world.numbers();
        (0..1000).filter(|n| !numbers.contains(n)).collect::<Vec<_>>()
    };
    assert_eq!(lost(0.0), lost(0.5));
}

#[test]
fn all_faults_together_neither_leak_nor_stick() {
    let world = World::with_tx(14, everything()).stream(MANY);
    assert!(world.arrivals.is_sorted_by_key(|(time, _)| *time));
    assert_eq!(world.heap.stats().objects_live, 0);
    let mut world = World::with_tx(15, everything());
    (0..1000).for_each(|n| world.send(n, 1000));
    let (heap, held) = (world.heap.clone(), world.us.held());
    assert!(held > 100, "{held}");
    drop(world);
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn received_frames_suffer_the_same() {
    let heap = heap();
    let wire = Wire::new();
    let mut us = wire.plug(US, 1500).unwrap();
    let delay = Duration::from_micros(250);
    let rx = Faults { loss: 0.1, delay, reorder: 0.05, ..Faults::default() };
    let config = FaultConfig { seed: 16, rx, ..FaultConfig::default() };
    let mut them = Fault::new(wire.plug(THEM, 1500).unwrap(), config);
    let (mut now, mut numbers, mut inbox) = (0, Vec::new(), Vec::new());
    let mut step = |them: &mut Fault<Loopback>, now: u64| {
        let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(now) };
        while them.rx_burst(&cx, &mut inbox) > 0 {
            assert!(inbox.len() <= BURST);
            numbers.extend(inbox.drain(..).map(|frame| number(&frame.data.to_vec())));
        }
        assert!(them.arm(&cx), "everything due has been handed out");
    };
    for n in 0..MANY {
        now += 1_000;
        let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(now) };
        us.tx_burst(&cx, &mut VecDeque::from([frame(&heap, n, 100)]));
        assert!(!them.arm(&cx), "a frame has arrived");
        step(&mut them, now);
    }
    while let Some(due) = them.next_deadline() {
        let cx = DeviceCx { heap: &heap, now: due };
        assert!(!them.arm(&cx), "a frame is due");
        step(&mut them, due.as_nanos());
    }
    let lost = MANY - numbers.len() as u64;
    assert!(likely(lost, MANY, 0.1), "{lost}");
    assert!(!numbers.is_sorted());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() as u64, MANY - lost);
    assert_eq!(heap.stats().objects_live, 0);
}

/// A device that takes some frames, and then none until it is given room.
#[derive(Debug)]
pub(in crate::device) struct Narrow {
    pub(in crate::device) inner: Loopback,
    pub(in crate::device) room: usize,
}

impl Queue for Narrow {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        self.inner.rx_burst(cx, inbox)
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let count = outbox.len().min(self.room);
        self.room -= count;
        self.inner.tx_burst(cx, &mut outbox.drain(..count).collect())
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.inner.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.inner.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.inner.counters(visit);
    }
}

#[test]
fn a_device_without_room_holds_frames_back_and_loses_none() {
    let heap = heap();
    let wire = Wire::new();
    let narrow = Narrow { inner: wire.plug(US, 1500).unwrap(), room: 0 };
    let mut us = Fault::new(narrow, FaultConfig::default());
    let mut them = wire.plug(THEM, 1500).unwrap();
    let mut outbox: VecDeque<Frame> = (0..200).map(|n| frame(&heap, n, 100)).collect();
    let (mut now, mut taken, mut inbox) = (0, 0, Vec::new());
    for round in 0.. {
        let cx = DeviceCx { heap: &heap, now: Instant::from_nanos(now) };
        us.device.room = 7;
        taken += us.tx_burst(&cx, &mut outbox);
        assert_eq!(taken, 200 - outbox.len());
        assert!(us.held() <= BURST, "back-pressure reaches the caller");
        while them.rx_burst(&cx, &mut inbox) > 0 {}
        assert_eq!(inbox.len(), (7 * (round + 1)).min(200));
        match us.next_deadline() {
            Some(due) => {
                assert!(due > cx.now, "it is tried again later, not at once");
                now = due.as_nanos();
            }
            None => break,
        }
    }
    let numbers: Vec<u64> = inbox.iter().map(|frame| number(&frame.data.to_vec())).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    drop(inbox);
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn as_many_frames_are_held_as_is_allowed() {
    let faults = Faults { delay: Duration::from_secs(1), held: 50, ..Faults::default() };
    let mut world = World::with_tx(17, faults);
    (0..200).for_each(|n| world.send(n, 100));
    assert_eq!((world.us.held(), world.counter("fault_tx_held_dropped")), (50, 150));
    world.finish();
    assert_eq!(world.numbers(), (0..50).collect::<Vec<_>>());
}

#[test]
fn faults_can_change_on_the_way_and_the_order_holds() {
    let mut world = World::with_tx(18, Faults { delay: Duration::from_millis(5), ..Faults::default() });
    world.send(0, 100);
    world.us.tx_faults().delay = Duration::ZERO;
    world.send(1, 100);
    world.us.tx_faults().loss = 1.0;
    world.send(2, 100);
    world.finish();
    assert_eq!(world.numbers(), [0, 1]);
}

#[test]
fn nonsense_is_survived() {
    let faults = Faults {
        loss: f64::NAN,
        duplicate: -1.0,
        corrupt: 2.0,
        rate: 1,
        queue: usize::MAX,
        delay: Duration::MAX,
        jitter: Duration::MAX,
        reorder: f64::INFINITY,
        reorder_by: Duration::MAX,
        ..Faults::default()
    };
    let mut world = World::with_tx(19, faults);
    (0..100).for_each(|n| world.send(n, 100));
    assert_eq!((world.us.held(), world.counter("fault_tx_corrupted")), (100, 100));
    let empty = Frame { data: Default::default(), checksum: Checksum::Partial { start: 1, at: 0 } };
    world.outbox.push_back(empty);
    world.turn();
}
