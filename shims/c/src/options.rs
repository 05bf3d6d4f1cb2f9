//! Socket options, by the numbers that C has for them.
//!
//! An option is read as as many bytes as its type has. A longer value is no error, a shorter one is, as with the
//! system's calls. Of one that is read, as much is written as there is room for.

use std::ffi::c_int;
use std::time::Duration;

use demi_api::{LibOs, OptionName, QDesc, QueueKind, SocketOption, TcpInfo};

use crate::errno::Errno;
use crate::instance::Instance;
use crate::transfer::descriptor;
use crate::types::{MAX_SEGMENTS, SO_SEGMENTS, SOL_DEMI};

/// Bytes of the largest option that there is.
pub(crate) const LARGEST: usize = TcpInfo::BYTES;

const INT: usize = size_of::<c_int>();

/// The API's name of an option.
fn name(level: c_int, option: c_int) -> Option<OptionName> {
    Some(match (level, option) {
        (libc::SOL_SOCKET, libc::SO_LINGER) => OptionName::Linger,
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => OptionName::KeepAlive,
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => OptionName::ReuseAddr,
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => OptionName::ReusePort,
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => OptionName::SendBuffer,
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => OptionName::RecvBuffer,
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => OptionName::Broadcast,
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => OptionName::NoDelay,
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => OptionName::MaxSegment,
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => OptionName::KeepIdle,
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => OptionName::KeepInterval,
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => OptionName::KeepCount,
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => OptionName::UserTimeout,
        (libc::IPPROTO_TCP, libc::TCP_INFO) => OptionName::TcpInfo,
        _ => return None,
    })
}

