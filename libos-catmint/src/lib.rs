//! The RDMA libOS: messages over reliable connections, with one queue pair for each pair of instances.
//!
//! A pushed array pops as exactly that array, whatever its size. Small ones go inside the message, longer ones from where they
//! lie, the longest are read by the peer out of the pusher's memory. Connections share the queue pair and do not hold up
//! each other; whoever pushes more than the other side takes finds its pushes pending.
//!
//! | module | what it is |
//! |---|---|
//! | `catmint` | the libOS: descriptors, one turn |
//! | `sockets` | listeners and connections |
//! | `peers` | other instances: a queue pair each, receives and credits |
//! | `regions` | one-sided queues: on regions of memory, this instance's and others' |
//! | [`wire`] | what instances say to each other |
//! | [`device`] | the seam to RDMA devices, and [a model of perfect ones](device::ideal) |
//!
//! ```
//! use demi_api::{Config, Demikernel, Domain, SocketKind};
//! use demi_libos_catmint::Catmint;
//!
//! // Without a device an instance can talk to itself.
//! let demi = Demikernel::<Catmint>::new(&Config::default())?;
//! let listener = demi.socket(Domain::Inet, SocketKind::Stream)?;
//! demi.bind(listener, "127.0.0.1:7".parse::<demi_api::Addr>()?)?;
//! demi.listen(listener, 8)?;
//! let accept = demi.accept(listener)?;
//! let near = demi.socket(Domain::Inet, SocketKind::Stream)?;
//! let connect = demi.connect(near, "127.0.0.1:7".parse::<demi_api::Addr>()?)?;
//! demi.wait(connect, None)?.result?;
//! let (far, _) = demi.wait(accept, None)?.accepted()?;
//! let push = demi.push(near, demi.copy_from(b"a message")?)?;
//! demi.wait(push, None)?.pushed()?;
//! let popped = demi.wait(demi.pop(far)?, None)?.popped()?;
//! assert_eq!(popped.to_vec(), b"a message");
//! # Ok::<(), demi_api::error::Error>(())
//! ```
//!
//! # Regions
//!
//! A region is memory outside the heap that an instance exports by a name, and whoever reaches one of its addresses may open. Its
//! processor takes no part in what others do with it. `open("rdma:///NAME?size=BYTES")` with `create` makes one; `access=r` lets others only
//! read it, and an address and a port before the name have the instance listen there. `open("rdma://ADDRESS:PORT/NAME")` opens
//! another's, where that listens, for connections or for a region. Whether it is there the first operation says, or a flush.
//!
//! A push writes at the cursor, and is done when the other's device has it; a pop reads there, 64 KiB unless it says how many bytes, and at
//! the end of the region none; both move it. Atomic operations change words. What is asked of a queue takes effect in that order; between queues there is
//! no order, and only words change as a whole. Hardware does all this by itself; `soft` does it in the turns of the exporting instance, which
//! therefore must wait for something, or poll. When its last queue here is closed the region is taken from everybody:
//! what others ask of it then fails as [`Revoked`](demi_api::Error::Revoked).
//!
//! ```
//! use demi_api::{Config, Demikernel, OpenOptions, Position, SeekTo};
//! use demi_libos_catmint::Catmint;
//!
//! let demi = Demikernel::<Catmint>::new(&Config::default())?;
//! let create = OpenOptions { create: true, ..OpenOptions::default() };
//! let here = demi.open("rdma://127.0.0.1:7000/board?size=4096", &create)?;
//! // As any other instance would.
//! let there = demi.open("rdma://127.0.0.1:7000/board", &OpenOptions::default())?;
//!
//! // The first word counts. The processor of whoever exports the region has no part in it.
//! let ticket = demi.fetch_and_add(there, Position(0), 1)?;
//! assert_eq!(demi.wait(ticket, None)?.fetched()?, 0);
//!
//! demi.seek(there, SeekTo::Position(Position(64)))?;
//! let push = demi.push(there, demi.copy_from(b"a note")?)?;
//! demi.wait(push, None)?.pushed()?;
//! demi.seek(here, SeekTo::Position(Position(64)))?;
//! let note = demi.wait(demi.pop_n(here, 6)?, None)?.popped()?;
//! assert_eq!(note.to_vec(), b"a note");
//!
//! demi.close(here)?;
//! let late = demi.wait(demi.pop(there)?, None)?.popped();
//! assert_eq!(late.unwrap_err(), demi_api::Error::Revoked);
//! # Ok::<(), demi_api::error::Error>(())
//! ```
#![deny(unsafe_code)]

mod catmint;
mod config;
mod counters;
mod deadlines;
pub mod device;
mod peers;
mod regions;
mod sockets;
pub mod soft;
#[cfg(feature = "verbs")]
pub mod verbs;
pub mod wire;

pub use self::catmint::Catmint;
pub use self::config::{CatmintSection, DeviceChoice};
