//! Both ends over a libOS.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use demi_api::{
    Completion, Demikernel, Domain, Done, Error, LibOs, QDesc, SgArray, SocketKind, SocketOption,
};

use super::Fleet;
use crate::echo::announce;
use crate::measure::PATIENCE;

/// Results taken with one wait.
const BATCH: usize = 64;

/// Echoes to `connections` until all have ended.
pub(super) fn serve<L: LibOs>(demi: &Demikernel<L>, addr: SocketAddr, connections: usize) -> Result<()> {
    let listener = demi.socket(Domain::Inet, SocketKind::Stream)?;
    demi.bind(listener, addr)?;
    demi.listen(listener, u32::try_from(connections)?)?;
    demi.accept(listener)?;
    announce(demi.local_addr(listener)?.inet().context("the address of a TCP listener")?)?;
    let mut accepted = 0;
    let mut alive = HashSet::with_capacity(connections);
    let mut results: Vec<Completion> = Vec::with_capacity(BATCH);
    while accepted < connections || !alive.is_empty() {
        // No limit before the first: whoever starts both ends decides how long the client may take.
        demi.wait_next_n(&mut results, BATCH, Some(PATIENCE).filter(|_| accepted > 0))?;
        for Completion { qd, result, .. } in results.drain(..) {
            match result {
                Ok(Done::Popped(sga)) if !sga.is_empty() => {
                    demi.push(qd, sga).map_err(Error::from)?;
                    demi.pop(qd)?;
                }
                Ok(Done::Accepted { qd, .. }) => {
                    demi.set_option(qd, SocketOption::NoDelay(true))?;
                    demi.pop(qd)?;
                    alive.insert(qd);
                    accepted += 1;
                    if accepted < connections {
                        demi.accept(listener)?;
                    }
                }
                // The end of the stream; or a client that was overrun and ends without having taken everything.
                Ok(Done::Popped(_)) | Err(_) if alive.remove(&qd) => demi.close(qd)?,
                Ok(_) => {}
                Err(error) if qd == listener => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
    // The last acknowledgements, which nobody waits for, leave with the next turns.
    for _ in 0..BATCH {
        demi.poll()?;
    }
    Ok(())
}

pub(super) struct Clients<L: LibOs> {
    demi: Demikernel<L>,
    message: SgArray,
    queues: Vec<QDesc>,
    /// Connections by the number of their descriptor.
    numbers: Vec<usize>,
    results: Vec<Completion>,
}

impl<L: LibOs> Clients<L> {
    pub(super) fn connect(
        demi: Demikernel<L>,
        addr: SocketAddr,
        connections: usize,
        size: usize,
    ) -> Result<Clients<L>> {
        let message = demi.copy_from(&vec![0x5a; size])?;
        let (mut queues, mut numbers) = (Vec::new(), Vec::new());
        for number in 0..connections {
            let qd = demi.socket(Domain::Inet, SocketKind::Stream)?;
            match demi.wait(demi.connect(qd, addr)?, Some(PATIENCE))?.result? {
                Done::Connected => {}
                other => bail!("connect ended as {other:?}"),
            }
            demi.set_option(qd, SocketOption::NoDelay(true))?;
            let place = qd.raw() as usize;
            numbers.resize(numbers.len().max(place + 1), usize::MAX);
            numbers[place] = number;
            queues.push(qd);
        }
        for qd in &queues {
            demi.pop(*qd)?;
        }
        Ok(Clients { demi, message, queues, numbers, results: Vec::with_capacity(BATCH) })
    }
}

impl<L: LibOs> Fleet for Clients<L> {
    #[inline]
    fn send(&mut self, connection: usize) -> Result<()> {
        self.demi.push(self.queues[connection], self.message.clone()).map_err(Error::from)?;
        Ok(())
    }

    #[inline]
    fn poll(&mut self, arrived: &mut Vec<(usize, usize)>) -> Result<()> {
        match self.demi.wait_next_n(&mut self.results, BATCH, Some(Duration::ZERO)) {
            Ok(_) => {}
            Err(Error::TimedOut) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for Completion { qd, result, .. } in self.results.drain(..) {
            if let Done::Popped(sga) = result? {
                if sga.is_empty() {
                    bail!("the server closed a connection");
                }
                arrived.push((self.numbers[qd.raw() as usize], sga.len()));
                self.demi.pop(qd)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for qd in &self.queues {
            self.demi.close(*qd)?;
        }
        // Until all has left and is acknowledged, as far as that takes no longer than it should.
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(50) {
            self.demi.poll()?;
        }
        Ok(())
    }
}
