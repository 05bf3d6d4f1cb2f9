//! Pushes whose tokens nobody ever waits for: does each cost what the first did, and what does each keep?
//!
//! The instance pushes small messages over a connection to itself, or to a thread that reads them away, and
//! looks at no token. Every push shares one buffer, so what the process grows by is bookkeeping.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use anyhow::{Result, ensure};
use demi_api::{Demikernel, Domain, Error, LibOs, QDesc, SocketKind};
use demi_libos_catnap::Catnap;
use demi_tests::Loopback;
use serde_json::json;

use crate::measure::PATIENCE;
use crate::{LibosName, cpu, instance};

/// Pushes between two polls.
const BURST: u64 = 32;

/// Most pushes that the peer may lag behind.
const MOST_PENDING: usize = 4096;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum)]
    libos: LibosName,
    /// Pushes, none of them waited for
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// The core of the thread that reads, if there is one
    #[arg(long, default_value_t = 1)]
    far_core: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.count >= 10, "--count must be at least 10");
    cpu::pin(args.core)?;
    match args.libos {
        LibosName::Catnap => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let addr = listener.local_addr()?;
            let core = args.far_core;
            let reader = std::thread::spawn(move || read_away(&listener, core));
            let demi = instance::<Catnap>(32)?;
            let qd = demi.socket(Domain::Inet, SocketKind::Stream)?;
            demi.wait(demi.connect(qd, addr)?, Some(PATIENCE))?.result?;
            pushes(&demi, qd, args)?;
            demi.close(qd)?;
            drop(demi);
            reader.join().expect("the reading thread does not panic")
        }
        LibosName::Loopback => {
            let demi = instance::<Loopback>(32)?;
            let sink = demi.socket(Domain::Inet, SocketKind::Datagram)?;
            demi.bind(sink, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            let qd = demi.socket(Domain::Inet, SocketKind::Datagram)?;
            demi.wait(demi.connect(qd, demi.local_addr(sink)?)?, Some(PATIENCE))?.result?;
            pushes(&demi, qd, args)
        }
    }
}

fn pushes<L: LibOs>(demi: &Demikernel<L>, qd: QDesc, args: &Args) -> Result<()> {
    let message = demi.copy_from(&[0x5a; 64])?;
    let tenth = args.count / 10;
    let before = cpu::status("VmRSS")? * 1024;
    let mut tenths = Vec::with_capacity(10);
    for _ in 0..10 {
        let begin = Instant::now();
        for index in 0..tenth {
            demi.push(qd, message.clone()).map_err(Error::from)?;
            if index % BURST == 0 {
                demi.poll()?;
            }
            if index % 1024 == 0 {
                catch_up(demi)?;
            }
        }
        tenths.push(tenth as f64 / begin.elapsed().as_secs_f64());
    }
    let grown = (cpu::status("VmRSS")? * 1024).saturating_sub(before);
    let counters = demi.counters()?;
    println!(
        "{}",
        json!({
            "pushes": tenth * 10,
            "unreaped": counters.operations_unreaped,
            "pushes_per_s": tenths,
            "bytes_per_token": grown as f64 / (tenth * 10) as f64,
            "heap_bytes_live": counters.heap.bytes_live,
        })
    );
    Ok(())
}

fn catch_up<L: LibOs>(demi: &Demikernel<L>) -> Result<()> {
    let begin = Instant::now();
    while demi.counters()?.operations_pending > MOST_PENDING {
        ensure!(begin.elapsed() < PATIENCE, "the reading side has stopped");
        for _ in 0..64 {
            demi.poll()?;
        }
    }
    Ok(())
}

fn read_away(listener: &TcpListener, core: usize) -> Result<()> {
    cpu::pin(core)?;
    let mut stream = listener.accept()?.0;
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}
