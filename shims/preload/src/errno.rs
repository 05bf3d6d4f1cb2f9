//! What a libOS reports, as the numbers that C programs know.

use demi_api::error::Error;
use rustix::io::Errno;

/// The errno for an error.
#[cold]
pub(crate) fn errno(error: &Error) -> Errno {
    match error {
        Error::BadDescriptor | Error::BadToken => Errno::BADF,
        Error::Cancelled => Errno::CANCELED,
        Error::TimedOut => Errno::TIMEDOUT,
        Error::Interrupted => Errno::INTR,
        Error::TooLarge { .. } => Errno::MSGSIZE,
        Error::TooManySegments | Error::Invalid(_) => Errno::INVAL,
        Error::TooManyTokens(_) | Error::OutOfMemory(_) | Error::NoBuffers => Errno::NOBUFS,
        Error::TooManyQueues(_) | Error::TooManyFiles => Errno::MFILE,
        Error::AddressInUse => Errno::ADDRINUSE,
        Error::AddressNotAvailable => Errno::ADDRNOTAVAIL,
        Error::BadAddress => Errno::AFNOSUPPORT,
        Error::PermissionDenied => Errno::ACCESS,
        Error::ConnectionRefused => Errno::CONNREFUSED,
        Error::ConnectionReset => Errno::CONNRESET,
        Error::ConnectionAborted => Errno::CONNABORTED,
        Error::Closed => Errno::PIPE,
        Error::NotConnected => Errno::NOTCONN,
        Error::AlreadyConnected => Errno::ISCONN,
        Error::Unreachable => Errno::HOSTUNREACH,
        Error::NotSupported(_) => Errno::OPNOTSUPP,
        Error::Config(_) => Errno::NODEV,
        Error::InUse(_) => Errno::BUSY,
        Error::Reentrant => Errno::DEADLK,
        Error::System(number) => Errno::from_raw_os_error(*number),
        // What is left belongs to files, operators and devices.
        _ => Errno::IO,
    }
}
