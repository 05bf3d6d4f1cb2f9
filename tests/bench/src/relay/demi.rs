//! The relay over a libOS: what is popped is pushed on, without a copy.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use demi_api::{Demikernel, Domain, Error, LibOs, SocketKind};

use crate::measure::PATIENCE;

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let input = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    demi.bind(input, listen)?;
    let output = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    demi.bind(output, SocketAddr::new(listen.ip(), 0))?;
    demi.wait(demi.connect(output, to)?, Some(PATIENCE))?.result?;
    super::announce(demi.local_addr(input)?.inet().context("the address of a UDP socket")?)?;
    loop {
        let sga = demi.wait(demi.pop(input)?, Some(PATIENCE))?.popped()?;
        if sga.is_empty() {
            return Ok(());
        }
        let token = demi.push(output, sga).map_err(Error::from)?;
        demi.wait(token, Some(PATIENCE))?.pushed()?;
    }
}
