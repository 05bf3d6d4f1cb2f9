//! Both ends over catnip.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Result, bail};
use demi_api::{Demikernel, Domain, Done, Error, QDesc, QToken, SgArray, SocketKind};
use demi_libos_catnip::Catnip;
use serde_json::{Map, Value};

use super::nic::{End, Nic, SERVER};
use super::pattern::Pattern;
use super::{PIECE, PIECES, Receiver, Sender};
use crate::measure::PATIENCE;

/// Arrays under way at the most: 2 MiB.
pub(super) const WINDOW: usize = 32;

pub(super) const PORT: u16 = 5001;

pub(super) struct Sending {
    demi: Demikernel<Catnip>,
    qd: QDesc,
    array: SgArray,
    pending: VecDeque<QToken>,
}

impl Sending {
    pub(super) fn connect(nic: &Nic, server: SocketAddr) -> Result<Sending> {
        let demi = nic.catnip(End::Client)?;
        let qd = demi.socket(Domain::Inet, SocketKind::Stream)?;
        match demi.wait(demi.connect(qd, server)?, Some(PATIENCE))?.result? {
            Done::Connected => {}
            other => bail!("connect ended as {other:?}"),
        }
        let array = fresh(&demi, |bytes| bytes.fill(0x5a))?;
        Ok(Sending { demi, qd, array, pending: VecDeque::with_capacity(WINDOW) })
    }
}

impl Sender for Sending {
    #[inline]
    fn send(&mut self, pattern: Option<&mut Pattern>) -> Result<usize> {
        if self.pending.len() == WINDOW
            && let Some(oldest) = self.pending.pop_front()
        {
            self.demi.wait(oldest, Some(PATIENCE))?.pushed()?;
        }
        let array = match pattern {
            Some(pattern) => fresh(&self.demi, |bytes| pattern.fill(bytes))?,
            None => self.array.clone(),
        };
        self.pending.push_back(self.demi.push(self.qd, array).map_err(Error::from)?);
        Ok(PIECES * PIECE)
    }

    fn finish(mut self) -> Result<Map<String, Value>> {
        for token in self.pending.drain(..) {
            self.demi.wait(token, Some(PATIENCE))?.pushed()?;
        }
        self.demi.close(self.qd)?;
        // The peer answers the FIN once it has taken everything, within a moment.
        for _ in 0..10_000 {
            self.demi.poll()?;
        }
        counted(&self.demi)
    }
}

/// An array of the size that is sent.
pub(super) fn fresh(demi: &Demikernel<Catnip>, mut fill: impl FnMut(&mut [u8])) -> Result<SgArray> {
    let mut array = SgArray::new();
    for _ in 0..PIECES {
        let mut piece = demi.alloc(PIECE)?;
        fill(&mut piece);
        array.push(piece.freeze())?;
    }
    Ok(array)
}

pub(super) struct Receiving {
    demi: Demikernel<Catnip>,
    qd: QDesc,
}

impl Receiving {
    pub(super) fn accept(nic: &Nic) -> Result<Receiving> {
        let demi = nic.catnip(End::Server)?;
        let listener = demi.socket(Domain::Inet, SocketKind::Stream)?;
        demi.bind(listener, SocketAddr::from((SERVER, PORT)))?;
        demi.listen(listener, 1)?;
        super::announce(SocketAddr::from((SERVER, PORT)))?;
        let (qd, _) = demi.wait(demi.accept(listener)?, Some(PATIENCE))?.accepted()?;
        Ok(Receiving { demi, qd })
    }
}

impl Receiver for Receiving {
    #[inline]
    fn receive(&mut self, mut look: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let array = self.demi.wait(self.demi.pop(self.qd)?, Some(PATIENCE))?.popped()?;
        array.segments().iter().try_for_each(|part| look(part))?;
        Ok(array.len())
    }

    fn finish(self) -> Result<Map<String, Value>> {
        self.demi.close(self.qd)?;
        for _ in 0..10_000 {
            self.demi.poll()?;
        }
        counted(&self.demi)
    }
}

/// What the stack and its device have counted, but for what is zero.
fn counted(demi: &Demikernel<Catnip>) -> Result<Map<String, Value>> {
    let counters = demi.counters()?;
    let mut counted = Map::new();
    for (name, value) in counters.libos {
        if value > 0 || name == "tcp_retransmitted" || name.contains("copied") {
            counted.insert(name.into(), value.into());
        }
    }
    counted.insert("heap_joined_bytes".into(), counters.heap.joined_bytes.into());
    Ok(counted)
}
