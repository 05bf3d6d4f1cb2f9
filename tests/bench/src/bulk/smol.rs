//! Both ends over smoltcp.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Map, Value};

use super::nic::{End, Nic, SERVER};
use super::pattern::Pattern;
use super::{PIECE, PIECES, Receiver, Sender};
use crate::smol::tcp::Stream;

const PORT: u16 = 5001;

pub(super) struct Sending {
    stream: Stream,
    array: Vec<u8>,
}

impl Sending {
    pub(super) fn connect(nic: &Nic, server: SocketAddr) -> Result<Sending> {
        let stream = Stream::connect(nic.smoltcp(End::Client)?, server)?;
        Ok(Sending { stream, array: vec![0x5a; PIECES * PIECE] })
    }
}

impl Sender for Sending {
    #[inline]
    fn send(&mut self, pattern: Option<&mut Pattern>) -> Result<usize> {
        if let Some(pattern) = pattern {
            pattern.fill(&mut self.array);
        }
        self.stream.send(&self.array)?;
        Ok(self.array.len())
    }

    fn finish(self) -> Result<Map<String, Value>> {
        self.stream.close()?;
        Ok(Map::new())
    }
}

pub(super) struct Receiving(Stream);

impl Receiving {
    pub(super) fn accept(nic: &Nic) -> Result<Receiving> {
        let stack = nic.smoltcp(End::Server)?;
        super::announce(SocketAddr::from((SERVER, PORT)))?;
        Ok(Receiving(Stream::accept(stack, PORT)?))
    }
}

impl Receiver for Receiving {
    #[inline]
    fn receive(&mut self, look: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        if !self.0.wait_readable()? {
            return Ok(0);
        }
        let mut look = look;
        self.0.consume(|bytes| look(bytes).map(|()| bytes.len()))?
    }

    fn finish(self) -> Result<Map<String, Value>> {
        self.0.close()?;
        Ok(Map::new())
    }
}
