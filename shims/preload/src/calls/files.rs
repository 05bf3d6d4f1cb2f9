//! `sendfile` and `splice`, where one side is a socket of ours.

use demi_api::slab::Key;
use rustix::io::Errno;

use super::{Answer, Message};
use crate::carrier::Carrier;
use crate::raw::Gather;
use crate::shim::Shim;
use crate::sys;

/// Bytes that are read from the file at a time.
const PART: usize = 64 << 10;

impl<C: Carrier> Shim<C> {
    /// Sends from a file, at `offset` or at its own position; returns how much, and moves the offset on.
    pub(crate) fn send_file(
        &'static self,
        at: (i32, Key),
        file: i32,
        mut offset: Option<&mut i64>,
        count: usize,
    ) -> Answer<usize> {
        if !self.lock().realize(at.1, at.0)? {
            return Ok(None);
        }
        if sys::is_pipe_or_socket(file)? {
            return Err(Errno::INVAL);
        }
        let mut buffer = vec![0; PART.min(count)];
        let mut done = 0;
        while done < count {
            let part = PART.min(count - done);
            let got = match sys::read_file(file, &mut buffer[..part], offset.as_deref().copied()) {
                Ok(0) => break,
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            let bytes = Gather::of(&buffer[..got]);
            let sent = self.transmit(at, &Message { bytes, to: None, flags: 0 });
            let sent = match sent {
                Ok(sent) => sent.unwrap_or(0),
                Err(errno) => {
                    if offset.is_none() {
                        sys::step_back(file, got);
                    }
                    if done > 0 {
                        break;
                    }
                    return Err(errno);
                }
            };
            done += sent;
            if let Some(offset) = &mut offset {
                **offset += sent as i64;
            } else if sent < got {
                sys::step_back(file, got - sent);
            }
            if sent < got {
                break;
            }
        }
        Ok(Some(done))
    }

    /// Moves bytes from a pipe into a socket of ours.
    pub(crate) fn splice_out(
        &'static self,
        at: (i32, Key),
        pipe: i32,
        count: usize,
        wait: bool,
    ) -> Answer<usize> {
        if !sys::is_pipe(pipe)? {
            return Err(Errno::INVAL);
        }
        // Bytes that have left the pipe must go: no more are taken than there is room for.
        let room = match self.room(at, wait)? {
            Some(room) => room,
            None => return Ok(None),
        };
        let mut buffer = vec![0; PART.min(count).min(room)];
        let got = sys::read_pipe(pipe, &mut buffer, wait)?;
        if got == 0 {
            return Ok(Some(0));
        }
        self.transmit(at, &Message { bytes: Gather::of(&buffer[..got]), to: None, flags: 0 })
    }

    /// Moves bytes from a socket of ours into a pipe.
    pub(crate) fn splice_in(
        &'static self,
        at: (i32, Key),
        pipe: i32,
        count: usize,
        wait: bool,
    ) -> Answer<usize> {
        if !sys::is_pipe(pipe)? {
            return Err(Errno::INVAL);
        }
        let mut buffer = vec![0; PART.min(count)];
        let flags = libc::MSG_PEEK | if wait { 0 } else { libc::MSG_DONTWAIT };
        let peeked = {
            let mut places = crate::raw::Places::of(&mut buffer);
            match self.receive(at, &mut places, flags)? {
                Some(receiving) => receiving.count,
                None => return Ok(None),
            }
        };
        if peeked == 0 {
            return Ok(Some(0));
        }
        let put = sys::write_pipe(pipe, &buffer[..peeked], wait)?;
        let mut places = crate::raw::Places::of(&mut buffer[..put]);
        self.receive(at, &mut places, libc::MSG_DONTWAIT)?;
        Ok(Some(put))
    }

    /// Bytes that a write would take now, waiting for one at least.
    fn room(&'static self, at: (i32, Key), wait: bool) -> Answer<usize> {
        let patience = if wait { super::Patience::Send } else { super::Patience::None };
        self.blocking(at, patience, |state| match state.room(at.1)? {
            0 => Err(Errno::AGAIN),
            room => Ok(room),
        })
    }
}
