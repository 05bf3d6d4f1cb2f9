//! Descriptors of the operating system, closed past the C library.
//!
//! A preload shim puts an instance below a program that knows nothing of it, by replacing the C library's `close`, `read`
//! and their like. `OwnedFd` closes through that symbol: from inside the instance it would come back to the shim, in the
//! middle of a call, with a number that the shim may take for one of the program's. So whatever an instance or a
//! libOS opens for itself it keeps in an [`Fd`], and reads and writes it by system calls of its own (as rustix makes
//! them).

#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;

pub use self::raw::Fd;
