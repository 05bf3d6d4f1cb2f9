use demi_api::memalloc::HeapConfig;

use super::*;

fn heap(mib: usize) -> Heap {
    Heap::new(&HeapConfig { size: mib << 20, ..HeapConfig::default() }).unwrap()
}

/// What a store should be, in the plainest way.
#[derive(Default)]
struct Oracle {
    entries: HashMap<Vec<u8>, (Vec<u8>, Moment)>,
    now: Moment,
}

impl Oracle {
    fn get(&self, key: &[u8]) -> Option<&(Vec<u8>, Moment)> {
        self.entries.get(key).filter(|(_, deadline)| *deadline == 0 || *deadline > self.now)
    }
}

#[test]
fn random_operations_are_those_of_a_plain_map() {
    let heap = heap(8);
    let before = heap.stats().objects_live;
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut store = Store::new(&heap, 6 << 20, 512);
        let mut oracle = Oracle { now: store.now(), ..Oracle::default() };
        let mut uptime = 0;
        for _ in 0..3000 {
            let key = vec![b'k', rng.u8(..20)];
            let live = oracle.get(&key).cloned();
            let later = oracle.now + rng.u64(1..50);
            match rng.u8(..8) {
                0 | 1 => {
                    let value = vec![rng.u8(..); rng.usize(..2000)];
                    let (expiry, deadline) = match rng.u8(..3) {
                        0 => (Expiry::Never, 0),
                        1 => (Expiry::Keep, live.map_or(0, |(_, deadline)| deadline)),
                        _ => (Expiry::At(later), later),
                    };
                    store.set(&key, heap.copy_from(&value).unwrap(), expiry).unwrap();
                    oracle.entries.insert(key, (value, deadline));
                }
                2 => {
                    let text = rng.u32(..).to_string().into_bytes();
                    store.set_text(&key, &text, Expiry::Keep).unwrap();
                    oracle.entries.insert(key, (text, live.map_or(0, |(_, deadline)| deadline)));
                }
                3 => {
                    assert_eq!(store.remove(&key).map(|value| value.to_vec()), live.map(|(value, _)| value));
                    oracle.entries.remove(&key);
                }
                4 => {
                    let deadline = if rng.bool() { 0 } else { later };
                    assert_eq!(store.expire(&key, deadline), live.is_some());
                    if let Some((value, _)) = live {
                        oracle.entries.insert(key, (value, deadline));
                    }
                }
                5 => {
                    uptime += rng.u64(..20);
                    store.tick(uptime + 1);
                    oracle.now = store.now();
                }
                _ => {
                    assert_eq!(store.contains(&key), live.is_some());
                    assert_eq!(store.deadline(&key), live.as_ref().map(|(_, deadline)| *deadline));
                    assert_eq!(
                        store.get(&key).map(|value| value.to_vec()),
                        live.map(|(value, _)| value),
                        "seed {seed}"
                    );
                }
            }
            let deadlines = store.entries.values().filter(|entry| entry.deadline != 0).count();
            assert_eq!(store.with_deadline(), deadlines, "seed {seed}");
        }
        store.clear();
        assert_eq!(heap.stats().objects_live, before, "seed {seed}");
    }
}

#[test]
fn the_sweep_is_bounded_and_goes_on() {
    let mut store = Store::new(&heap(4), 2 << 20, 512);
    for key in 0..1000_u32 {
        store.set_text(&key.to_le_bytes(), b"v", Expiry::At(100)).unwrap();
    }
    assert_eq!(store.until_expiry(), Some(Duration::from_millis(99)));
    store.tick(99);
    assert_eq!(store.len(), 1000);
    for round in 1..=1000 / SWEEP {
        store.tick(100);
        assert_eq!(store.len(), 1000 - round * SWEEP);
        assert_eq!(store.until_expiry(), Some(Duration::ZERO));
        assert!(!store.contains(&999_u32.to_le_bytes()));
    }
    store.tick(100);
    assert_eq!((store.len(), store.until_expiry()), (0, None));
}

#[test]
fn writing_over_a_key_does_not_use_up_the_memory() {
    let heap = heap(8);
    let mut store = Store::new(&heap, 4 << 20, 512);
    for _ in 0..5000 {
        // As received: a value in a buffer much larger than itself.
        let mut received = heap.alloc(16 << 10).unwrap().freeze();
        store.set(b"key", received.split_to(1000), Expiry::Never).unwrap();
    }
    assert_eq!((store.counts.kept_in_place, store.counts.copied), (5000, 0));
}

#[test]
fn values_are_copied_out_of_their_buffers_when_memory_gets_scarce() {
    let heap = heap(8);
    let mut store = Store::new(&heap, 4 << 20, 512);
    let mut stored = 0_u32;
    loop {
        let mut received = heap.alloc(16 << 10).unwrap().freeze();
        if store.set(&stored.to_le_bytes(), received.split_to(1000), Expiry::Never).is_err() {
            break;
        }
        stored += 1;
    }
    assert!(store.counts.kept_in_place > 100, "{:?}", store.counts);
    // In place, 4 MiB hold 256 of them.
    assert!(stored > 1500, "only {stored} values fit: {:?}", store.counts);
    store.remove(&1_u32.to_le_bytes()).unwrap();
    store.set(b"one", heap.copy_from(b"more").unwrap(), Expiry::Never).unwrap();
}
