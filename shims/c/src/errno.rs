//! What a call of C returns: zero, or a positive errno.

use std::ffi::c_int;

use demi_api::Error;

/// A positive errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub c_int);

/// Every error of the API as an errno. `docs/man/demi.3` has the same table for its readers; a test compares them, and
/// sees that no error is missing here.
impl From<&Error> for Errno {
    #[cold]
    fn from(error: &Error) -> Errno {
        Errno(match error {
            Error::BadDescriptor => libc::EBADF,
            Error::BadToken => libc::EINVAL,
            Error::DuplicateToken => libc::EINVAL,
            Error::Cancelled => libc::ECANCELED,
            Error::NotCancellable => libc::EALREADY,
            Error::TimedOut => libc::ETIMEDOUT,
            Error::Interrupted => libc::EINTR,
            Error::NothingOutstanding => libc::ECHILD,
            Error::Reentrant => libc::EDEADLK,
            Error::Claimed => libc::EBUSY,
            Error::NeedsMessages => libc::EPROTOTYPE,
            Error::NeedsStream => libc::EPROTOTYPE,
            Error::EndOfStream => libc::ENODATA,
            Error::Truncated => libc::EPROTO,
            Error::BadFrame(_) => libc::EBADMSG,
            Error::TooLarge { .. } => libc::EMSGSIZE,
            Error::TooManySegments => libc::E2BIG,
            Error::Rejected => libc::EPERM,
            Error::Branch { cause, .. } => return Errno::from(&**cause),
            Error::TooManyTokens(_) => libc::EAGAIN,
            Error::TooManyQueues(_) => libc::EMFILE,
            Error::TooDeep(_) => libc::ELOOP,
            Error::TooManyTasks(_) => libc::EAGAIN,
            Error::TooManyFiles => libc::EMFILE,
            Error::OutOfMemory(_) => libc::ENOMEM,
            Error::NoBuffers => libc::ENOBUFS,
            Error::AddressInUse => libc::EADDRINUSE,
            Error::AddressNotAvailable => libc::EADDRNOTAVAIL,
            Error::BadAddress => libc::EAFNOSUPPORT,
            Error::PermissionDenied => libc::EACCES,
            Error::ConnectionRefused => libc::ECONNREFUSED,
            Error::ConnectionReset => libc::ECONNRESET,
            Error::ConnectionAborted => libc::ECONNABORTED,
            Error::Closed => libc::EPIPE,
            Error::NotConnected => libc::ENOTCONN,
            Error::AlreadyConnected => libc::EISCONN,
            Error::Unreachable => libc::EHOSTUNREACH,
            Error::NotFound => libc::ENOENT,
            Error::Exists => libc::EEXIST,
            Error::NoSpace => libc::ENOSPC,
            Error::ReadOnly => libc::EROFS,
            Error::Damaged(_) => libc::EUCLEAN,
            Error::Discarded => libc::ESTALE,
            Error::Revoked => libc::EIDRM,
            Error::InUse(_) => libc::EBUSY,
            Error::Io => libc::EIO,
            Error::NotSupported(_) => libc::EOPNOTSUPP,
            Error::Invalid(_) => libc::EINVAL,
            Error::Config(_) => libc::EINVAL,
            Error::System(errno) if *errno > 0 => *errno,
            Error::System(_) => libc::EIO,
            // The enum may grow; a test sees to it that this does, too.
            _ => libc::EIO,
        })
    }
}

impl From<Error> for Errno {
    #[cold]
    fn from(error: Error) -> Errno {
        Errno::from(&error)
    }
}

impl From<demi_api::Refused> for Errno {
    #[cold]
    fn from(refused: demi_api::Refused) -> Errno {
        Errno::from(&refused.error)
    }
}
