//! Socket options: what was set is read back. Only linger and the send buffer have an effect in here.

use std::mem::discriminant;
use std::time::Duration;

use demi_api::{Error, OptionName, SocketOption};

const SEND_BUFFER: usize = 128 << 10;

#[derive(Default, Debug)]
pub(super) struct Options {
    chosen: Vec<SocketOption>,
}

impl Options {
    pub(super) fn set(&mut self, option: SocketOption) {
        self.chosen.retain(|other| discriminant(other) != discriminant(&option));
        self.chosen.push(option);
    }

    pub(super) fn get(&self, name: OptionName) -> Result<SocketOption, Error> {
        let default = match name {
            OptionName::Linger => SocketOption::Linger(None),
            OptionName::KeepAlive => SocketOption::KeepAlive(false),
            OptionName::KeepIdle => SocketOption::KeepIdle(Duration::from_secs(7200)),
            OptionName::KeepInterval => SocketOption::KeepInterval(Duration::from_secs(75)),
            OptionName::KeepCount => SocketOption::KeepCount(9),
            OptionName::ReuseAddr => SocketOption::ReuseAddr(false),
            OptionName::ReusePort => SocketOption::ReusePort(false),
            OptionName::SendBuffer => SocketOption::SendBuffer(SEND_BUFFER),
            OptionName::RecvBuffer => SocketOption::RecvBuffer(SEND_BUFFER),
            OptionName::NoDelay => SocketOption::NoDelay(true),
            OptionName::MaxSegment => SocketOption::MaxSegment(1460),
            OptionName::UserTimeout => SocketOption::UserTimeout(Duration::ZERO),
            OptionName::Broadcast => SocketOption::Broadcast(false),
            _ => return Err(Error::NotSupported("this socket option")),
        };
        let same = |option: &&SocketOption| discriminant(*option) == discriminant(&default);
        Ok(self.chosen.iter().find(same).cloned().unwrap_or(default))
    }

    pub(super) fn linger(&self) -> Option<Duration> {
        match self.get(OptionName::Linger) {
            Ok(SocketOption::Linger(linger)) => linger,
            _ => None,
        }
    }

    pub(super) fn send_buffer(&self) -> usize {
        match self.get(OptionName::SendBuffer) {
            Ok(SocketOption::SendBuffer(bytes)) => bytes.max(1),
            _ => SEND_BUFFER,
        }
    }
}
