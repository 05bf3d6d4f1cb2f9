//! After a descriptor is gone: what was pushed is sent in the background, for as long as linger allows.
//!
//! `Linger(Some(0))` aborts: what the kernel has not sent is dropped and the peer of a TCP connection gets a
//! reset. `Linger(Some(time))`, or the configured `queues.linger_ms`, bounds how long pushes that the kernel
//! has *not yet taken* are tried for; when it is over they fail with [`Error::TimedOut`] and the connection is
//! aborted, so that the peer does not take half a stream for a whole one. Bytes that the kernel has taken
//! are its own affair: it goes on sending them after the close, as it does for every program.

use demi_api::error::Error;
use demi_api::libos::Cx;

use super::Net;
use super::socket::{Socket, State};
use crate::sys::options::abort_on_close;
use demi_api::slab::Key;

impl Net {
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.cancel_all_but_pushes(cx);
        self.readiness.leave(&mut socket.watch, key);
        if socket.linger.is_some_and(|linger| linger.is_zero()) {
            abort_on_close(&socket.fd);
            socket.fail_pushes(cx, &Error::ConnectionAborted);
        }
        if !socket.has_pushes() {
            self.remove(key);
            return;
        }
        socket.closing = true;
        self.unclocked.push(key);
    }

    /// The linger time of a closed socket is over.
    pub(super) fn linger_expired(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let Some(socket) = self.sockets.get_mut(key) else { return 0 };
        abort_on_close(&socket.fd);
        socket.fail_pushes(cx, &Error::TimedOut);
        self.io.counters.linger_expired += 1;
        self.remove(key);
        1
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some(Socket { watch, .. }) = self.sockets.get_mut(key) {
            self.readiness.release(watch, key);
        }
        drop(self.sockets.remove(key));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What an instance leaves unsent is lost with it: no peer should take that for a regular end.
        for mut socket in self.sockets.drain() {
            if let State::Stream(stream) = &mut socket.state {
                stream.send_gathered(&socket.fd, &mut self.io);
            }
            if socket.has_pushes() {
                abort_on_close(&socket.fd);
            }
        }
    }
}
