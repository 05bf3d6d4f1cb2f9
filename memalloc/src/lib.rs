//! # The memory of a library OS: buffers that devices read and write where they lie
//!
//! One region of memory per instance, resident and registered with every device from the start, and a heap in it whose
//! buffers are counted: a buffer may be *freed* while a device still reads it, for the memory goes only with the last
//! reference (free-protection), and it cannot be *written* meanwhile, for a shared buffer is read-only.
//!
//! ```
//! use demi_memalloc::{Heap, HeapConfig};
//!
//! let heap = Heap::new(&HeapConfig { size: 4 << 20, ..HeapConfig::default() })?;
//!
//! let mut buf = heap.alloc(1500)?;            // unique: it can be written
//! buf[..5].copy_from_slice(b"hello");
//! buf.truncate(5);
//!
//! let message = buf.freeze();                 // shared: it can be cloned, sliced and pushed, not written
//! let in_flight = message.slice(1..);
//! drop(message);                              // free-protection: the slice keeps the bytes
//! assert_eq!(&in_flight[..], b"ello");
//!
//! let found = heap.find(in_flight.as_ptr()).expect("any address in it finds the object");
//! assert_eq!(found.capacity, 1536);
//!
//! drop(in_flight);
//! assert_eq!(heap.stats().bytes_live, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## Principles
//!
//! - **Nothing after the start.** Memory is mapped, made resident and locked by [`Heap::new`]. Allocating and releasing
//!   then make no system call and cause no page fault, and what they cost does not depend on what is allocated.
//! - **Metadata where no device reaches.** Counts and free lists lie in tables beside the region, so a stray DMA write
//!   spoils bytes, never the heap. Any address in an object finds it in constant time.
//! - **One thread, no atomics.** A heap and its buffers stay on their thread, as the type system sees to. What has to
//!   cross becomes a [`RemoteBuf`], and comes home through a lock-free list.
//! - **Running out is a value.** [`OutOfMemory`] changes nothing; the account ([`HeapStats`]) is exact at all times.
//! - **Debug builds poison** what is free, and panic when it was written to, naming the byte.
//!
//! ## Layers, from below
//!
//! | module | what it is |
//! |---|---|
//! | `region` | a mapping: huge pages where they can be had, resident, locked |
//! | `class` | the size classes |
//! | `superblock` | the region in pieces of 256 KiB, and the tables that say what is in them |
//! | `heap` | [`Heap`]: taking and putting back objects, large ones, pools, registration with devices ([`DmaMap`]) |
//! | `buf` | [`Buf`], [`BufMut`], [`Pool`], [`RemoteBuf`] |

mod buf;
mod class;
mod config;
mod error;
mod heap;
mod region;
mod superblock;

pub use buf::{Buf, BufMut, Pool, RemoteBuf};
pub use class::CLASSES;
pub use config::{HeapConfig, HugePages};
pub use error::{DmaError, HeapError, OutOfMemory};
pub use heap::{BinStats, DmaKey, DmaMap, Heap, HeapStats, MAX_DMA_MAPS, MapId, Object};
pub use region::{Pages, RegionInfo};
