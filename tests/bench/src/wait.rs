//! What one completion costs beside many idle queues.
//!
//! One connection from the instance to itself is active: push on one end, pop at the other, both waited for.
//! Beside it lie idle queues, each with an outstanding pop that nothing will ever complete. The process sets
//! up, says so, and then runs one slice of operations for every number that it reads from standard input, so
//! that two of them can take turns on one core within milliseconds.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use demi_api::{Completion, Demikernel, Domain, Error, LibOs, QDesc, QToken, SgArray, SocketKind, WaitSet};
use demi_libos_catnap::Catnap;
use demi_tests::Loopback;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::measure::PATIENCE;
use crate::{LibosName, cpu, instance};

/// Sockets bound to one address: fewer than it has ports.
const PER_ADDRESS: usize = 10_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum)]
    libos: LibosName,
    /// Idle queues, each with an outstanding pop
    #[arg(long)]
    idle: usize,
    /// How to wait for the active ones
    #[arg(long, value_enum, default_value_t = How::NextN)]
    how: How,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 64)]
    heap_mib: usize,
    /// Run one slice of so many operations and end, instead of reading standard input
    #[arg(long)]
    once: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum How {
    /// `wait` for the one token.
    One,
    /// `wait_next_n`, which may return any token of the application, the idle ones among them.
    NextN,
    /// A wait set that holds every idle token too.
    Set,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    cpu::pin(args.core)?;
    match args.libos {
        LibosName::Catnap => {
            raise_descriptor_limit(args.idle)?;
            slices::<Catnap>(args)
        }
        LibosName::Loopback => slices::<Loopback>(args),
    }
}

fn slices<L: LibOs>(args: &Args) -> Result<()> {
    let demi = instance::<L>(args.heap_mib)?;
    let (near, far) = connection(&demi)?;
    let set = demi.wait_set()?;
    for index in 0..args.idle {
        let token = idle(&demi, index).with_context(|| format!("idle queue {index}"))?;
        if args.how == How::Set {
            set.add(token)?;
        }
    }
    let mut active = Active {
        message: demi.copy_from(&[0x5a; 64])?,
        results: Vec::with_capacity(2),
        demi,
        set,
        near,
        far,
        how: args.how,
    };
    active.slice(1000)?;
    if let Some(operations) = args.once {
        return active.slice(operations);
    }
    println!("{}", json!({ "ready": args.idle }));
    std::io::stdout().flush()?;
    for line in std::io::stdin().lock().lines() {
        let operations: u64 = line?.trim().parse().context("standard input takes numbers of operations")?;
        // The process has been asleep and others have had its caches.
        active.slice(operations / 10)?;
        let begin = Instant::now();
        active.slice(operations)?;
        let nanos = begin.elapsed().as_nanos() as f64;
        println!("{}", json!({ "ns_per_completion": nanos / (2 * operations.max(1)) as f64 }));
        std::io::stdout().flush()?;
    }
    Ok(())
}

struct Active<L: LibOs> {
    set: WaitSet<L>,
    demi: Demikernel<L>,
    near: QDesc,
    far: QDesc,
    message: SgArray,
    results: Vec<Completion>,
    how: How,
}

impl<L: LibOs> Active<L> {
    /// Two completions per operation: a push, and the pop that takes its bytes.
    fn slice(&mut self, operations: u64) -> Result<()> {
        for _ in 0..operations {
            let push = self.demi.push(self.near, self.message.clone()).map_err(Error::from)?;
            self.take(push)?.pushed()?;
            let mut missing = self.message.len();
            while missing > 0 {
                let pop = self.demi.pop(self.far)?;
                let sga = self.take(pop)?.popped()?;
                ensure!(!sga.is_empty() && sga.len() <= missing, "the active connection is out of step");
                missing -= sga.len();
            }
        }
        Ok(())
    }

    #[inline]
    fn take(&mut self, token: QToken) -> Result<Completion> {
        match self.how {
            How::One => return Ok(self.demi.wait(token, Some(PATIENCE))?),
            How::NextN => self.demi.wait_next_n(&mut self.results, 1, Some(PATIENCE))?,
            How::Set => {
                self.set.add(token)?;
                self.set.wait_n(&mut self.results, 1, Some(PATIENCE))?
            }
        };
        let completion = self.results.pop().context("a wait that returned has a result")?;
        ensure!(completion.token == token, "an idle queue completed");
        Ok(completion)
    }
}

/// A connection of the instance to itself, over TCP.
fn connection<L: LibOs>(demi: &Demikernel<L>) -> Result<(QDesc, QDesc)> {
    let listener = demi.socket(Domain::Inet, SocketKind::Stream)?;
    demi.bind(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    demi.listen(listener, 1)?;
    let accept = demi.accept(listener)?;
    let near = demi.socket(Domain::Inet, SocketKind::Stream)?;
    let connect = demi.connect(near, demi.local_addr(listener)?)?;
    let (far, _) = demi.wait(accept, Some(PATIENCE))?.accepted()?;
    demi.wait(connect, Some(PATIENCE))?.result?;
    demi.close(listener)?;
    Ok((near, far))
}

/// A datagram socket to which nobody sends.
fn idle<L: LibOs>(demi: &Demikernel<L>, index: usize) -> Result<QToken> {
    let qd = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    let host = u8::try_from(2 + index / PER_ADDRESS).context("too many idle queues")?;
    demi.bind(qd, SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0)))?;
    Ok(demi.pop(qd)?)
}

/// Raises the soft limit on descriptors to the hard one, and checks that it suffices.
fn raise_descriptor_limit(idle: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        (idle as u64) + 64 <= most,
        "{idle} idle sockets need more descriptors than the {most} that a process may have here"
    );
    Ok(())
}
