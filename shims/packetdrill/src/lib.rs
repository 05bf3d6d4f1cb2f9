//! # Catnip under packetdrill
//!
//! `libdemi_packetdrill.so` is what packetdrill's `--so_filename` names: it exports `packetdrill_interface_init`, which
//! fills a table of socket calls, of the two ends of a network device that carries raw IP packets, and of a clock. Behind
//! them is one instance of catnip on a wire in memory.
//!
//! Principles:
//!
//! - **One lock around everything.** packetdrill makes calls that block in a thread of their own. An instance belongs to
//!   one thread at a time: the one that holds the lock. Nobody sleeps holding it.
//! - **Descriptors are the kernel's.** packetdrill closes what a script leaves open by the system's own `close`, so each
//!   socket has a descriptor that the kernel knows, and is found by it.
//! - **Time may be virtual.** packetdrill takes the time from here and sleeps here, so that the clock can stand still
//!   while anything is left to do, and jump to what comes next otherwise: a script then takes no longer than its
//!   computations, and does the same every time.
//! - **Nothing on the wire is changed but its looks.** TCP options are put into the order in which Linux has them, as
//!   scripts compare them in order and the order means nothing.
//!
//! | module | what it is |
//! |---|---|
//! | [`raw`] | the table; pointers of C, turned into references |
//! | `flags` | what `--so_flags` says |
//! | `shared` | the lock; waiting, in real and in virtual time |
//! | `stack` | the instance, its sockets by descriptor, and what completes |
//! | `sockets`, `transfer`, `options`, `ready` | the calls, by subject |
//! | `link` | the other end of the wire: Ethernet headers, neighbours |
//! | `looks` | the order of TCP options |
//!
//! `docs/packetdrill.md` says how to use it.
#![deny(unsafe_code)]

mod flags;
mod link;
mod looks;
mod options;
#[allow(unsafe_code, reason = "each block states its proof")]
pub mod raw;
mod ready;
mod shared;
mod sockets;
mod stack;
mod transfer;
