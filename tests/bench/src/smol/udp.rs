//! Datagrams over smoltcp.

use std::net::SocketAddr;

use anyhow::Result;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::IpEndpoint;

use super::Stack;

/// Datagrams, and bytes of them, that either buffer holds.
const DATAGRAMS: usize = 256;
const BYTES: usize = 512 << 10;

/// A socket and the stack that it lives in.
pub(crate) struct Datagrams {
    stack: Stack,
    handle: SocketHandle,
}

impl Datagrams {
    pub(crate) fn open(mut stack: Stack, port: u16) -> Result<Datagrams> {
        let handle = open(&mut stack, port)?;
        Ok(Datagrams { stack, handle })
    }

    #[inline]
    pub(crate) fn turn(&mut self) {
        self.stack.turn();
    }

    /// Takes a datagram's bytes over; they go out with the next turn.
    #[inline]
    pub(crate) fn send(&mut self, bytes: &[u8], to: SocketAddr) -> Result<()> {
        Ok(self.stack.sockets.get_mut::<Socket<'_>>(self.handle).send_slice(bytes, IpEndpoint::from(to))?)
    }

    /// Waits for a datagram and looks at it where it lies.
    #[inline]
    pub(crate) fn receive<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.stack.turn_until(self.handle, |socket: &mut Socket<'_>| socket.can_recv())?;
        Ok(look(self.stack.sockets.get_mut::<Socket<'_>>(self.handle).recv()?.0))
    }
}

fn open(stack: &mut Stack, port: u16) -> Result<SocketHandle> {
    let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], vec![0; BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.bind(port)?;
    Ok(stack.sockets.add(socket))
}
