//! After the start there is no system call and no page fault: over a million operations, of every kind there is.

#[cfg(not(miri))]
mod sys;

use demi_memalloc::{Buf, Heap, HeapConfig, Pool};

#[cfg(not(miri))]
const OPERATIONS: usize = 1_000_000;
const PLACES: usize = 512;

/// Allocates, writes, clones, slices, pools and releases, in buffers that are all made before.
struct Load {
    heap: Heap,
    pool: Pool,
    places: Vec<Buf>,
    rng: fastrand::Rng,
}

impl Load {
    fn new() -> Self {
        let heap = Heap::new(&HeapConfig { size: 64 << 20, ..HeapConfig::default() }).unwrap();
        let pool = heap.pool(2048, 256).unwrap();
        Self { heap, pool, places: vec![Buf::empty(); PLACES], rng: fastrand::Rng::with_seed(1) }
    }

    fn run(&mut self, operations: usize) {
        for _ in 0..operations {
            let (from, to) = (self.rng.usize(..PLACES), self.rng.usize(..PLACES));
            self.places[to] = match self.rng.u32(..100) {
                // Debug builds poison all of an object: large ones are rarer there, for the sake of time.
                0..30 => self.alloc(256),
                30..50 => self.alloc(2048),
                50..52 => self.alloc(64 << 10),
                52 if self.rng.u32(..100) == 0 => self.alloc(1 << 20),
                52..70 => self.pool.take().map_or_else(Buf::empty, |buf| buf.freeze()),
                70..80 => self.places[from].clone(),
                80..90 => self.places[from].slice(self.places[from].len() / 2..),
                _ => Buf::empty(),
            };
        }
    }

    fn alloc(&mut self, most: usize) -> Buf {
        let Ok(mut buf) = self.heap.alloc(self.rng.usize(..=most)) else { return Buf::empty() };
        if let Some(last) = buf.last_mut() {
            *last = 1;
        }
        buf.freeze()
    }
}

/// One test, in this order: a fork leaves pages that are copied when they are written to, which is a page fault.
#[test]
#[cfg(not(miri))]
fn no_page_fault_and_no_system_call() {
    let mut load = Load::new();
    load.run(1000);
    let before = sys::page_faults();
    load.run(OPERATIONS);
    assert_eq!(sys::page_faults(), before);
    load.places.fill_with(Buf::empty);
    assert_eq!(load.heap.stats().bytes_live, 0);

    assert!(sys::makes_no_system_call(|| load.run(OPERATIONS)));
    assert!(!sys::makes_no_system_call(|| drop(std::fs::metadata("/"))), "the test itself works");
}

#[test]
fn the_load_is_a_load() {
    let mut load = Load::new();
    load.run(if cfg!(miri) { 500 } else { 50_000 });
    let stats = load.heap.stats();
    assert!(stats.bytes_high_water > 0 && stats.pools.high_water > 0);
    load.places.clear();
    assert_eq!((load.heap.stats().bytes_live, load.pool.available()), (0, 256));
}
