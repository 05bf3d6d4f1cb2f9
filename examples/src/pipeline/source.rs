//! Where messages come from: a UDP socket is a queue of messages by itself. The lines of TCP connections, which come
//! and go, are moved into a queue in memory, which stays.

use std::str::FromStr;

use demi_api::graph::frame::Codec;
use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, QDesc, QToken};

use crate::net::{self, Endpoint, Listener};

/// The address of a source, and how to listen there.
#[derive(Debug, Clone)]
pub(super) enum Where {
    Udp(Endpoint),
    Tcp(Endpoint),
}

impl FromStr for Where {
    type Err = Error;

    fn from_str(text: &str) -> Result<Where, Error> {
        Ok(match text.strip_prefix("tcp:") {
            Some(addr) => Where::Tcp(addr.parse()?),
            None => Where::Udp(text.strip_prefix("udp:").unwrap_or(text).parse()?),
        })
    }
}

/// TCP connections whose lines go to one queue.
pub(super) struct Lines {
    listener: Listener,
    inbox: QDesc,
    connections: Vec<Connection>,
}

/// A connection does one thing at a time, so a full inbox holds up its peer.
struct Connection {
    framed: QDesc,
    token: QToken,
}

/// Opens a source: the queue to pop from and the address, and what must be kept going for it.
pub(super) fn open<L: LibOs>(
    demi: &Demikernel<L>,
    at: &Where,
) -> anyhow::Result<(QDesc, Addr, Option<Lines>)> {
    match at {
        Where::Udp(addr) => {
            let qd = net::bind_datagram(demi, &addr.addr())?;
            Ok((qd, demi.local_addr(qd)?, None))
        }
        Where::Tcp(addr) => {
            let listener = Listener::open(demi, &addr.addr())?;
            let (addr, inbox) = (listener.addr().clone(), demi.queue()?);
            Ok((inbox, addr, Some(Lines { listener, inbox, connections: Vec::new() })))
        }
    }
}

impl Lines {
    /// Deals with a result if it is one of this source's; else gives it back.
    pub(super) fn step<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        completion: Completion,
    ) -> Option<Completion> {
        if self.listener.owns(&completion) {
            if let Some(stream) = self.listener.accepted(demi, completion.result) {
                self.connections.extend(Connection::new(demi, stream));
            }
            return None;
        }
        let Some(index) = self.connections.iter().position(|it| it.token == completion.token) else {
            return Some(completion);
        };
        let connection = &mut self.connections[index];
        let next = match completion.result {
            Ok(Done::Popped(line)) => demi.push(self.inbox, line).map_err(Error::from),
            Ok(_) => demi.pop(connection.framed),
            Err(error) => Err(error),
        };
        match next {
            Ok(token) => connection.token = token,
            Err(error) => {
                tracing::debug!(%error, "a connection has ended");
                let connection = self.connections.swap_remove(index);
                let _ = demi.close(connection.framed);
            }
        }
        None
    }

    /// Goes on accepting after a failure.
    pub(super) fn again<L: LibOs>(&mut self, demi: &Demikernel<L>) -> Option<std::time::Duration> {
        self.listener.again(demi)
    }
}

impl Connection {
    fn new<L: LibOs>(demi: &Demikernel<L>, stream: QDesc) -> Option<Connection> {
        let framed = demi.frame(stream, Codec::Delimiter(b"\n".to_vec()));
        match framed.and_then(|framed| Ok(Connection { framed, token: demi.pop(framed)? })) {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::warn!(%error, "a connection was turned away");
                let _ = demi.close(stream);
                None
            }
        }
    }
}
