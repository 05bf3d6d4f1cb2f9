//! An echo over UDP on smoltcp.

use std::net::SocketAddr;

use anyhow::Result;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};
use smoltcp::wire::IpEndpoint;

use super::Stack;
use crate::echo::Exchange;

/// Datagrams, and bytes of them, that either buffer holds.
const DATAGRAMS: usize = 256;
const BYTES: usize = 512 << 10;

/// Sends datagrams back until one is empty.
pub(crate) fn serve(mut stack: Stack, port: u16) -> Result<()> {
    let handle = open(&mut stack, port)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        // No limit: whoever starts both ends decides how long the other may take.
        while !stack.sockets.get_mut::<Socket<'_>>(handle).can_recv() {
            stack.turn();
        }
        let socket = stack.sockets.get_mut::<Socket<'_>>(handle);
        while let Ok((count, from)) = socket.recv_slice(&mut buffer) {
            if count == 0 {
                return Ok(());
            }
            socket.send_slice(&buffer[..count], UdpMetadata::from(from.endpoint))?;
        }
        stack.turn();
    }
}

/// An echo's client.
pub(crate) struct Client {
    stack: Stack,
    handle: SocketHandle,
    server: IpEndpoint,
    message: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(mut stack: Stack, server: SocketAddr, size: usize) -> Result<Client> {
        let handle = open(&mut stack, 49152 + (std::process::id() % 16384) as u16)?;
        Ok(Client { stack, handle, server: server.into(), message: vec![0x5a; size] })
    }

    /// Tells the server to end.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stack.sockets.get_mut::<Socket<'_>>(self.handle).send_slice(&[], self.server)?;
        self.stack.turn();
        Ok(())
    }
}

impl Exchange for Client {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        let socket = self.stack.sockets.get_mut::<Socket<'_>>(self.handle);
        for _ in 0..count {
            socket.send_slice(&self.message, self.server)?;
        }
        self.stack.turn();
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        self.stack.turn_until(self.handle, |socket: &mut Socket<'_>| socket.can_recv())?;
        Ok(self.stack.sockets.get_mut::<Socket<'_>>(self.handle).recv()?.0.len())
    }
}

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
