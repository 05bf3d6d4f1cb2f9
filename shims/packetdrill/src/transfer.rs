//! Bytes: written, read, and how many there are.

use std::ffi::c_int;

use demi_api::{Addr, QueueKind};
use demi_c::errno::Errno;

use crate::stack::{Phase, Stack};

/// Flags of sending that change nothing here: nobody is signalled, and small segments wait for the stack's own reasons.
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
const RECV_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC;

/// Bytes of one push of many.
const PIECE: usize = 1000;

impl Stack {
    /// Sends as much as there is room for, at least a byte. How much, or `None` if there is no room.
    pub(crate) fn send(
        &mut self,
        fd: c_int,
        bytes: &[u8],
        flags: c_int,
        to: Option<&Addr>,
    ) -> Result<Option<usize>, Errno> {
        if flags & !SEND_FLAGS != 0 {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let socket = self.socket(fd)?;
        if let Some(failure) = socket.failure.take() {
            return Err(failure);
        }
        let (qd, kind) = (socket.qd, socket.kind);
        if kind == QueueKind::Message {
            let sga = self.demi.copy_from(bytes)?;
            let token = match to {
                Some(to) => self.demi.push_to(qd, sga, to.clone())?,
                None => self.demi.push(qd, sga)?,
            };
            self.socket(fd)?.pushed(bytes.len());
            self.note(token, fd);
            self.ask_pop(fd);
            return Ok(Some(bytes.len()));
        }
        match socket.phase {
            Phase::Connected => {}
            Phase::Connecting => return Ok(None),
            Phase::Fresh | Phase::Listening | Phase::Failed => return Err(Errno(libc::EPIPE)),
        }
        let len = bytes.len().min(socket.send_room.saturating_sub(socket.unacknowledged));
        if len == 0 {
            return Ok(bytes.is_empty().then_some(0));
        }
        // Where room is short, it is given back a piece at a time.
        let piece = if bytes.len() > len { PIECE } else { len };
        for piece in bytes[..len].chunks(piece) {
            let sga = self.demi.copy_from(piece)?;
            let token = self.demi.push(qd, sga)?;
            self.socket(fd)?.pushed(piece.len());
            self.note(token, fd);
        }
        Ok(Some(len))
    }

    /// Reads what there is: how much, and who sent it. Of a stream, nothing is its end. `None`: nothing yet.
    pub(crate) fn receive(
        &mut self,
        fd: c_int,
        out: &mut [&mut [u8]],
        flags: c_int,
    ) -> Result<Option<(usize, Option<Addr>)>, Errno> {
        if flags & !RECV_FLAGS != 0 {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let wanted: usize = out.iter().map(|part| part.len()).sum();
        let mut count = 0;
        let mut from = None;
        loop {
            let socket = self.socket(fd)?;
            if socket.kind == QueueKind::Stream && matches!(socket.phase, Phase::Fresh | Phase::Listening) {
                return Err(Errno(libc::ENOTCONN));
            }
            let Some(held) = socket.held.front_mut() else { break };
            let here = held.to_vec();
            let len = scatter(out, count, &here);
            count += len;
            if socket.kind == QueueKind::Message {
                from = held.peer();
                if flags & libc::MSG_PEEK == 0 {
                    socket.held.pop_front();
                    self.ask_pop(fd);
                }
                let told = if flags & libc::MSG_TRUNC != 0 { here.len() } else { count };
                return Ok(Some((told, from)));
            }
            if flags & libc::MSG_PEEK != 0 {
                return Ok(Some((count, None)));
            }
            if len < held.len() {
                held.advance(len);
                return Ok(Some((count, None)));
            }
            socket.held.pop_front();
            self.ask_pop(fd);
            // What waited in the stack comes with its next turns.
            self.pump();
            if count == wanted {
                break;
            }
        }
        if count > 0 || wanted == 0 {
            return Ok(Some((count, from)));
        }
        let socket = self.socket(fd)?;
        if let Some(failure) = socket.failure.take() {
            return Err(failure);
        }
        let is_over = socket.ended || socket.shut_read || socket.phase == Phase::Failed;
        Ok(is_over.then_some((0, None)))
    }

    /// Bytes that can be read now.
    pub(crate) fn readable(&mut self, fd: c_int) -> Result<usize, Errno> {
        let socket = self.socket(fd)?;
        if socket.phase == Phase::Listening {
            return Err(Errno(libc::EINVAL));
        }
        Ok(socket.held_len())
    }
}

/// Copies into the parts of `out`, from place `at` on; how much.
fn scatter(out: &mut [&mut [u8]], mut at: usize, mut bytes: &[u8]) -> usize {
    let mut count = 0;
    for part in out {
        if at >= part.len() {
            at -= part.len();
            continue;
        }
        let part = &mut part[at..];
        let len = part.len().min(bytes.len());
        part[..len].copy_from_slice(&bytes[..len]);
        (at, count, bytes) = (0, count + len, &bytes[len..]);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_fill_part_after_part() {
        let (mut a, mut b, mut c) = ([0; 3], [0; 0], [0; 4]);
        let mut parts = [&mut a[..], &mut b[..], &mut c[..]];
        assert_eq!(scatter(&mut parts, 0, b"wx"), 2);
        assert_eq!(scatter(&mut parts, 2, b"yz12345"), 5);
        assert_eq!(scatter(&mut parts, 7, b"more"), 0);
        assert_eq!((&a, &c), (b"wxy", b"z123"));
    }
}
