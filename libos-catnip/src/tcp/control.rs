//! Addresses and options of stream sockets, whatever they have become.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use demi_api::addr::{Addr, Domain};
use demi_api::error::Error;
use demi_api::libos::{OptionName, SocketOption};
use demi_api::slab::Key;

use super::sockets::{Env, Socket, Tcp, peer};

/// Keep-alive probes that can be asked for.
const MOST_KEEP_PROBES: u32 = 127;

impl Tcp {
    pub(crate) fn local_addr(&self, key: Key) -> Result<Addr, Error> {
        match self.sockets.get(key).ok_or(Error::BadDescriptor)? {
            Socket::Fresh(fresh) => {
                let any: IpAddr = match fresh.domain {
                    Domain::Inet => Ipv4Addr::UNSPECIFIED.into(),
                    Domain::Inet6 | Domain::Unix => Ipv6Addr::UNSPECIFIED.into(),
                };
                Ok(fresh.local.unwrap_or(SocketAddr::new(any, 0)).into())
            }
            Socket::Listener(listener) => Ok(listener.local.into()),
            Socket::Connection(entry) => {
                let ends = entry.conn.ends();
                Ok(SocketAddr::new(ends.local, ends.local_port).into())
            }
            Socket::TimeWait(_) => Err(Error::BadDescriptor),
        }
    }

    pub(crate) fn peer_addr(&self, key: Key) -> Result<Addr, Error> {
        match self.sockets.get(key).ok_or(Error::BadDescriptor)? {
            Socket::Connection(entry) if entry.conn.state.is_synchronized() => Ok(peer(&entry.conn.ends())),
            Socket::Fresh(_) | Socket::Listener(_) | Socket::Connection(_) => Err(Error::NotConnected),
            Socket::TimeWait(_) => Err(Error::BadDescriptor),
        }
    }

    pub(crate) fn set_option(
        &mut self,
        env: &mut Env<'_, '_>,
        key: Key,
        option: SocketOption,
    ) -> Result<(), Error> {
        self.note_option(key, option)?;
        if let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) {
            entry.conn.adopt_settings(env.cx.now);
            self.settle(env, key);
        }
        Ok(())
    }

    fn note_option(&mut self, key: Key, option: SocketOption) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        let settings = match socket {
            Socket::Fresh(fresh) => {
                if let SocketOption::ReusePort(on) = option {
                    fresh.reuse_port = on;
                    return Ok(());
                }
                &mut fresh.settings
            }
            Socket::Listener(listener) => &mut listener.settings,
            Socket::Connection(entry) => &mut entry.conn.settings,
            Socket::TimeWait(_) => return Err(Error::BadDescriptor),
        };
        // Shared with the listener and its other connections, as long as none of them is set apart.
        let settings = Rc::make_mut(settings);
        match option {
            SocketOption::Linger(time) => settings.linger = time,
            SocketOption::KeepAlive(on) => settings.keep_alive = on,
            SocketOption::KeepIdle(time) => settings.keep_idle = time.max(Duration::from_secs(1)),
            SocketOption::KeepInterval(time) => settings.keep_interval = time.max(Duration::from_secs(1)),
            SocketOption::KeepCount(count) => settings.keep_count = count.clamp(1, MOST_KEEP_PROBES),
            SocketOption::SendBuffer(bytes) => settings.send_buffer = bytes.clamp(2048, 1 << 30) as u32,
            SocketOption::RecvBuffer(bytes) => settings.recv_buffer = bytes.clamp(2048, 1 << 30) as u32,
            SocketOption::NoDelay(on) => settings.no_delay = on,
            SocketOption::MaxSegment(bytes) => {
                settings.max_segment = bytes.clamp(super::LEAST_MSS.into(), u16::MAX.into()) as u16;
            }
            SocketOption::UserTimeout(time) => {
                settings.user_timeout = if time.is_zero() { self.defaults.user_timeout } else { time };
            }
            // Old connections never keep an address: RFC 6191 and RFC 9293 §3.6.1.
            SocketOption::ReuseAddr(_) => {}
            _ => return Err(Error::NotSupported("this option on a stream socket of catnip")),
        }
        Ok(())
    }

    pub(crate) fn option(&self, key: Key, name: OptionName) -> Result<SocketOption, Error> {
        if name == OptionName::ReusePort {
            return match self.sockets.get(key).ok_or(Error::BadDescriptor)? {
                Socket::Fresh(fresh) => Ok(SocketOption::ReusePort(fresh.reuse_port)),
                Socket::Listener(listener) => Ok(SocketOption::ReusePort(listener.reuse_port)),
                Socket::Connection(_) => Ok(SocketOption::ReusePort(false)),
                Socket::TimeWait(_) => Err(Error::BadDescriptor),
            };
        }
        if name == OptionName::MaxSegment
            && let Some(Socket::Connection(entry)) = self.sockets.get(key)
            && entry.conn.established
        {
            // What both sides and the path take, now that it is known.
            return Ok(SocketOption::MaxSegment(entry.conn.mss.into()));
        }
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        if name == OptionName::TcpInfo {
            return Ok(SocketOption::TcpInfo(super::info::of(socket)));
        }
        let settings = match socket {
            Socket::Fresh(fresh) => &fresh.settings,
            Socket::Listener(listener) => &listener.settings,
            Socket::Connection(entry) => &entry.conn.settings,
            Socket::TimeWait(_) => return Err(Error::BadDescriptor),
        };
        Ok(match name {
            OptionName::Linger => SocketOption::Linger(settings.linger),
            OptionName::KeepAlive => SocketOption::KeepAlive(settings.keep_alive),
            OptionName::KeepIdle => SocketOption::KeepIdle(settings.keep_idle),
            OptionName::KeepInterval => SocketOption::KeepInterval(settings.keep_interval),
            OptionName::KeepCount => SocketOption::KeepCount(settings.keep_count),
            OptionName::SendBuffer => SocketOption::SendBuffer(settings.send_buffer as usize),
            OptionName::RecvBuffer => SocketOption::RecvBuffer(settings.recv_buffer as usize),
            OptionName::NoDelay => SocketOption::NoDelay(settings.no_delay),
            OptionName::MaxSegment => SocketOption::MaxSegment(settings.max_segment.into()),
            OptionName::UserTimeout => SocketOption::UserTimeout(settings.user_timeout),
            OptionName::ReuseAddr => SocketOption::ReuseAddr(true),
            _ => return Err(Error::NotSupported("this option on a stream socket of catnip")),
        })
    }

    /// What a connection is lost by.
    pub(crate) fn error(&self, key: Key) -> Result<Option<Error>, Error> {
        match self.sockets.get(key).ok_or(Error::BadDescriptor)? {
            Socket::Connection(entry) => Ok(entry.conn.error.clone()),
            Socket::Fresh(_) | Socket::Listener(_) => Ok(None),
            Socket::TimeWait(_) => Err(Error::BadDescriptor),
        }
    }
}
