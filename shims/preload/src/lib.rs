//! Runs unmodified programs on a libOS: what the libraries are made of that are preloaded before the C library.
//!
//! A leaf crate for each libOS (`shims/preload-catnap`, `shims/preload-catnip`) names its [`Carrier`] and exports the
//! symbols with [`export!`]; nothing else does, so that no test and no tool is its own victim.
//!
//! - **Every socket is one of the kernel's too.** The program's descriptor names it; so numbers never collide, and
//!   `dup`, `fcntl` and mixed sets keep meaning. A table says whose each descriptor is; what is not in it costs one
//!   load, and goes to the C library's own function untouched.
//! - **One instance for each process**, made when something first needs it, behind one lock. No buffer of its
//!   heap leaves the lock, and nobody sleeps holding it.
//! - **As late as possible.** A socket becomes a queue when it is first read, written or asked for readiness, in the process
//!   that does so.
//!
//! | module | what it holds |
//! |---|---|
//! | [`shim`] | the lock, the way in and out, forks, the end |
//! | `c`, `export` | the symbols; what C passes in made into slices |
//! | `calls` | what each call means to a program: what blocks, what a signal ends |
//! | `state` | sockets, epoll sets, results and who is told of them |
//! | `wait`, `guard` | spinning and sleeping; the thread that stands in for a program that computes |
//! | `table`, `local` | what each descriptor, and each thread, has |
//! | [`config`] | `[preload]` |
//! | [`carrier`] | what a libOS makes of a socket |
//! | `raw`, `sys`, `errno` | pointers, the kernel, numbers |
//!
//! `docs/preload.md` is the user's view.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "each block states its proof")]
mod c;
mod calls;
pub mod carrier;
pub mod config;
mod errno;
mod export;
mod guard;
mod local;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
pub mod shim;
mod state;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
mod table;
mod wait;

pub use libc;

pub use self::carrier::Carrier;
pub use self::config::PreloadSection;
pub use self::export::fits;
pub use self::shim::Shim;
