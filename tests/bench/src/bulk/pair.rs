//! Both ends of a bulk transfer in one thread, taking turns: what it costs in time of one core, whatever else runs on the
//! machine, and a run that callgrind can follow.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use demi_api::{Domain, Error, SocketKind};
use serde_json::json;

use super::catnip::{PORT, WINDOW, fresh};
use super::nic::{End, Nic, SERVER};
use super::{PIECE, PIECES, Subject};
use crate::cpu;
use crate::smol::tcp::Stream;

/// Turns without a byte after which the ends are taken not to reach each other.
const PATIENCE: usize = 10_000_000;

#[derive(clap::Args)]
pub(crate) struct PairArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    #[command(flatten)]
    nic: Nic,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// MiB to send
    #[arg(long, default_value_t = 256)]
    mib: u64,
}

/// Both ends of a connection.
trait Pair {
    /// Lets both ends work once; returns how many bytes have arrived.
    fn turn(&mut self) -> Result<usize>;
}

pub(crate) fn pair(args: &PairArgs) -> Result<()> {
    cpu::pin(args.core)?;
    match args.subject {
        Subject::Catnip => catnip(args),
        Subject::Smoltcp => run(&mut Smoltcp::connect(&args.nic)?, args),
        Subject::Kernel => bail!("the kernel's ends sleep: they cannot share a thread"),
    }
}

fn run(pair: &mut impl Pair, args: &PairArgs) -> Result<()> {
    // The window opens, and caches warm up.
    transfer(pair, args.mib << 17)?;
    let begin = cpu::spent()?;
    let bytes = transfer(pair, args.mib << 20)?;
    let seconds = (cpu::spent()? - begin).as_secs_f64();
    println!("{}", json!({ "bytes": bytes, "gbit_per_cpu_s": bytes as f64 * 8e-9 / seconds }));
    Ok(())
}

#[inline(never)]
fn transfer(pair: &mut impl Pair, least: u64) -> Result<u64> {
    let (mut bytes, mut idle) = (0, 0);
    while bytes < least {
        let count = pair.turn()?;
        bytes += count as u64;
        idle = if count == 0 { idle + 1 } else { 0 };
        ensure!(idle < PATIENCE, "nothing arrives any more");
    }
    Ok(bytes)
}

struct Smoltcp {
    client: Stream,
    server: Stream,
    array: Vec<u8>,
    sent: usize,
}

impl Smoltcp {
    fn connect(nic: &Nic) -> Result<Smoltcp> {
        let server = Stream::listen(nic.smoltcp(End::Server)?, PORT)?;
        let client = Stream::begin(nic.smoltcp(End::Client)?, SocketAddr::from((SERVER, PORT)))?;
        Ok(Smoltcp { client, server, array: vec![0x5a; PIECES * PIECE], sent: 0 })
    }
}

impl Pair for Smoltcp {
    #[inline]
    fn turn(&mut self) -> Result<usize> {
        self.sent += self.client.offer(&self.array[self.sent..])?;
        self.sent %= self.array.len();
        self.client.turn();
        self.server.turn();
        if self.server.is_readable() { self.server.consume(<[u8]>::len) } else { Ok(0) }
    }
}

/// Lives as long as both instances.
struct Catnip<F>(F);

impl<F: FnMut() -> Result<usize>> Pair for Catnip<F> {
    #[inline]
    fn turn(&mut self) -> Result<usize> {
        (self.0)()
    }
}

fn catnip(args: &PairArgs) -> Result<()> {
    let (server, client) = (args.nic.catnip(End::Server)?, args.nic.catnip(End::Client)?);
    let address = SocketAddr::from((SERVER, PORT));
    let listener = server.socket(Domain::Inet, SocketKind::Stream)?;
    server.bind(listener, address)?;
    server.listen(listener, 1)?;
    let accept = server.accept(listener)?;
    let qd = client.socket(Domain::Inet, SocketKind::Stream)?;
    let connect = client.connect(qd, address)?;
    let accepted = loop {
        client.poll()?;
        match server.wait(accept, Some(Duration::ZERO)) {
            Ok(done) => break done.accepted()?.0,
            Err(Error::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    };
    client.wait(connect, Some(crate::measure::PATIENCE))?.result?;
    let array = fresh(&client, |bytes| bytes.fill(0x5a))?;
    let mut pending = VecDeque::with_capacity(WINDOW);
    let mut pop = server.pop(accepted)?;
    let mut turn = || -> Result<usize> {
        while pending.len() < WINDOW {
            pending.push_back(client.push(qd, array.clone()).map_err(Error::from)?);
        }
        while let Some(oldest) = pending.front().copied() {
            match client.wait(oldest, Some(Duration::ZERO)) {
                Ok(done) => done.pushed()?,
                Err(Error::TimedOut) => break,
                Err(error) => return Err(error.into()),
            };
            pending.pop_front();
        }
        let mut taken = 0;
        loop {
            match server.wait(pop, Some(Duration::ZERO)) {
                Ok(done) => taken += done.popped()?.len(),
                Err(Error::TimedOut) => return Ok(taken),
                Err(error) => return Err(error.into()),
            }
            pop = server.pop(accepted)?;
        }
    };
    // The server goes on polling while bytes come, as one on a core of its own would.
    run(&mut Catnip(&mut turn), args)
}
