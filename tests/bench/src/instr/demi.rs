//! The exchange over two instances of catnip.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use demi_api::time::Clock;
use demi_api::{Config, Demikernel, Domain, Done, Error, QDesc, QToken, SgArray, SocketKind, SocketOption};
use demi_libos_catnip::device::Wire;
use demi_libos_catnip::{Catnip, CatnipSection};

use super::{Echo, MACS, MTU, PORT, Transport};
use crate::measure::PATIENCE;

pub(super) struct Ends {
    client: End,
    server: End,
    message: SgArray,
    /// What the server has received.
    taken: SgArray,
}

struct End {
    demi: Demikernel<Catnip>,
    qd: QDesc,
    /// Where datagrams go.
    peer: Option<SocketAddr>,
}

impl Ends {
    pub(super) fn connect(transport: Transport, size: usize) -> Result<Ends> {
        let wire = Wire::new();
        let [client, server] = [instance(&wire, 0)?, instance(&wire, 1)?];
        let (client, server) = match transport {
            Transport::Tcp => streams(client, server)?,
            Transport::Udp => datagrams(client, server)?,
        };
        let message = client.demi.copy_from(&vec![0x5a; size])?;
        Ok(Ends { client, server, message, taken: SgArray::new() })
    }
}

fn address(end: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, end as u8 + 1), PORT))
}

fn instance(wire: &Wire, end: usize) -> Result<Demikernel<Catnip>> {
    let text = format!("[heap]\nsize_mib = 32\n[catnip.ip]\naddresses = [\"{}/24\"]\n", address(end).ip());
    let config = Config::parse(&text, "instr")?;
    let section = CatnipSection::load(&config)?;
    let device = Box::new(wire.plug(MACS[end], MTU)?);
    let rng = fastrand::Rng::with_seed(end as u64);
    Ok(Demikernel::assemble(&config, Clock::start(), rng, |setup, rng| {
        Catnip::over(&setup, &section, device, rng)
    })?)
}

fn streams(client: Demikernel<Catnip>, server: Demikernel<Catnip>) -> Result<(End, End)> {
    let listener = server.socket(Domain::Inet, SocketKind::Stream)?;
    server.bind(listener, address(1))?;
    server.listen(listener, 8)?;
    let accept = server.accept(listener)?;
    let qd = client.socket(Domain::Inet, SocketKind::Stream)?;
    let connect = client.connect(qd, address(1))?;
    let ends = [&client, &server];
    let Done::Connected = turn_until(ends, 0, connect)? else { bail!("connect ended as something else") };
    let Done::Accepted { qd: accepted, .. } = turn_until(ends, 1, accept)? else {
        bail!("accept ended as something else")
    };
    client.set_option(qd, SocketOption::NoDelay(true))?;
    server.set_option(accepted, SocketOption::NoDelay(true))?;
    Ok((End { demi: client, qd, peer: None }, End { demi: server, qd: accepted, peer: None }))
}

fn datagrams(client: Demikernel<Catnip>, server: Demikernel<Catnip>) -> Result<(End, End)> {
    let open = |demi: &Demikernel<Catnip>, end| -> Result<QDesc> {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram)?;
        demi.bind(qd, address(end))?;
        Ok(qd)
    };
    let qds = [open(&client, 0)?, open(&server, 1)?];
    // One each way, so that the neighbours are known.
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [&client, &server];
        let token = ends[to].pop(qds[to])?;
        let greeting = ends[from].copy_from(b"hello")?;
        ends[from].push_to(qds[from], greeting, address(to)).map_err(Error::from)?;
        let _greeting = turn_until(ends, to, token)?;
    }
    let [near, far] = qds;
    Ok((
        End { demi: client, qd: near, peer: Some(address(1)) },
        End { demi: server, qd: far, peer: Some(address(0)) },
    ))
}

/// Lets both ends work until the operation of one of them is done.
fn turn_until(ends: [&Demikernel<Catnip>; 2], whose: usize, token: QToken) -> Result<Done> {
    for _ in 0..1000 {
        for end in ends {
            end.poll()?;
        }
        match ends[whose].wait(token, Some(std::time::Duration::ZERO)) {
            Ok(completion) => return Ok(completion.result?),
            Err(Error::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the ends do not reach each other")
}

impl End {
    #[inline]
    fn send(&self, sga: SgArray) -> Result<()> {
        let token = match self.peer {
            None => self.demi.push(self.qd, sga),
            Some(peer) => self.demi.push_to(self.qd, sga, peer),
        };
        self.demi.wait(token.map_err(Error::from)?, Some(PATIENCE))?.pushed()?;
        Ok(())
    }

    #[inline]
    fn receive(&self) -> Result<SgArray> {
        let sga = self.demi.wait(self.demi.pop(self.qd)?, Some(PATIENCE))?.popped()?;
        ensure!(!sga.is_empty(), "the peer has ended");
        Ok(sga)
    }
}

impl Echo for Ends {
    #[inline(never)]
    fn client_send(&mut self) -> Result<()> {
        self.client.send(self.message.clone())
    }

    #[inline(never)]
    fn server_receive(&mut self) -> Result<()> {
        self.taken = self.server.receive()?;
        Ok(())
    }

    #[inline(never)]
    fn server_send(&mut self) -> Result<()> {
        self.server.send(std::mem::take(&mut self.taken))
    }

    #[inline(never)]
    fn client_receive(&mut self) -> Result<()> {
        let echo = self.client.receive()?;
        ensure!(echo.len() == self.message.len(), "another length came back");
        Ok(())
    }
}
