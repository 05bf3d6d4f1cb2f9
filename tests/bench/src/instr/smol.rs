//! The exchange over two smoltcp stacks.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use demi_api::memalloc::{Heap, HeapConfig};
use demi_libos_catnip::device::Wire;

use super::{Echo, MACS, MTU, PORT, Transport};
use crate::smol::{Stack, tcp, udp};

/// Turns after which a handshake is over on a wire that loses nothing.
const HANDSHAKE: usize = 16;

pub(super) struct Ends {
    client: End,
    server: End,
    message: Vec<u8>,
    /// What the server has received.
    taken: Vec<u8>,
}

enum End {
    Stream(tcp::Stream),
    Datagrams(udp::Datagrams, SocketAddr),
}

fn address(end: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, end as u8 + 1), PORT))
}

impl Ends {
    pub(super) fn connect(transport: Transport, size: usize) -> Result<Ends> {
        let wire = Wire::new();
        let heap = Heap::new(&HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() })?;
        let stack = |end: usize| -> Result<Stack> {
            let device = Box::new(wire.plug(MACS[end], MTU)?);
            Stack::over(heap.clone(), device, address(end).ip(), 24)
        };
        let (client, server) = (stack(0)?, stack(1)?);
        let (mut client, mut server) = match transport {
            Transport::Tcp => (
                End::Stream(tcp::Stream::begin(client, address(1))?),
                End::Stream(tcp::Stream::listen(server, PORT)?),
            ),
            Transport::Udp => (
                End::Datagrams(udp::Datagrams::open(client, PORT)?, address(1)),
                End::Datagrams(udp::Datagrams::open(server, PORT)?, address(0)),
            ),
        };
        // A datagram to a neighbour that is not known yet is lost, and what comes of it is that it is known.
        if transport == Transport::Udp {
            client.send(b"hello")?;
        }
        for _ in 0..HANDSHAKE {
            client.turn();
            server.turn();
        }
        if transport == Transport::Udp {
            server.receive(&mut Vec::new())?;
            server.send(b"hello")?;
            client.receive(&mut Vec::new())?;
        }
        Ok(Ends { client, server, message: vec![0x5a; size], taken: Vec::with_capacity(2048) })
    }
}

impl End {
    fn turn(&mut self) {
        match self {
            End::Stream(stream) => stream.turn(),
            End::Datagrams(datagrams, _) => datagrams.turn(),
        }
    }

    #[inline]
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            End::Stream(stream) => stream.send(bytes)?,
            End::Datagrams(datagrams, peer) => datagrams.send(bytes, *peer)?,
        }
        self.turn();
        Ok(())
    }

    /// Waits for bytes and takes them.
    #[inline]
    fn receive(&mut self, taken: &mut Vec<u8>) -> Result<()> {
        taken.clear();
        match self {
            End::Stream(stream) => {
                ensure!(stream.wait_readable()?, "the peer has ended");
                stream.consume(|bytes| taken.extend_from_slice(bytes))
            }
            End::Datagrams(datagrams, _) => datagrams.receive(|bytes| taken.extend_from_slice(bytes)),
        }
    }
}

impl Echo for Ends {
    #[inline(never)]
    fn client_send(&mut self) -> Result<()> {
        self.client.send(&self.message)
    }

    #[inline(never)]
    fn server_receive(&mut self) -> Result<()> {
        self.server.receive(&mut self.taken)
    }

    #[inline(never)]
    fn server_send(&mut self) -> Result<()> {
        self.server.send(&self.taken)
    }

    #[inline(never)]
    fn client_receive(&mut self) -> Result<()> {
        self.client.receive(&mut self.taken)?;
        ensure!(self.taken.len() == self.message.len(), "another length came back");
        Ok(())
    }
}
