//! The POSIX libOS: sockets and files of the kernel behind the API of queue descriptors, on every machine and
//! without privileges.
//!
//! It bypasses nothing, so its aim is to add nothing:
//!
//! - **Try first.** An operation is one system call when the kernel can serve it at once, and is then done.
//!   Only what would block waits, in a queue of its socket, for the kernel to say that it is worth another try;
//!   and pushes that follow another before the application has taken a result, which share a call in the next turn.
//! - **Spin on the few, ask about the many.** The queues that were active last are tried directly on every
//!   turn; all others stand in one edge-triggered epoll set, where they cost nothing while nothing happens.
//! - **Copy little, hold little.** A small receive is copied to its size out of a buffer that stays; a large
//!   one is handed out in the buffer it came in.
//! - **Nothing is half done.** Pushes complete in order, each when the kernel has all of it, and go on after
//!   `close` for as long as linger allows; a TCP stream that cannot be finished is aborted, never
//!   ended early (a UNIX stream cannot be aborted: its peer sees an end).
//!
//! | module | what it holds |
//! |---|---|
//! | `catnap` | [`Catnap`], the implementation of `LibOs`: which queue is whose |
//! | `config` | [`CatnapSection`], the keys of `[catnap]` |
//! | `net` | sockets: streams, datagrams, listeners, and the turn that keeps them going |
//! | `files` | regular files over io_uring |
//! | `readiness` | the spin set and the epoll set, and why no wake-up is lost between them |
//! | `receive` | the buffers that the kernel receives into |
//! | `deadlines`, `counters` | times and counts |
//! | `sys` | every system call |
//!
//! Sockets are TCP, UDP, UNIX stream and UNIX datagram. On a stream a popped array without bytes is the end;
//! after a reset every pop fails with `ConnectionReset`. A datagram comes whole, with its sender. A file's
//! push completes when its bytes are written, or durable if it was opened so, with their offset; its pop
//! reads at the cursor, and yields no bytes at the end of the file. A file queue appends where the file ends
//! when the write begins: it is no protection against another process that appends at that moment.
//!
//! ```
//! use demi_api::addr::{Addr, Domain, SocketKind};
//! use demi_api::config::Config;
//! use demi_api::instance::Demikernel;
//! use demi_libos_catnap::Catnap;
//!
//! let demi = Demikernel::<Catnap>::new(&Config::parse("[heap]\nsize_mib = 4\n", "")?)?;
//! let server = demi.socket(Domain::Inet, SocketKind::Datagram)?;
//! demi.bind(server, "127.0.0.1:0".parse::<Addr>()?)?;
//!
//! let client = demi.socket(Domain::Inet, SocketKind::Datagram)?;
//! let greeting = demi.copy_from(b"hello")?;
//! let pushed = demi.push_to(client, greeting, demi.local_addr(server)?)?;
//! demi.wait(pushed, None)?.pushed()?;
//!
//! let popped = demi.pop(server)?;
//! let element = demi.wait(popped, None)?.popped()?;
//! assert_eq!(element.to_vec(), b"hello");
//! # Ok::<(), demi_api::error::Error>(())
//! ```
#![deny(unsafe_code)]

mod catnap;
mod config;
mod counters;
mod deadlines;
mod files;
mod net;
mod readiness;
mod receive;
mod sys;

pub use catnap::Catnap;
pub use config::CatnapSection;
