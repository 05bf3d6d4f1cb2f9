//! Socket options and requests, by the numbers that C has for them.

use std::ffi::c_int;
use std::time::Duration;

use demi_api::libos::{OptionName, SocketOption};
use demi_api::{QDesc, QueueKind};
use demi_c::errno::Errno;

use crate::stack::{Phase, Stack};

const INT: usize = size_of::<c_int>();

/// Bytes of the largest option.
pub(crate) const LARGEST: usize = 2 * INT;

impl Stack {
    pub(crate) fn set_option(
        &mut self,
        fd: c_int,
        level: c_int,
        name: c_int,
        value: &[u8],
    ) -> Result<c_int, Errno> {
        let socket = self.socket(fd)?;
        let int = int(value)?;
        let count = u32::try_from(int).map_err(|_| Errno(libc::EINVAL));
        let option = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => SocketOption::ReuseAddr(int != 0),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => SocketOption::ReusePort(int != 0),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => SocketOption::KeepAlive(int != 0),
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => SocketOption::Broadcast(int != 0),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => SocketOption::RecvBuffer(count? as usize),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                // Linux takes twice as much, for what it needs besides the bytes, and says so.
                socket.send_room = (2 * count? as usize).max(1);
                SocketOption::SendBuffer(socket.send_room)
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => SocketOption::Linger(linger(value)?),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => SocketOption::NoDelay(int != 0),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => SocketOption::MaxSegment(count?),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => {
                SocketOption::KeepIdle(Duration::from_secs(count?.into()))
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => {
                SocketOption::KeepInterval(Duration::from_secs(count?.into()))
            }
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => SocketOption::KeepCount(count?),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                SocketOption::UserTimeout(Duration::from_millis(count?.into()))
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        let qd = socket.qd;
        self.demi.set_option(qd, option)?;
        Ok(0)
    }

    /// Reads an option; how many bytes of `out` it has.
    pub(crate) fn option(
        &mut self,
        fd: c_int,
        level: c_int,
        name: c_int,
        out: &mut [u8; LARGEST],
    ) -> Result<usize, Errno> {
        let socket = self.socket(fd)?;
        let own = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => Some(socket.failure.take().map_or(0, |failure| failure.0)),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => Some(clamp(socket.send_room as u128)),
            (libc::SOL_SOCKET, libc::SO_TYPE) if socket.kind == QueueKind::Stream => Some(libc::SOCK_STREAM),
            (libc::SOL_SOCKET, libc::SO_TYPE) => Some(libc::SOCK_DGRAM),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => Some((socket.phase == Phase::Listening).into()),
            _ => None,
        };
        let qd = socket.qd;
        let value = match own {
            Some(value) => value,
            None => match self.stack_option(qd, level, name)? {
                SocketOption::Linger(time) => {
                    let seconds = time.map_or(0, |time| clamp(time.as_nanos().div_ceil(1_000_000_000)));
                    out[..INT].copy_from_slice(&c_int::from(time.is_some()).to_ne_bytes());
                    out[INT..].copy_from_slice(&seconds.to_ne_bytes());
                    return Ok(LARGEST);
                }
                SocketOption::KeepAlive(on)
                | SocketOption::ReuseAddr(on)
                | SocketOption::ReusePort(on)
                | SocketOption::NoDelay(on)
                | SocketOption::Broadcast(on) => on.into(),
                SocketOption::RecvBuffer(bytes) => clamp(bytes as u128),
                SocketOption::MaxSegment(count) | SocketOption::KeepCount(count) => clamp(count.into()),
                SocketOption::KeepIdle(time) | SocketOption::KeepInterval(time) => {
                    clamp(time.as_secs().into())
                }
                SocketOption::UserTimeout(time) => clamp(time.as_millis()),
                _ => return Err(Errno(libc::ENOPROTOOPT)),
            },
        };
        out[..INT].copy_from_slice(&value.to_ne_bytes());
        Ok(INT)
    }

    fn stack_option(&self, qd: QDesc, level: c_int, name: c_int) -> Result<SocketOption, Errno> {
        let name = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_LINGER) => OptionName::Linger,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => OptionName::KeepAlive,
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => OptionName::ReuseAddr,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => OptionName::ReusePort,
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => OptionName::RecvBuffer,
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => OptionName::Broadcast,
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => OptionName::NoDelay,
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => OptionName::MaxSegment,
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => OptionName::KeepIdle,
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => OptionName::KeepInterval,
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => OptionName::KeepCount,
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => OptionName::UserTimeout,
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        Ok(self.demi.option(qd, name)?)
    }

    pub(crate) fn fcntl(&mut self, fd: c_int, command: c_int, arg: c_int) -> Result<c_int, Errno> {
        let socket = self.socket(fd)?;
        match command {
            libc::F_GETFL => Ok(libc::O_RDWR | if socket.nonblocking { libc::O_NONBLOCK } else { 0 }),
            libc::F_SETFL => {
                socket.nonblocking = arg & libc::O_NONBLOCK != 0;
                Ok(0)
            }
            libc::F_GETFD => Ok(libc::FD_CLOEXEC),
            libc::F_SETFD => Ok(0),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// A request that yields a number.
    pub(crate) fn ioctl(&mut self, fd: c_int, request: u64) -> Result<c_int, Errno> {
        let count = match request {
            libc::FIONREAD => self.readable(fd)?,
            libc::TIOCOUTQ => self.socket(fd)?.unacknowledged,
            _ => return Err(Errno(libc::ENOTTY)),
        };
        Ok(clamp(count as u128))
    }
}

fn int(value: &[u8]) -> Result<c_int, Errno> {
    let bytes = value.first_chunk::<INT>().ok_or(Errno(libc::EINVAL))?;
    Ok(c_int::from_ne_bytes(*bytes))
}

/// A `struct linger`: whether, and for how many seconds.
fn linger(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let on = int(value)? != 0;
    let seconds = u64::try_from(int(value.get(INT..).unwrap_or(&[]))?).map_err(|_| Errno(libc::EINVAL))?;
    Ok(on.then_some(Duration::from_secs(seconds)))
}

fn clamp(value: u128) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}