impl<L: LibOs + 'static> Instance<L> {
    pub(crate) fn set_option(
        &self,
        qd: c_int,
        level: c_int,
        option: c_int,
        value: &[u8],
    ) -> Result<(), Errno> {
        let int = int(value)?;
        if level == SOL_DEMI {
            return self.set_own_option(qd, option, int);
        }
        let qd = descriptor(qd)?;
        let on = int != 0;
        let count = || u32::try_from(int).map_err(|_| Errno(libc::EINVAL));
        let seconds = || count().map(|count| Duration::from_secs(count.into()));
        let option = match name(level, option).ok_or(Errno(libc::ENOPROTOOPT))? {
            OptionName::Linger => SocketOption::Linger(linger(value)?),
            OptionName::KeepAlive => SocketOption::KeepAlive(on),
            OptionName::ReuseAddr => SocketOption::ReuseAddr(on),
            OptionName::ReusePort => SocketOption::ReusePort(on),
            OptionName::SendBuffer => SocketOption::SendBuffer(count()? as usize),
            OptionName::RecvBuffer => SocketOption::RecvBuffer(count()? as usize),
            OptionName::Broadcast => SocketOption::Broadcast(on),
            OptionName::NoDelay => SocketOption::NoDelay(on),
            OptionName::MaxSegment => SocketOption::MaxSegment(count()?),
            OptionName::KeepIdle => SocketOption::KeepIdle(seconds()?),
            OptionName::KeepInterval => SocketOption::KeepInterval(seconds()?),
            OptionName::KeepCount => SocketOption::KeepCount(count()?),
            OptionName::UserTimeout => SocketOption::UserTimeout(Duration::from_millis(count()?.into())),
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        Ok(self.demi.set_option(qd, option)?)
    }

    /// Reads an option into `out`; returns how many bytes it has.
    pub(crate) fn option(
        &self,
        qd: c_int,
        level: c_int,
        option: c_int,
        out: &mut [u8; LARGEST],
    ) -> Result<usize, Errno> {
        if level == SOL_DEMI {
            let limit = self.own_option(qd, option)?;
            return Ok(put(out, limit as c_int));
        }
        let qd = descriptor(qd)?;
        if (level, option) == (libc::SOL_SOCKET, libc::SO_TYPE) {
            let stream = self.demi.kind(qd)? == QueueKind::Stream;
            return Ok(put(out, if stream { libc::SOCK_STREAM } else { libc::SOCK_DGRAM }));
        }
        if (level, option) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            let error = self.demi.socket_error(qd)?;
            return Ok(put(out, error.map_or(0, |error| Errno::from(error).0)));
        }
        let name = name(level, option).ok_or(Errno(libc::ENOPROTOOPT))?;
        let capped = |value: u128| c_int::try_from(value).unwrap_or(c_int::MAX);
        let value = match self.demi.option(qd, name)? {
            SocketOption::Linger(time) => {
                let seconds = time.map_or(0, |time| capped(time.as_nanos().div_ceil(1_000_000_000)));
                out[..INT].copy_from_slice(&c_int::from(time.is_some()).to_ne_bytes());
                out[INT..2 * INT].copy_from_slice(&seconds.to_ne_bytes());
                return Ok(2 * INT);
            }
            SocketOption::KeepAlive(on)
            | SocketOption::ReuseAddr(on)
            | SocketOption::ReusePort(on)
            | SocketOption::NoDelay(on)
            | SocketOption::Broadcast(on) => on.into(),
            SocketOption::SendBuffer(bytes) | SocketOption::RecvBuffer(bytes) => capped(bytes as u128),
            SocketOption::MaxSegment(count) | SocketOption::KeepCount(count) => capped(count.into()),
            SocketOption::KeepIdle(time) | SocketOption::KeepInterval(time) => capped(time.as_secs().into()),
            SocketOption::UserTimeout(time) => capped(time.as_millis()),
            SocketOption::TcpInfo(info) => {
                *out = info.to_bytes();
                return Ok(LARGEST);
            }
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        };
        Ok(put(out, value))
    }

    /// Options of Demi's own: of one queue, or with a descriptor of -1 of all that have none of their own.
    fn set_own_option(&self, qd: c_int, option: c_int, value: c_int) -> Result<(), Errno> {
        if option != SO_SEGMENTS {
            return Err(Errno(libc::ENOPROTOOPT));
        }
        let limit = usize::try_from(value).ok().filter(|limit| (1..=MAX_SEGMENTS).contains(limit));
        let limit = limit.ok_or(Errno(libc::EINVAL))?;
        if qd == -1 {
            self.limits.all.set(limit);
            return Ok(());
        }
        self.demi.kind(descriptor(qd)?)?;
        self.limits.by_queue.borrow_mut().insert(qd, limit);
        Ok(())
    }

    fn own_option(&self, qd: c_int, option: c_int) -> Result<usize, Errno> {
        if option != SO_SEGMENTS {
            return Err(Errno(libc::ENOPROTOOPT));
        }
        if qd == -1 {
            return Ok(self.limits.all.get());
        }
        let qd = descriptor(qd)?;
        self.demi.kind(qd)?;
        Ok(self.limit_of(Some(qd)))
    }

    /// The number of a queue that the program is to be told of. Whatever limit a queue of the same number had, this one
    /// has none.
    pub(crate) fn fresh(&self, qd: QDesc) -> c_int {
        let number = qd.raw() as c_int;
        self.limits.by_queue.borrow_mut().remove(&number);
        number
    }

    /// Gives a connection the limit of its listener, or none.
    pub(crate) fn inherit_limit(&self, listener: QDesc, connection: QDesc) {
        let mut by_queue = self.limits.by_queue.borrow_mut();
        let connection = connection.raw() as c_int;
        match by_queue.get(&(listener.raw() as c_int)).copied() {
            Some(limit) => by_queue.insert(connection, limit),
            None => by_queue.remove(&connection),
        };
    }
}

fn int(value: &[u8]) -> Result<c_int, Errno> {
    let bytes = value.first_chunk::<INT>().ok_or(Errno(libc::EINVAL))?;
    Ok(c_int::from_ne_bytes(*bytes))
}

/// A `struct linger`: whether, and for how many seconds.
fn linger(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let on = int(value)? != 0;
    let seconds = int(value.get(INT..).unwrap_or(&[]))?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno(libc::EINVAL))?;
    Ok(on.then_some(Duration::from_secs(seconds)))
}

fn put(out: &mut [u8; LARGEST], value: c_int) -> usize {
    out[..INT].copy_from_slice(&value.to_ne_bytes());
    INT
}
