//! Socket options. `Linger` is not here: it is this libOS's own affair until a connection is to be aborted.

use std::time::Duration;

use demi_api::TcpInfo;
use demi_api::error::Error;
use demi_api::libos::{OptionName, SocketOption};
use rustix::net::sockopt;

use super::raw::{max_segment, set_max_segment, tcp_info};
use super::{Fd, call, translate};

pub(crate) fn set(fd: &Fd, option: SocketOption) -> Result<(), Error> {
    match option {
        SocketOption::KeepAlive(on) => call(|| sockopt::set_socket_keepalive(fd, on)),
        SocketOption::KeepIdle(time) => call(|| sockopt::set_tcp_keepidle(fd, whole_seconds(time))),
        SocketOption::KeepInterval(time) => call(|| sockopt::set_tcp_keepintvl(fd, whole_seconds(time))),
        SocketOption::KeepCount(count) => call(|| sockopt::set_tcp_keepcnt(fd, count)),
        SocketOption::ReuseAddr(on) => call(|| sockopt::set_socket_reuseaddr(fd, on)),
        SocketOption::ReusePort(on) => call(|| sockopt::set_socket_reuseport(fd, on)),
        SocketOption::SendBuffer(bytes) => call(|| sockopt::set_socket_send_buffer_size(fd, clamp(bytes))),
        SocketOption::RecvBuffer(bytes) => call(|| sockopt::set_socket_recv_buffer_size(fd, clamp(bytes))),
        SocketOption::NoDelay(on) => call(|| sockopt::set_tcp_nodelay(fd, on)),
        SocketOption::MaxSegment(bytes) => call(|| set_max_segment(fd, bytes)),
        SocketOption::UserTimeout(time) => {
            let millis = u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
            call(|| sockopt::set_tcp_user_timeout(fd, millis))
        }
        SocketOption::Broadcast(on) => call(|| sockopt::set_socket_broadcast(fd, on)),
        SocketOption::Linger(_) | _ => Err(Error::NotSupported("this socket option")),
    }
}

pub(crate) fn get(fd: &Fd, name: OptionName) -> Result<SocketOption, Error> {
    match name {
        OptionName::KeepAlive => call(|| sockopt::socket_keepalive(fd)).map(SocketOption::KeepAlive),
        OptionName::KeepIdle => call(|| sockopt::tcp_keepidle(fd)).map(SocketOption::KeepIdle),
        OptionName::KeepInterval => call(|| sockopt::tcp_keepintvl(fd)).map(SocketOption::KeepInterval),
        OptionName::KeepCount => call(|| sockopt::tcp_keepcnt(fd)).map(SocketOption::KeepCount),
        OptionName::ReuseAddr => call(|| sockopt::socket_reuseaddr(fd)).map(SocketOption::ReuseAddr),
        OptionName::ReusePort => call(|| sockopt::socket_reuseport(fd)).map(SocketOption::ReusePort),
        OptionName::SendBuffer => call(|| sockopt::socket_send_buffer_size(fd)).map(SocketOption::SendBuffer),
        OptionName::RecvBuffer => call(|| sockopt::socket_recv_buffer_size(fd)).map(SocketOption::RecvBuffer),
        OptionName::NoDelay => call(|| sockopt::tcp_nodelay(fd)).map(SocketOption::NoDelay),
        OptionName::MaxSegment => call(|| max_segment(fd)).map(SocketOption::MaxSegment),
        OptionName::UserTimeout => call(|| sockopt::tcp_user_timeout(fd))
            .map(|millis| SocketOption::UserTimeout(Duration::from_millis(millis.into()))),
        OptionName::Broadcast => call(|| sockopt::socket_broadcast(fd)).map(SocketOption::Broadcast),
        OptionName::TcpInfo => {
            let mut bytes = [0; TcpInfo::BYTES];
            let len = call(|| tcp_info(fd, &mut bytes))?;
            Ok(SocketOption::TcpInfo(TcpInfo::from_bytes(&bytes[..len])))
        }
        OptionName::Linger | _ => Err(Error::NotSupported("this socket option")),
    }
}

/// What the socket has failed with since it was asked last.
pub(crate) fn error(fd: &Fd) -> Result<Option<Error>, Error> {
    Ok(call(|| sockopt::socket_error(fd))?.err().map(translate))
}

/// Makes the coming close of a connection an abort: unsent bytes are dropped and the peer gets a reset.
pub(crate) fn abort_on_close(fd: &Fd) {
    // Refused only by sockets that have nothing to abort.
    let _ = call(|| sockopt::set_socket_linger(fd, Some(Duration::ZERO)));
}

/// The kernel counts these in seconds: rounded up, so that a short time is not none.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// The kernel takes an `int` and doubles it.
fn clamp(bytes: usize) -> usize {
    bytes.min(i32::MAX as usize / 2)
}
