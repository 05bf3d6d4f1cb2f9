//! TCP over smoltcp: an echo server, its client, and a connection as such.

use std::net::SocketAddr;

use anyhow::{Result, anyhow, bail};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use super::Stack;
use crate::echo::Exchange;

/// Bytes of either buffer: more of what is on its way than a ring of the device holds at 1500 bytes, and still in a
/// core's own cache.
pub(crate) const BUFFER: usize = 256 << 10;

/// Answers one connection until it ends.
pub(crate) fn serve(stack: Stack, port: u16) -> Result<()> {
    let mut stream = Stream::accept(stack, port)?;
    let mut buffer = vec![0; 16 << 10];
    while stream.wait_readable()? {
        let count = stream.socket().recv_slice(&mut buffer)?;
        stream.send(&buffer[..count])?;
        // What was written goes out before the next wait.
        stream.stack.turn();
    }
    stream.close()
}

/// An echo's client.
pub(crate) struct Client {
    stream: Stream,
    message: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(stack: Stack, server: SocketAddr, size: usize) -> Result<Client> {
        Ok(Client { stream: Stream::connect(stack, server)?, message: vec![0x5a; size] })
    }
}

impl Exchange for Client {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.stream.send(&self.message)?;
        }
        self.stream.stack.turn();
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        if !self.stream.wait_readable()? {
            bail!("the server closed the connection");
        }
        self.stream.consume(|bytes| bytes.len())
    }

    fn end(&mut self) -> Result<()> {
        self.stream.finish()
    }
}

/// One connection.
pub(crate) struct Stream {
    stack: Stack,
    handle: SocketHandle,
}

impl Stream {
    /// Waits for a peer at `port`.
    pub(crate) fn accept(stack: Stack, port: u16) -> Result<Stream> {
        let mut stream = Stream::listen(stack, port)?;
        // No limit: whoever starts both ends decides how long the other may take.
        while !stream.socket().may_send() {
            stream.stack.turn();
        }
        Ok(stream)
    }

    pub(crate) fn connect(stack: Stack, server: SocketAddr) -> Result<Stream> {
        let mut stream = Stream::begin(stack, server)?;
        let Stream { stack, handle } = &mut stream;
        stack.turn_until(*handle, |socket: &mut Socket<'_>| socket.may_send() || !socket.is_active())?;
        if !stream.socket().may_send() {
            bail!("nobody listens at {server}");
        }
        Ok(stream)
    }

    /// Listens at `port`; the handshake is a matter of turns.
    pub(crate) fn listen(stack: Stack, port: u16) -> Result<Stream> {
        let mut stream = Stream::new(stack);
        stream.socket().listen(port)?;
        Ok(stream)
    }

    /// Calls `server`; the handshake is a matter of turns.
    pub(crate) fn begin(stack: Stack, server: SocketAddr) -> Result<Stream> {
        let mut stream = Stream::new(stack);
        let Stream { stack, handle } = &mut stream;
        let local = 49152 + (std::process::id() % 16384) as u16;
        stack.sockets.get_mut::<Socket<'_>>(*handle).connect(stack.interface.context(), server, local)?;
        Ok(stream)
    }

    fn new(mut stack: Stack) -> Stream {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let handle = stack.sockets.add(socket);
        Stream { stack, handle }
    }

    #[inline]
    fn socket(&mut self) -> &mut Socket<'static> {
        self.stack.sockets.get_mut(self.handle)
    }

    #[inline]
    pub(crate) fn turn(&mut self) {
        self.stack.turn();
    }

    /// Puts all of `bytes` into the socket's buffer, turning while it is full.
    #[inline]
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let count = self.socket().send_slice(bytes)?;
            if count == bytes.len() {
                return Ok(());
            }
            bytes = &bytes[count..];
            self.stack
                .turn_until(self.handle, |socket: &mut Socket<'_>| socket.can_send() || !socket.may_send())?;
        }
    }

    /// Puts as many of `bytes` into the socket's buffer as there is room for; returns how many.
    #[inline]
    pub(crate) fn offer(&mut self, bytes: &[u8]) -> Result<usize> {
        // Before the handshake is over there is no room.
        Ok(if self.socket().can_send() { self.socket().send_slice(bytes)? } else { 0 })
    }

    #[inline]
    pub(crate) fn is_readable(&mut self) -> bool {
        self.socket().can_recv()
    }

    /// Turns until there are bytes; false: there will be none any more.
    #[inline]
    pub(crate) fn wait_readable(&mut self) -> Result<bool> {
        self.stack
            .turn_until(self.handle, |socket: &mut Socket<'_>| socket.can_recv() || !socket.may_recv())?;
        Ok(self.socket().can_recv())
    }

    /// Takes what one receive yields, where it lies.
    #[inline]
    pub(crate) fn consume<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Ok(self.socket().recv(|bytes| (bytes.len(), look(bytes)))?)
    }

    /// Closes, and sees the peer do so.
    fn finish(&mut self) -> Result<()> {
        self.socket().close();
        self.stack.turn_until(self.handle, |socket: &mut Socket<'_>| {
            matches!(socket.state(), State::Closed | State::TimeWait)
        })
    }

    /// Ends in order, once all is delivered. Of two ends, the second to close does not wait for the first, which may be
    /// gone by then.
    pub(crate) fn close(mut self) -> Result<()> {
        self.socket().close();
        self.stack.turn();
        self.stack
            .turn_until(self.handle, |socket: &mut Socket<'_>| {
                matches!(socket.state(), State::Closed | State::TimeWait | State::FinWait2 | State::LastAck)
            })
            .map_err(|error| anyhow!("the peer does not take the rest: {error}"))
    }
}
