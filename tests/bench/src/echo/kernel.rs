//! The control: an echo over plain non-blocking sockets that spins on `recv`.

use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, bail};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Exchange;
use crate::measure::Guard;

/// As much as one receive may yield: what the subject asks for too.
const BUFFER: usize = 16 << 10;

pub(super) fn serve(addr: SocketAddr, loss_based: bool) -> Result<()> {
    let listener = TcpListener::bind(addr)?;
    if loss_based {
        heed_loss_only(&listener);
    }
    super::announce(listener.local_addr()?)?;
    let stream = ready(listener.accept()?.0)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = receive(&stream, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        send_all(&stream, &buffer[..count])?;
    }
}

pub(super) struct Client {
    stream: TcpStream,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn connect(addr: SocketAddr, size: usize, loss_based: bool) -> Result<Client> {
        let stream = ready(TcpStream::connect(addr)?)?;
        if loss_based {
            heed_loss_only(&stream);
        }
        Ok(Client { stream, message: vec![0x5a; size], buffer: vec![0; BUFFER] })
    }
}

impl Exchange for Client {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            send_all(&self.stream, &self.message)?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        let count = receive(&self.stream, &mut self.buffer)?;
        if count == 0 {
            bail!("the server closed the connection");
        }
        Ok(count)
    }
}

/// Gives a socket, and those that it accepts, congestion control by loss, as catnip's: CUBIC, or where that is not
/// allowed, Reno, which always is. Others pace what they send, and would be measured for that.
pub(crate) fn heed_loss_only(socket: impl AsFd) {
    // A system that allows neither keeps what it has: a comparison still, if with a milder control.
    let _ = ["cubic", "reno"].into_iter().any(|name| set_tcp_congestion(&socket, name).is_ok());
}

fn ready(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[inline]
fn receive(stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let mut guard = Guard::new();
    loop {
        match recv(stream, &mut *buffer, RecvFlags::empty()) {
            Ok((count, _)) => return Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => guard.spin()?,
            Err(error) => return Err(error.into()),
        }
    }
}

#[inline]
fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    let mut guard = Guard::new();
    loop {
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN | Errno::INTR) => guard.spin()?,
            Err(error) => return Err(error.into()),
        }
    }
}
