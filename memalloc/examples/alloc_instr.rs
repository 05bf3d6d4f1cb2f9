//! Allocates and releases, and nothing else: run under callgrind with two counts of pairs, the difference in
//! instructions over the difference in pairs is what a pair costs.
//!
//! `alloc_instr --size BYTES --pairs COUNT [--live COUNT]`, where `live` objects (0 by default) are held meanwhile, so
//! that a pair need not empty its superblock.

use demi_memalloc::{Heap, HeapConfig, OutOfMemory};
use std::hint::black_box;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut size, mut pairs, mut live) = (64, 1_000_000, 0);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value: usize = args.next().ok_or("each option takes a number")?.parse()?;
        match name.as_str() {
            "--size" => size = value,
            "--pairs" => pairs = value,
            "--live" => live = value,
            _ => return Err(format!("unknown option {name}: --size, --pairs or --live").into()),
        }
    }
    let heap = Heap::new(&HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() })?;
    let _held: Vec<_> = (0..live).map(|_| heap.alloc(size)).collect::<Result<_, _>>()?;
    run(&heap, size, pairs)?;
    println!("{pairs} pairs of {size} B, {live} live, pages: {:?}", heap.stats().pages);
    Ok(())
}

/// Every pair has to find its class and build its buffer anew: the optimiser is told nothing of either.
#[inline(never)]
fn run(heap: &Heap, size: usize, pairs: usize) -> Result<(), OutOfMemory> {
    for _ in 0..pairs {
        let buf = heap.alloc(black_box(size));
        if black_box(&buf).is_err() {
            return buf.map(drop);
        }
    }
    Ok(())
}
