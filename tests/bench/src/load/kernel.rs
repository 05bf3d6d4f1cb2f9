//! The control: plain non-blocking sockets that spin, on `recv` with one connection and on epoll with more.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, bail};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Fleet;
use crate::echo::announce;
use crate::echo::kernel::heed_loss_only;
use crate::measure::Guard;

/// As much as one receive may yield.
const BUFFER: usize = 64 << 10;

/// Connections looked at in one round.
const BATCH: usize = 64;

/// Which connections there is something to read on, for all that is known.
struct Ready {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    connections: usize,
}

impl Ready {
    fn of(streams: &[TcpStream]) -> Result<Ready> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, stream) in streams.iter().enumerate() {
            epoll::add(&epoll, stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        }
        Ok(Ready { epoll, events: Vec::with_capacity(BATCH), connections: streams.len() })
    }

    /// Appends their numbers, without waiting. A single connection is always worth a look.
    #[inline]
    fn look(&mut self, numbers: &mut Vec<usize>) -> Result<()> {
        if self.connections == 1 {
            numbers.push(0);
            return Ok(());
        }
        self.events.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        numbers.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }

    fn forget(&mut self, stream: &TcpStream) -> Result<()> {
        Ok(epoll::delete(&self.epoll, stream)?)
    }
}

/// Echoes to `connections` until all have ended.
pub(super) fn serve(addr: SocketAddr, connections: usize) -> Result<()> {
    let listener = TcpListener::bind(addr)?;
    heed_loss_only(&listener);
    announce(listener.local_addr()?)?;
    let streams = (0..connections).map(|_| prepared(listener.accept()?.0)).collect::<Result<Vec<_>>>()?;
    let mut ready = Ready::of(&streams)?;
    let mut unsent: Vec<VecDeque<u8>> = streams.iter().map(|_| VecDeque::new()).collect();
    let mut blocked = 0_usize;
    let mut buffer = vec![0; BUFFER];
    let (mut numbers, mut ended, mut guard) = (Vec::with_capacity(BATCH), 0, Guard::new());
    while ended < connections {
        if blocked > 0 {
            for (stream, unsent) in streams.iter().zip(&mut unsent).filter(|(_, unsent)| !unsent.is_empty()) {
                let sent = send_some(stream, unsent.make_contiguous())?;
                unsent.drain(..sent);
                blocked -= usize::from(unsent.is_empty());
            }
        }
        ready.look(&mut numbers)?;
        let mut idle = true;
        for number in numbers.drain(..) {
            // What came before goes back first; nothing more is read until it has.
            if !unsent[number].is_empty() {
                continue;
            }
            let Some(count) = receive(&streams[number], &mut buffer)? else { continue };
            idle = false;
            if count == 0 {
                ready.forget(&streams[number])?;
                ended += 1;
                continue;
            }
            let sent = send_some(&streams[number], &buffer[..count])?;
            if sent < count {
                unsent[number].extend(&buffer[sent..count]);
                blocked += 1;
            }
        }
        if idle {
            guard.spin()?;
        } else {
            guard = Guard::new();
        }
    }
    Ok(())
}

pub(super) struct Clients {
    streams: Vec<TcpStream>,
    ready: Ready,
    message: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes that a connection has yet to send: all messages are alike.
    unsent: Vec<usize>,
    blocked: usize,
    numbers: Vec<usize>,
}

impl Clients {
    pub(super) fn connect(addr: SocketAddr, connections: usize, size: usize) -> Result<Clients> {
        let streams =
            (0..connections).map(|_| prepared(TcpStream::connect(addr)?)).collect::<Result<Vec<_>>>()?;
        streams.iter().for_each(heed_loss_only);
        Ok(Clients {
            ready: Ready::of(&streams)?,
            unsent: vec![0; streams.len()],
            streams,
            message: vec![0x5a; size],
            buffer: vec![0; BUFFER],
            blocked: 0,
            numbers: Vec::with_capacity(BATCH),
        })
    }

    /// Sends what a connection has yet to send.
    fn carry_on(&mut self, connection: usize) -> Result<()> {
        while self.unsent[connection] > 0 {
            let count = self.unsent[connection].min(self.message.len());
            let sent = send_some(&self.streams[connection], &self.message[..count])?;
            self.unsent[connection] -= sent;
            if sent < count {
                return Ok(());
            }
        }
        self.blocked -= 1;
        Ok(())
    }
}

impl Fleet for Clients {
    #[inline]
    fn send(&mut self, connection: usize) -> Result<()> {
        if self.unsent[connection] > 0 {
            self.unsent[connection] += self.message.len();
            return Ok(());
        }
        let sent = send_some(&self.streams[connection], &self.message)?;
        if sent < self.message.len() {
            self.unsent[connection] = self.message.len() - sent;
            self.blocked += 1;
        }
        Ok(())
    }

    #[inline]
    fn poll(&mut self, arrived: &mut Vec<(usize, usize)>) -> Result<()> {
        if self.blocked > 0 {
            for connection in 0..self.streams.len() {
                if self.unsent[connection] > 0 {
                    self.carry_on(connection)?;
                }
            }
        }
        let mut numbers = std::mem::take(&mut self.numbers);
        self.ready.look(&mut numbers)?;
        for number in numbers.drain(..) {
            match receive(&self.streams[number], &mut self.buffer)? {
                Some(0) => bail!("the server closed a connection"),
                Some(count) => arrived.push((number, count)),
                None => {}
            }
        }
        self.numbers = numbers;
        Ok(())
    }
}

fn prepared(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// What there is; `None`: nothing yet. A client that was overrun ends with a reset, which is an end as well.
#[inline]
fn receive(stream: &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>> {
    match recv(stream, buffer, RecvFlags::empty()) {
        Ok((count, _)) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(Errno::CONNRESET) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}

/// As much as the socket takes. One that has ended takes everything: receiving tells the end.
#[inline]
fn send_some(stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match send(stream, bytes, SendFlags::NOSIGNAL) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(Errno::CONNRESET | Errno::PIPE) => Ok(bytes.len()),
        Err(error) => Err(error.into()),
    }
}
