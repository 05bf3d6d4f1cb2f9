//! `LD_PRELOAD=libdemi_preload_catnip.so program`: the program's sockets are queues of catnip, a stack of its own; the kernel's sockets only hold numbers and options.
//!
//! Everything is in `demi-preload`; this names the libOS and exports the symbols.
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
