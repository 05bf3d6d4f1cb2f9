//! Allocation and release: the heap beside the system's malloc.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use demi_api::memalloc::{Heap, HeapConfig};
use serde_json::json;

use crate::cpu;

/// Objects that live meanwhile, so that a pair need not open and close a superblock, or malloc its arena.
const LIVE: usize = 16;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes per object
    #[arg(long)]
    size: usize,
    /// Pairs per slice
    #[arg(long, default_value_t = 200_000)]
    pairs: u64,
    /// Slices of each
    #[arg(long, default_value_t = 20)]
    alternations: u32,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
}

#[derive(clap::Args)]
pub(crate) struct PairsArgs {
    #[arg(long, value_enum)]
    subject: Allocator,
    /// Bytes per object
    #[arg(long)]
    size: usize,
    /// Pairs of allocation and release
    #[arg(long)]
    pairs: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Allocator {
    /// The C library's, by way of `Vec`.
    Malloc,
    /// The heap of an instance.
    Memalloc,
}

/// Takes turns between the two within milliseconds, in alternating order.
pub(crate) fn compare(args: &Args) -> Result<()> {
    ensure!(args.pairs > 0, "--pairs must be at least 1");
    cpu::pin(args.core)?;
    let heap = heap()?;
    let _live = hold(&heap, args.size)?;
    let time_malloc = || {
        let begin = Instant::now();
        malloc_pairs(args.size, args.pairs);
        begin.elapsed().as_nanos() as f64 / args.pairs as f64
    };
    let time_heap = || -> Result<f64> {
        let begin = Instant::now();
        heap_pairs(&heap, args.size, args.pairs)?;
        Ok(begin.elapsed().as_nanos() as f64 / args.pairs as f64)
    };
    time_malloc();
    time_heap()?;
    for turn in 0..args.alternations {
        let (malloc, ours) = if turn % 2 == 0 {
            let malloc = time_malloc();
            (malloc, time_heap()?)
        } else {
            let ours = time_heap()?;
            (time_malloc(), ours)
        };
        println!("{}", json!({ "malloc_ns": malloc, "memalloc_ns": ours }));
    }
    Ok(())
}

pub(crate) fn pairs(args: &PairsArgs) -> Result<()> {
    let heap = heap()?;
    let _live = hold(&heap, args.size)?;
    match args.subject {
        Allocator::Malloc => malloc_pairs(args.size, args.pairs),
        Allocator::Memalloc => heap_pairs(&heap, args.size, args.pairs)?,
    }
    println!("{}", json!({ "pairs": args.pairs }));
    Ok(())
}

fn heap() -> Result<Heap> {
    Ok(Heap::new(&HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() })?)
}

fn hold(heap: &Heap, size: usize) -> Result<impl Sized> {
    let ours = (0..LIVE).map(|_| heap.alloc(size)).collect::<Result<Vec<_>, _>>()?;
    let theirs: Vec<_> = (0..LIVE).map(|_| Vec::<u8>::with_capacity(size)).collect();
    Ok((ours, theirs))
}

#[inline(never)]
fn malloc_pairs(size: usize, pairs: u64) {
    for _ in 0..pairs {
        drop(black_box(Vec::<u8>::with_capacity(black_box(size))));
    }
}

#[inline(never)]
fn heap_pairs(heap: &Heap, size: usize, pairs: u64) -> Result<()> {
    for _ in 0..pairs {
        drop(black_box(heap.alloc(black_box(size))?));
    }
    Ok(())
}
