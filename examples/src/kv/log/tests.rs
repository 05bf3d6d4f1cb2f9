//! What the log holds, against plain maps: after a crash at any place, after a compaction, after changes were undone.

use std::collections::BTreeMap;

use demi_api::memalloc::HeapConfig;
use demi_api::{Buf, Heap};

use super::super::store::{Expiry, Store};
use super::Journal;
use super::record::Records;

/// Keys with their values and deadlines.
type State = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 32 << 20, ..HeapConfig::default() }).unwrap()
}

fn key(number: u8) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

fn state(store: &mut Store) -> State {
    let keys = (0..30).map(key);
    keys.filter_map(|key| {
        let deadline = store.deadline(&key);
        store.get(&key).map(|value| (key, (value.to_vec(), deadline)))
    })
    .collect()
}

fn replayed(heap: &Heap, elements: &[Buf]) -> State {
    let mut store = Store::new(heap, 24 << 20, 512);
    for element in elements {
        let mut records = Records::of(element).unwrap();
        while let Some(record) = records.next().unwrap() {
            store.replay(element, &record).unwrap();
        }
    }
    state(&mut store)
}

struct World {
    heap: Heap,
    store: Store,
    rng: fastrand::Rng,
    /// Elements that were pushed, how many changes each holds, and the state behind each.
    elements: Vec<Buf>,
    changes: Vec<usize>,
    states: Vec<State>,
}

impl World {
    fn new(seed: u64) -> World {
        let heap = heap();
        let mut store = Store::new(&heap, 24 << 20, 512);
        store.journal = Some(Box::new(Journal::new(&heap).unwrap()));
        let rng = fastrand::Rng::with_seed(seed);
        World { heap, store, rng, elements: Vec::new(), changes: Vec::new(), states: Vec::new() }
    }

    fn change(&mut self) {
        let (store, rng) = (&mut self.store, &mut self.rng);
        let name = key(rng.u8(..30));
        match rng.u8(..20) {
            0..8 => {
                let len = if rng.u8(..8) == 0 { rng.usize(..40_000) } else { rng.usize(..200) };
                let value = self.heap.copy_from(&vec![rng.u8(..); len]).unwrap();
                let expiry = match rng.u8(..3) {
                    0 => Expiry::Never,
                    1 => Expiry::Keep,
                    _ => Expiry::At(rng.u64(1000..2000)),
                };
                store.prepare(name.len(), len, 0, true).unwrap();
                store.set(&name, value, expiry).unwrap();
            }
            8..12 => {
                store.prepare(name.len(), 0, 0, true).unwrap();
                store.set_text(&name, rng.u32(..).to_string().as_bytes(), Expiry::Keep).unwrap();
            }
            12..15 => {
                store.prepare(name.len(), 0, 0, false).unwrap();
                store.remove(&name);
            }
            15..18 => {
                store.prepare(name.len(), 0, 0, false).unwrap();
                store.expire(&name, if rng.bool() { 0 } else { rng.u64(1000..2000) });
            }
            18 => {
                store.prepare(0, 60_000, 5, true).unwrap();
                for number in 0..5 {
                    let value = self.heap.copy_from(&vec![number; rng.usize(..10_000)]).unwrap();
                    store.set(&key(number), value, Expiry::Never).unwrap();
                }
            }
            _ if rng.u8(..4) == 0 => {
                store.prepare(0, 0, 0, false).unwrap();
                store.clear();
            }
            _ => {}
        }
        self.push(false);
    }

    /// Takes elements that are full; with `all`, the one that is being gathered too.
    fn push(&mut self, all: bool) {
        let Some(journal) = &mut self.store.journal else { return };
        if all {
            journal.close();
        }
        while let Some(element) = journal.take() {
            self.changes.push(element.changes);
            self.elements.push(element.array.into_contiguous(&self.heap).unwrap());
        }
        if all {
            // Of elements that were taken at once, only what is behind the last is known.
            self.states.resize_with(self.elements.len(), State::new);
            if let Some(last) = self.states.last_mut() {
                *last = state(&mut self.store);
            }
        }
    }

    fn some_changes(&mut self) {
        for _ in 0..self.rng.u8(1..40) {
            self.change();
        }
        self.push(true);
    }
}

#[test]
fn every_place_of_the_log_holds_the_state_at_that_place() {
    for seed in 0..15 {
        let mut world = World::new(seed);
        let mut places = Vec::new();
        for _ in 0..12 {
            world.some_changes();
            places.extend((!world.elements.is_empty()).then_some(world.elements.len()));
        }
        for place in places {
            let from_log = replayed(&world.heap, &world.elements[..place]);
            assert!(from_log == world.states[place - 1], "seed {seed}, place {place}");
        }
    }
}

#[test]
fn what_is_undone_leaves_no_trace() {
    for seed in 0..15 {
        let mut world = World::new(seed);
        world.some_changes();
        let (place, before) = (world.elements.len(), state(&mut world.store));
        let live = world.store.live();
        for _ in 0..5 {
            world.some_changes();
        }
        let changes = world.changes[place..].iter().sum();
        world.store.undo(changes);
        assert!(state(&mut world.store) == before, "seed {seed}");
        assert_eq!(world.store.live(), live, "seed {seed}");
        assert!(replayed(&world.heap, &world.elements[..place]) == before, "seed {seed}");
        // The rest can be undone as well, down to nothing.
        world.store.undo(world.changes[..place].iter().sum());
        assert_eq!((world.store.len(), world.store.live(), world.store.with_deadline()), (0, 0, 0));
        assert_eq!(world.store.journal.as_ref().unwrap().unsettled(), 0);
    }
}

#[test]
fn a_compacted_log_holds_the_state_too() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.some_changes();
        }
        let first = world.elements.len();
        world.store.journal.as_mut().unwrap().mark();
        let end = world.store.begin_rewrite();
        let mut next = Some(0);
        while let Some(from) = next {
            next = world.store.rewrite(from, end, world.rng.u64(1..3000)).next;
            world.push(true);
            if world.rng.bool() {
                world.some_changes();
            }
        }
        world.some_changes();
        let now = state(&mut world.store);
        assert!(replayed(&world.heap, &world.elements[first..]) == now, "seed {seed}: the head is discarded");
        assert!(replayed(&world.heap, &world.elements) == now, "seed {seed}: a crash before that");
    }
}

#[test]
fn what_one_command_changes_is_in_one_element() {
    let mut world = World::new(1);
    for _ in 0..20 {
        let (keys, len) = (world.rng.usize(2..20), 20_000);
        world.store.prepare(0, keys * (len + 10), keys, true).unwrap();
        world.push(false);
        let before = world.elements.len();
        for number in 0..keys as u8 {
            let value = world.heap.copy_from(&vec![number; len]).unwrap();
            world.store.set(&key(number), value, Expiry::Never).unwrap();
        }
        world.push(true);
        assert_eq!(world.elements.len(), before + 1);
    }
}
