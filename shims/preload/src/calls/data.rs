//! Sending and receiving.

use std::net::SocketAddr;

use demi_api::slab::Key;
use rustix::io::Errno;

use super::{Answer, Patience};
use crate::carrier::Carrier;
use crate::raw::{Gather, Places};
use crate::shim::Shim;
use crate::state::{Receive, Role};
use crate::sys;

/// What came.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Receiving {
    pub(crate) count: usize,
    /// What the call returns: with `MSG_TRUNC` more than was copied.
    pub(crate) returned: usize,
    pub(crate) from: Option<SocketAddr>,
    /// A datagram was cut.
    pub(crate) cut: bool,
}

/// What is to go.
pub(crate) struct Message<'a> {
    pub(crate) bytes: Gather<'a>,
    pub(crate) to: Option<SocketAddr>,
    pub(crate) flags: i32,
}

impl<C: Carrier> Shim<C> {
    pub(crate) fn receive(
        &'static self,
        at: (i32, Key),
        places: &mut Places<'_>,
        flags: i32,
    ) -> Answer<Receiving> {
        if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
            // There is nothing urgent; errors come with the calls.
            let is_ours = self.lock().realize(at.1, at.0)?;
            let nothing = if flags & libc::MSG_OOB != 0 { Errno::INVAL } else { Errno::AGAIN };
            return if is_ours { Err(nothing) } else { Ok(None) };
        }
        let patience = if flags & libc::MSG_DONTWAIT != 0 { Patience::None } else { Patience::Receive };
        let truncates = flags & libc::MSG_TRUNC != 0;
        let peek = flags & libc::MSG_PEEK != 0;
        let wants_all = flags & libc::MSG_WAITALL != 0 && !peek;
        let mut got = 0;
        let outcome = self.blocking(at, patience, |state| {
            if let Role::Datagram(_) = state.socket(at.1)?.role {
                let received = state.read_datagram(at.1, places, Receive { peek, discard: false })?;
                let returned = if truncates { received.len } else { received.count };
                let cut = received.len > received.count;
                return Ok(Receiving { count: received.count, returned, from: received.from, cut });
            }
            let how = Receive { peek, discard: truncates && !peek };
            loop {
                let count = state.read_stream(at.1, places, how)?;
                got += count;
                if count == 0 || !wants_all || places.is_empty() {
                    return Ok(Receiving { count: got, returned: got, from: None, cut: false });
                }
            }
        });
        match outcome {
            // What was received before the wait ended is not lost.
            Err(errno) if got > 0 => {
                self.tell_later(at.1, errno);
                Ok(Some(Receiving { count: got, returned: got, from: None, cut: false }))
            }
            outcome => outcome,
        }
    }

    /// How a connection has broken is for the next call to tell, as this one has done a part.
    fn tell_later(&'static self, key: Key, errno: Errno) {
        if matches!(errno, Errno::AGAIN | Errno::INTR | Errno::PIPE) {
            return;
        }
        let mut state = self.lock();
        if let Ok(socket) = state.socket(key)
            && let Role::Stream(stream) = &socket.role
            && stream.is_broken()
        {
            socket.error.get_or_insert(errno);
        }
    }

    pub(crate) fn transmit(&'static self, at: (i32, Key), message: &Message<'_>) -> Answer<usize> {
        if message.flags & libc::MSG_OOB != 0 {
            return if self.lock().realize(at.1, at.0)? { Err(Errno::OPNOTSUPP) } else { Ok(None) };
        }
        let patience = if message.flags & libc::MSG_DONTWAIT != 0 { Patience::None } else { Patience::Send };
        let len = message.bytes.len();
        let mut sent = 0;
        let outcome = self.blocking(at, patience, |state| {
            if let Role::Datagram(_) = state.socket(at.1)?.role {
                return state.write_datagram(at.1, &message.bytes, message.to);
            }
            sent += state.write_stream(at.1, &message.bytes, sent)?;
            if sent < len { Err(Errno::AGAIN) } else { Ok(sent) }
        });
        let outcome = match outcome {
            Err(errno) if sent > 0 => {
                self.tell_later(at.1, errno);
                Ok(Some(sent))
            }
            outcome => outcome,
        };
        if outcome == Err(Errno::PIPE) && message.flags & libc::MSG_NOSIGNAL == 0 {
            sys::raise_pipe();
        }
        outcome
    }
}
