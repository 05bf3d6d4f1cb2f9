//! `LD_PRELOAD=libdemi_preload_catnap.so program`: the program's sockets are queues of catnap, the kernel's sockets, which stay what they are.
//!
//! Everything is in `demi-preload`; this names the libOS and exports the symbols.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
