//! Every system call of this crate, and the only place where errno values exist.
//!
//! Calls go to the kernel directly (rustix's `linux_raw` backend, or `syscall`), never through the C
//! library's symbols for sockets and files: a preload shim that replaces those may have this crate below it.
//! The one exception is the set-up and removal of the io_uring mapping, which `io-uring` does with `mmap`.
//! `EINTR` is retried here and seen nowhere else; "would block" is `Ok(None)`.

pub(crate) mod addr;
pub(crate) mod epoll;
pub(crate) mod file;
pub(crate) mod options;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
pub(crate) mod socket;

use demi_api::error::Error;
pub(crate) use demi_api::fd::Fd;
pub(crate) use raw::{Finished, Gather, Held, Ring, run_now};
use rustix::io::{self, Errno};

/// The outcome of a call that may be too early: `Ok(None)` means that it would have blocked.
pub(crate) type Attempt<T> = Result<Option<T>, Error>;

#[inline]
fn attempt<T>(mut call: impl FnMut() -> io::Result<T>) -> Attempt<T> {
    loop {
        match call() {
            Ok(value) => return Ok(Some(value)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(translate(errno)),
        }
    }
}

fn call<T>(call: impl FnMut() -> io::Result<T>) -> Result<T, Error> {
    io::retry_on_intr(call).map_err(translate)
}

#[cold]
fn translate(errno: Errno) -> Error {
    match errno {
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied,
        Errno::ADDRINUSE => Error::AddressInUse,
        Errno::ADDRNOTAVAIL => Error::AddressNotAvailable,
        Errno::AFNOSUPPORT => Error::BadAddress,
        Errno::DESTADDRREQ | Errno::NOTCONN => Error::NotConnected,
        Errno::ISCONN | Errno::ALREADY => Error::AlreadyConnected,
        Errno::CONNREFUSED => Error::ConnectionRefused,
        Errno::CONNRESET => Error::ConnectionReset,
        Errno::CONNABORTED => Error::ConnectionAborted,
        Errno::PIPE => Error::Closed,
        Errno::TIMEDOUT => Error::TimedOut,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => Error::Unreachable,
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        Errno::NOMEM | Errno::NOBUFS => Error::NoBuffers,
        Errno::NOENT | Errno::NOTDIR => Error::NotFound,
        Errno::EXIST => Error::Exists,
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace,
        Errno::ROFS => Error::ReadOnly,
        Errno::IO => Error::Io,
        Errno::ISDIR => Error::Invalid("the path names a directory"),
        Errno::NXIO => Error::Invalid("the path names a device, pipe or socket"),
        Errno::LOOP | Errno::NAMETOOLONG => Error::Invalid("the path is too long or loops"),
        Errno::PROTOTYPE => Error::Invalid("the socket at that path is of another kind"),
        Errno::OPNOTSUPP | Errno::NOPROTOOPT => {
            Error::NotSupported("refused by the system for this socket or file")
        }
        Errno::INVAL | Errno::DOM => Error::Invalid("refused by the system"),
        other => Error::System(other.raw_os_error()),
    }
}
