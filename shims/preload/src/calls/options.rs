//! Socket options and `ioctl`. The kernel's socket checks and remembers them; what matters to us is noted as well.

use std::time::Duration;

use demi_api::addr::Domain;
use demi_api::libos::SocketOption;
use demi_api::slab::Key;
use rustix::io::Errno;

use super::Answer;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::state::Role;

impl<C: Carrier> Shim<C> {
    /// The kernel's socket has taken an option.
    pub(crate) fn option_set(
        &'static self,
        (fd, key): (i32, Key),
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let mut state = self.lock();
        let number = value.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        let socket = state.socket(key)?;
        socket.has_options = true;
        let seconds = Duration::from_secs(number.max(0).unsigned_abs().into());
        let option = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => {
                socket.recv_timeout = timeval(value);
                return Ok(());
            }
            (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => {
                socket.send_timeout = timeval(value);
                return Ok(());
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let time = value
                    .get(4..8)
                    .and_then(|bytes| bytes.first_chunk())
                    .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                let time = Duration::from_secs(time.max(0).unsigned_abs().into());
                socket.linger = (number != 0).then_some(time);
                return Ok(());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => {
                socket.dual = number == 0;
                return Ok(());
            }
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => SocketOption::KeepAlive(number != 0),
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => SocketOption::Broadcast(number != 0),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => SocketOption::NoDelay(number != 0),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => SocketOption::KeepIdle(seconds),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => SocketOption::KeepInterval(seconds),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => SocketOption::KeepCount(number.max(0).unsigned_abs()),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                SocketOption::UserTimeout(Duration::from_millis(number.max(0).unsigned_abs().into()))
            }
            _ if C::IN_KERNEL && asks_for_more(level, name) => {
                // What comes beside the data is known to the kernel alone.
                if matches!(socket.role, Role::Plain { .. }) {
                    state.give_back(fd, key);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !C::IN_KERNEL {
            state.pass_option_on(key, option);
        }
        Ok(())
    }

    /// An option that the kernel's socket would not know.
    pub(crate) fn option(&'static self, key: Key, level: i32, name: i32) -> Answer<i32> {
        if level != libc::SOL_SOCKET {
            return Ok(None);
        }
        let mut state = self.lock();
        let socket = state.socket(key)?;
        let is_plain = matches!(socket.role, Role::Plain { .. });
        match name {
            libc::SO_ERROR if !(C::IN_KERNEL && is_plain) => {
                state.pump();
                let error = state.socket(key)?.error.take();
                Ok(Some(error.map_or(0, Errno::raw_os_error)))
            }
            libc::SO_ACCEPTCONN if !C::IN_KERNEL => {
                let listens = matches!(socket.role, Role::Plain { backlog: Some(_) } | Role::Listener(_));
                Ok(Some(i32::from(listens)))
            }
            _ => Ok(None),
        }
    }

    /// Whether addresses are given to the program as those of IPv6.
    pub(crate) fn is_six(&'static self, key: Key) -> bool {
        self.lock().socket(key).is_ok_and(|socket| socket.domain == Domain::Inet6)
    }

    pub(crate) fn is_stream(&'static self, key: Key) -> Result<bool, Errno> {
        Ok(matches!(self.lock().socket(key)?.role, Role::Stream(_)))
    }

    /// The kernel has been told whether calls on a descriptor block.
    pub(crate) fn set_nonblock(&'static self, key: Key, nonblock: bool) -> Result<(), Errno> {
        if let Ok(socket) = self.lock().socket(key) {
            socket.nonblock = nonblock;
        }
        Ok(())
    }

    /// Bytes that can be read, or that are not yet sent.
    pub(crate) fn queued(&'static self, (fd, key): (i32, Key), outgoing: bool) -> Answer<i32> {
        let mut state = self.lock();
        if state.is_epoll(key) || !state.realize(key, fd)? {
            return Ok(None);
        }
        state.pump();
        let count = match &state.socket(key)?.role {
            Role::Stream(stream) => {
                if outgoing {
                    stream.unsent()
                } else {
                    stream.readable()
                }
            }
            Role::Datagram(datagram) => {
                if outgoing {
                    0
                } else {
                    datagram.readable()
                }
            }
            Role::Listener(_) => return Err(Errno::INVAL),
            Role::Plain { .. } | Role::Connecting { .. } | Role::Lost => 0,
        };
        Ok(Some(i32::try_from(count).unwrap_or(i32::MAX)))
    }
}

/// A time as `SO_RCVTIMEO` has it; none is without limit.
fn timeval(value: &[u8]) -> Option<Duration> {
    let (seconds, rest) = value.split_first_chunk::<8>()?;
    let micros = rest.first_chunk::<8>()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).unwrap_or(0);
    let micros = u64::try_from(i64::from_ne_bytes(*micros)).unwrap_or(0);
    let time = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
    Some(time).filter(|time| !time.is_zero())
}

/// As many bytes of an option's value as the kernel reads of a long one.
pub(crate) fn length(level: i32, name: i32) -> usize {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => size_of::<libc::timeval>(),
        (libc::SOL_SOCKET, libc::SO_LINGER) => size_of::<libc::linger>(),
        _ => size_of::<i32>(),
    }
}

/// Whether an option has the kernel say more with a datagram than a libOS knows.
fn asks_for_more(level: i32, name: i32) -> bool {
    matches!(
        (level, name),
        (libc::IPPROTO_IP, libc::IP_PKTINFO | libc::IP_RECVERR | libc::IP_RECVTTL | libc::IP_RECVTOS)
            | (
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVPKTINFO | libc::IPV6_RECVERR | libc::IPV6_RECVTCLASS | libc::IPV6_RECVHOPLIMIT
            )
            | (libc::IPPROTO_UDP, _)
            | (
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMP | libc::SO_TIMESTAMPNS | libc::SO_TIMESTAMPING | libc::SO_RXQ_OVFL
            )
    ) || (level, name) == (libc::IPPROTO_TCP, libc::TCP_ULP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_kernel_does() {
        let bytes = |seconds: i64, micros: i64| [seconds.to_ne_bytes(), micros.to_ne_bytes()].concat();
        assert_eq!(timeval(&bytes(2, 500_000)), Some(Duration::from_millis(2500)));
        assert_eq!(timeval(&bytes(0, 0)), None);
        assert_eq!(timeval(&bytes(-1, 7)), Some(Duration::from_micros(7)));
        assert_eq!(timeval(&[1, 2, 3]), None);
    }
}
