//! The relay over a libOS: what is popped is pushed on, without a copy.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use demi_api::{Domain, Error, LibOs, SocketKind};

use crate::instance;
use crate::measure::PATIENCE;

pub(super) fn run<L: LibOs>(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let demi = instance::<L>(32)?;
    let input = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    demi.bind(input, listen)?;
    let output = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    demi.bind(output, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
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
