//! The calls, with what they mean to a program: what blocks, what a signal ends, which errno it is.
//!
//! Each returns `None` where the kernel is to be asked instead.

mod data;
mod epoll;
mod fds;
mod files;
mod options;
mod poll;
mod sockets;

use std::time::{Duration, Instant};

use demi_api::slab::Key;
use rustix::io::Errno;

pub(crate) use self::data::{Message, Receiving};
pub(crate) use self::options::length;
pub(crate) use self::poll::Wanted;

use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::state::{Socket, State};
use crate::sys::{self, Blocked};
use crate::wait::Sleep;

/// `Ok(None)`: the kernel's.
pub(crate) type Answer<T> = Result<Option<T>, Errno>;

/// How long a call may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// As long as the socket's option says.
    Receive,
    Send,
}

impl<C: Carrier> Shim<C> {
    /// Tries `attempt` on a socket until it does not say `AGAIN`, or the caller's patience ends. The kernel's if the socket
    /// has no queue.
    pub(crate) fn blocking<T>(
        &'static self,
        (fd, key): (i32, Key),
        patience: Patience,
        mut attempt: impl FnMut(&mut State<C>) -> Result<T, Errno>,
    ) -> Answer<T> {
        // What makes an instance takes long enough for a signal to come, which is to end this call.
        let blocked = self.lock().is_unmade(key).then(Blocked::new);
        let limit = {
            let mut state = self.lock();
            if !state.realize(key, fd)? {
                // What a connect has left behind is for the next call to tell.
                let error = if C::IN_KERNEL { None } else { state.socket(key)?.error.take() };
                return error.map_or(Ok(None), Err);
            }
            match attempt(&mut state) {
                Err(Errno::AGAIN) => {}
                outcome => return outcome.map(Some),
            }
            state.pump();
            match attempt(&mut state) {
                Err(Errno::AGAIN) => {}
                outcome => return outcome.map(Some),
            }
            let socket = state.socket(key)?;
            patience.limit(socket)?
        };
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let mask = blocked.as_ref().map(Blocked::before);
            let sleep = Sleep { keys: &[key], kernel: &[], until, mask };
            let outcome = self.wait(&sleep, |state, _| match attempt(state) {
                Err(Errno::AGAIN) => None,
                outcome => Some(outcome),
            });
            return match outcome {
                Ok(outcome) => outcome.map(Some),
                Err(Errno::TIMEDOUT) => Err(Errno::AGAIN),
                // With a time limit a call is interrupted whatever the handler says: so it is in the kernel.
                Err(Errno::INTR) if until.is_none() && sys::restarts() => continue,
                Err(errno) => Err(errno),
            };
        }
    }
}

impl Patience {
    fn limit(self, socket: &Socket) -> Result<Option<Duration>, Errno> {
        match self {
            _ if socket.nonblock => Err(Errno::AGAIN),
            Patience::None => Err(Errno::AGAIN),
            Patience::Receive => Ok(socket.recv_timeout),
            Patience::Send => Ok(socket.send_timeout),
        }
    }
}
