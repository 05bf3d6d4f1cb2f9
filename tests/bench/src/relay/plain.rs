//! The control: a relay over plain non-blocking sockets that spins on `recv`.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use rustix::net::{SendFlags, send};

pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let input = UdpSocket::bind(listen)?;
    input.set_nonblocking(true)?;
    let output = UdpSocket::bind((listen.ip(), 0))?;
    output.connect(to)?;
    super::announce(input.local_addr()?)?;
    let mut buffer = vec![0; super::LARGEST];
    loop {
        let count = super::receive(&input, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        send(&output, &buffer[..count], SendFlags::NOSIGNAL)?;
    }
}
