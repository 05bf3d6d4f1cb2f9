//! One API of queue descriptors over interchangeable libOSes.
//!
//! An application starts operations on queues and waits for their tokens; whatever stands behind a queue
//! (kernel sockets, a user-space TCP stack, RDMA, a log on a disk, another queue) is chosen where the
//! application names its libOS, and nowhere else:
//!
//! ```
//! use demi_api::{Demikernel, Error, LibOs};
//!
//! fn double<L: LibOs>(demi: &Demikernel<L>) -> Result<Vec<u8>, Error> {
//!     let numbers = demi.queue()?;
//!     let doubled = demi.map(numbers, |heap, sga| {
//!         let bytes: Vec<u8> = sga.to_vec().iter().map(|byte| byte * 2).collect();
//!         Ok(heap.copy_from(&bytes)?.into())
//!     }, |_, sga| Ok(sga))?;
//!     let push = demi.push(doubled, demi.copy_from(&[1, 2, 3])?)?;
//!     demi.wait(push, None)?.pushed()?;
//!     let pop = demi.pop(doubled)?;
//!     Ok(demi.wait(pop, None)?.popped()?.to_vec())
//! }
//! ```
//!
//! Principles: one way down (`push`, `pop`, …, each naming a queue), one way up (a completion, posted once
//! under its token). No upward callbacks, no future inside a protocol, no allocation and no copy on the way.
//! State is owned by the libOS and named by descriptors.
//!
//! In the order in which an operation meets them:
//!
//! - [`instance`]: [`Demikernel`], the handle with every call
//! - [`sga`], [`addr`], [`desc`], [`token`], [`op`], [`error`]: what the calls take and give
//! - [`graph`]: queues made of queues
//! - [`libos`]: the [`LibOs`] trait, behind which protocols and devices lie; [`pair`]: two of them as one
//! - [`wait`]: the one wait loop; [`waitset`]: tokens registered once
//! - [`aio`]: futures, tasks, streams and sinks
//! - [`tcp_info`]: figures of a connection
//! - [`config`], [`time`]; [`slab`], [`fd`], for libOSes
//!
//! Not in here: any device, any protocol.
#![deny(unsafe_code)]

pub mod addr;
pub mod aio;
pub mod config;
pub mod desc;
pub mod error;
pub mod fd;
pub mod graph;
pub mod instance;
pub mod libos;
pub mod op;
pub mod pair;
pub mod sga;
pub mod slab;
mod sys;
pub mod tcp_info;
pub mod time;
pub mod token;
pub mod wait;
pub mod waitset;

pub use demi_memalloc as memalloc;
pub use demi_memalloc::{Buf, BufMut, Heap};

pub use self::addr::{Addr, Domain, SocketKind};
pub use self::config::Config;
pub use self::desc::QDesc;
pub use self::error::Error;
pub use self::graph::frame::{self, Codec, Endian};
pub use self::instance::{Counters, Demikernel, Interrupter};
pub use self::libos::{LibOs, OpenOptions, OptionName, QueueKind, SeekTo, Shutdown, SocketOption};
pub use self::op::{Atomic, Completion, Done, Position, Refused};
pub use self::pair::Pair;
pub use self::sga::SgArray;
pub use self::tcp_info::TcpInfo;
pub use self::token::QToken;
pub use self::wait::Arrived;
pub use self::waitset::WaitSet;
