//! # The C interface
//!
//! Programs in C name Demi's calls by fixed symbols, `demi_push`, `demi_wait`, …, and choose the libOS with the linker:
//! `-ldemi_catnap` or `-ldemi_catnip`. So the bodies are here once, generic over the libOS, and a leaf crate per
//! library has but one line, which emits the symbols and the instance of each thread:
//!
//! ```text
//! demi_c::export!(demi_libos_catnap::Catnap);
//! ```
//!
//! Principles:
//!
//! - **All that comes from C is an allegation.** Pointers, lengths, descriptors, tokens and arrays are checked where they
//!   come in, and what does not hold is a positive errno. Arrays are named by handles with a generation, so one that is
//!   freed twice, or is another thread's, is told from one that is not; and only memory that the program has in hand
//!   may be pushed.
//! - **A panic never crosses.** It becomes `ENOTRECOVERABLE`, as does every later call of the thread.
//! - **One instance per thread.** It is made by `demi_init` and goes with the thread.
//!
//! | module | what it is |
//! |---|---|
//! | [`types`] | the structures of `demi/types.h` |
//! | [`raw`] | pointers of C: checked, then turned into references; the bodies' first halves; closures |
//! | [`instance`] | the instance of a thread, and how a call enters it |
//! | [`memory`] | arrays and objects that the program has in hand |
//! | `sockets`, `transfer`, `results`, `operators`, `storage`, `options` | the bodies' second halves, by subject |
//! | [`errno`], [`addr`], [`config`] | translation |
//! | `watch` | the detector of writes to what is in flight |
//!
//! The calls themselves are described in `docs/man`, and the headers are in `shims/include`.
#![deny(unsafe_code)]

pub mod addr;
pub mod config;
pub mod errno;
mod export;
pub mod instance;
pub mod memory;
mod operators;
mod options;
#[allow(unsafe_code, reason = "each block states its proof")]
pub mod raw;
mod results;
mod sockets;
mod storage;
mod transfer;
pub mod types;
mod watch;

pub use self::instance::Instance;
pub use self::raw::{First, Here, Slot, Thread};

/// What the symbols' signatures are written in.
#[doc(hidden)]
pub mod prelude {
    pub use std::ffi::{c_char as Char, c_int as Int, c_void as Void};

    pub use libc::{sockaddr, socklen_t, timespec};

    pub use crate::raw::{ChangeFn, CompareFn, PredicateFn};
    pub use crate::types::{Args, Array, Callback, Codec, QResult};
}
