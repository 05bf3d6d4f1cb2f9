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
#![deny(unsafe_code)]

mod catmint;
mod config;
mod counters;
mod deadlines;
pub mod device;
mod peers;
mod sockets;
pub mod soft;
pub mod wire;

pub use self::catmint::Catmint;
pub use self::config::{CatmintSection, DeviceChoice};
