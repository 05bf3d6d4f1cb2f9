//! The same echo over a libOS.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use demi_api::{Demikernel, Done, Error, LibOs, QDesc, QToken, SgArray, SocketKind, SocketOption};

use super::Exchange;
use crate::instance;
use crate::measure::PATIENCE;

pub(super) fn serve<L: LibOs>(addr: SocketAddr, heap_mib: usize) -> Result<()> {
    let demi = instance::<L>(heap_mib)?;
    let listener = demi.socket(demi_api::Domain::Inet, SocketKind::Stream)?;
    demi.bind(listener, addr)?;
    demi.listen(listener, 8)?;
    super::announce(demi.local_addr(listener)?.inet().context("the address of a TCP listener")?)?;
    let (qd, _) = demi.wait(demi.accept(listener)?, None)?.accepted()?;
    demi.set_option(qd, SocketOption::NoDelay(true))?;
    loop {
        let sga = demi.wait(demi.pop(qd)?, Some(PATIENCE))?.popped()?;
        if sga.is_empty() {
            return Ok(());
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
}

impl<L: LibOs> Client<L> {
    pub(super) fn connect(addr: SocketAddr, size: usize, heap_mib: usize) -> Result<Client<L>> {
        let demi = instance::<L>(heap_mib)?;
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
}
