//! The same echo over a libOS.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use demi_api::{
    Demikernel, Done, Error, LibOs, OpenOptions, QDesc, QToken, SgArray, Shutdown, SocketKind, SocketOption,
};
use serde_json::Value;

use super::Exchange;
use crate::measure::PATIENCE;

/// How long a client waits for the server to close, too: in vain if the last frames were lost, which is no harm.
const FAREWELL: Duration = Duration::from_millis(200);

/// With a log, what comes in is durable there before it is sent back.
pub(super) fn serve<L: LibOs>(demi: &Demikernel<L>, addr: SocketAddr, log: Option<&str>) -> Result<()> {
    let options = OpenOptions { create: true, durable: true, ..OpenOptions::default() };
    let log = log.map(|name| demi.open(name, &options)).transpose()?;
    let listener = demi.socket(demi_api::Domain::Inet, SocketKind::Stream)?;
    demi.bind(listener, addr)?;
    demi.listen(listener, 8)?;
    super::announce(demi.local_addr(listener)?.inet().context("the address of a TCP listener")?)?;
    let (qd, _) = demi.wait(demi.accept(listener)?, None)?.accepted()?;
    demi.set_option(qd, SocketOption::NoDelay(true))?;
    loop {
        let sga = demi.wait(demi.pop(qd)?, Some(PATIENCE))?.popped()?;
        if sga.is_empty() {
            return Ok(demi.close(qd)?);
        }
        if let Some(log) = log {
            let token = demi.push(log, sga.clone()).map_err(Error::from)?;
            demi.wait(token, Some(PATIENCE))?.pushed()?;
        }
        let token = demi.push(qd, sga).map_err(Error::from)?;
        demi.wait(token, Some(PATIENCE))?.pushed()?;
    }
}

pub(super) struct Client<L: LibOs> {
    demi: Demikernel<L>,
    qd: QDesc,
    message: SgArray,
    tokens: Vec<QToken>,
}

/// A client that waits for each push before the next.
pub(super) struct Lockstep<L: LibOs>(pub(super) Client<L>);

impl<L: LibOs> Exchange for Lockstep<L> {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        let Client { demi, qd, message, .. } = &self.0;
        for _ in 0..count {
            let token = demi.push(*qd, message.clone()).map_err(Error::from)?;
            demi.wait(token, Some(PATIENCE))?.pushed()?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        self.0.receive()
    }

    fn end(&mut self) -> Result<()> {
        self.0.end()
    }

    fn counters(&self) -> Result<Value> {
        self.0.counters()
    }
}

impl<L: LibOs> Client<L> {
    pub(super) fn connect(demi: Demikernel<L>, addr: SocketAddr, size: usize) -> Result<Client<L>> {
        let qd = demi.socket(demi_api::Domain::Inet, SocketKind::Stream)?;
        match demi.wait(demi.connect(qd, addr)?, Some(PATIENCE))?.result? {
            Done::Connected => {}
            other => bail!("connect ended as {other:?}"),
        }
        demi.set_option(qd, SocketOption::NoDelay(true))?;
        let message = demi.copy_from(&vec![0x5a; size])?;
        Ok(Client { demi, qd, message, tokens: Vec::new() })
    }
}

impl<L: LibOs> Exchange for Client<L> {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.tokens.push(self.demi.push(self.qd, self.message.clone()).map_err(Error::from)?);
        }
        for token in self.tokens.drain(..) {
            self.demi.wait(token, Some(PATIENCE))?.pushed()?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        let sga = self.demi.wait(self.demi.pop(self.qd)?, Some(PATIENCE))?.popped()?;
        if sga.is_empty() {
            bail!("the server closed the connection");
        }
        Ok(sga.len())
    }
    fn end(&mut self) -> Result<()> {
        self.demi.shutdown(self.qd, Shutdown::Write)?;
        // The end of the stream, or a connection that the server no longer knows.
        let _ = self.demi.wait(self.demi.pop(self.qd)?, Some(FAREWELL));
        Ok(())
    }

    fn counters(&self) -> Result<Value> {
        counters(&self.demi)
    }
}

/// What the libOS has counted, where that is anything.
pub(super) fn counters<L: LibOs>(demi: &Demikernel<L>) -> Result<Value> {
    let counters = demi.counters()?.libos.into_iter().filter(|(_, value)| *value > 0);
    Ok(counters.map(|(name, value)| (name.to_owned(), Value::from(value))).collect())
}
