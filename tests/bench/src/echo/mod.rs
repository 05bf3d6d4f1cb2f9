//! Both ends of an echo over TCP: plain sockets, a libOS over the same, and stacks over a NIC of their own.
//!
//! All take what one receive yields, and all servers send it back with one call. All spin on the receive, all have
//! Nagle's algorithm off. One loop drives every client, so what is timed and how is the same to the letter.
//!
//! With several messages outstanding the clients differ: the plain one sends each message with one call, the others
//! push all that are due and then wait for them, which the libOS may carry out with fewer calls. With `--lockstep`
//! a libOS waits for each push before the next, and both make the same calls.
//!
//! - [`kernel`]: plain sockets
//! - [`demi`]: catnap and catnip
//! - [`raw`]: frames over a device, without a stack
//!
//! smoltcp's ends are in [`smol::tcp`].

mod demi;
pub(crate) mod kernel;
mod raw;

use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::{Config, Demikernel, LibOs, Pair};
use demi_libos_catnap::Catnap;
use demi_libos_catnip::Catnip;
use demi_libos_cattree::Cattree;
use serde_json::{Value, json};

use crate::measure::{Plan, Recorder};
use crate::nic::{self, End, Nic};
use crate::smol::{self, Stack};
use crate::{cpu, instance};

/// Most bytes outstanding: within any socket buffer, so that neither end ever blocks on sending.
const MOST_OUTSTANDING: usize = 128 << 10;

/// What echoes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Subject {
    /// Plain sockets, non-blocking and spinning: the control.
    Kernel,
    /// The libOS over the same sockets.
    Catnap,
    /// The libOS over a NIC.
    Catnip,
    /// The NIC without a stack.
    Raw,
    /// smoltcp's own sockets over the NIC.
    Smoltcp,
}

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// Where the kernel's sockets listen
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// The kernel's sockets heed loss only, as catnip does
    #[arg(long)]
    loss_based: bool,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 32)]
    heap_mib: usize,
    /// Make what comes in durable on this file or block device, whose content is LOST, before it is sent back
    #[arg(long)]
    log: Option<PathBuf>,
    #[command(flatten)]
    nic: Nic,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// The server, where it has an address of the kernel's
    #[arg(long, default_value_t = nic::server())]
    connect: SocketAddr,
    /// The kernel's sockets heed loss only, as catnip does
    #[arg(long)]
    loss_based: bool,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages outstanding
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Wait for each push before the next
    #[arg(long)]
    lockstep: bool,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 32)]
    heap_mib: usize,
    #[command(flatten)]
    nic: Nic,
    #[command(flatten)]
    plan: Plan,
}

/// The client's side of a connection to an echo server.
pub(crate) trait Exchange {
    /// Sends `count` messages.
    fn send(&mut self, count: usize) -> Result<()>;
    /// Waits until there are bytes and takes as many as one receive yields; returns how many.
    fn receive(&mut self) -> Result<usize>;
    /// Lets the server know that that was all, where the end of this process does not.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
    /// What the subject itself has counted, if it counts.
    fn counters(&self) -> Result<Value> {
        Ok(Value::Null)
    }
}

pub(crate) fn server(args: &ServerArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let any = SocketAddr::from((args.bind, 0));
    if let Some(log) = &args.log {
        return logged_server(args, log, any);
    }
    match args.subject {
        Subject::Kernel => kernel::serve(any, args.loss_based),
        Subject::Catnap => demi::serve(&instance::<Catnap>(args.heap_mib)?, any, None),
        Subject::Catnip => {
            let demi = args.nic.instance(End::Server, args.heap_mib)?;
            demi::serve(&demi, nic::server(), None)?;
            println!("{}", json!({ "counters": demi::counters(&demi)? }));
            Ok(())
        }
        Subject::Raw => raw::serve(&args.nic, args.heap_mib),
        Subject::Smoltcp => {
            let stack = stack(&args.nic, End::Server, args.heap_mib)?;
            announce(nic::server())?;
            smol::tcp::serve(stack, nic::PORT)
        }
    }
}

fn logged_server(args: &ServerArgs, log: &Path, any: SocketAddr) -> Result<()> {
    crate::log::wipe(log)?;
    let device = format!("[cattree.device]\nkind = \"uring\"\npath = {log:?}\n");
    match args.subject {
        Subject::Catnap => {
            let wait = "[wait]\nspin_min_us = 10000000\nspin_max_us = 10000000\n";
            let text = format!("[heap]\nsize_mib = {}\n{wait}{device}", args.heap_mib);
            let config = Config::parse(&text, "the command line")?;
            demi::serve(&Demikernel::<Pair<Catnap, Cattree>>::new(&config)?, any, Some("echo"))
        }
        Subject::Catnip => {
            let text = args.nic.text(End::Server, args.heap_mib) + &device;
            let config = Config::parse(&text, "the command line")?;
            demi::serve(&Demikernel::<Pair<Catnip, Cattree>>::new(&config)?, nic::server(), Some("echo"))
        }
        Subject::Kernel | Subject::Raw | Subject::Smoltcp => bail!("--log goes with catnap and catnip"),
    }
}

/// smoltcp over the NIC.
fn stack(nic: &Nic, end: End, heap_mib: usize) -> Result<Stack> {
    let heap = Heap::new(&HeapConfig { size: heap_mib << 20, huge_pages: HugePages::Auto, lock: true })?;
    let device = nic.open(end, &heap)?;
    Stack::over(heap, device, end.ip().into(), nic::PREFIX)
}

/// Says where a server listens.
pub(crate) fn announce(addr: SocketAddr) -> Result<()> {
    println!("{}", json!({ "listening": addr.to_string() }));
    Ok(std::io::stdout().flush()?)
}

pub(crate) fn client(args: &ClientArgs) -> Result<()> {
    cpu::pin(args.core)?;
    ensure!(args.size > 0 && args.window > 0, "--size and --window must be at least 1");
    ensure!(
        args.size.saturating_mul(args.window) <= MOST_OUTSTANDING,
        "--size times --window must not exceed {MOST_OUTSTANDING}"
    );
    match args.subject {
        Subject::Kernel => {
            drive(&mut kernel::Client::connect(args.connect, args.size, args.loss_based)?, args)
        }
        Subject::Catnap => drive_libos(instance::<Catnap>(args.heap_mib)?, args),
        Subject::Catnip => drive_libos(args.nic.instance(End::Client, args.heap_mib)?, args),
        Subject::Raw => drive(&mut raw::Client::connect(&args.nic, args.size, args.heap_mib)?, args),
        Subject::Smoltcp => {
            let stack = stack(&args.nic, End::Client, args.heap_mib)?;
            drive(&mut smol::tcp::Client::connect(stack, args.connect, args.size)?, args)
        }
    }
}

fn drive_libos<L: LibOs>(demi: Demikernel<L>, args: &ClientArgs) -> Result<()> {
    let client = demi::Client::connect(demi, args.connect, args.size)?;
    if args.lockstep { drive(&mut demi::Lockstep(client), args) } else { drive(&mut { client }, args) }
}

fn drive(exchange: &mut impl Exchange, args: &ClientArgs) -> Result<()> {
    let mut recorder = Recorder::start(&args.plan)?;
    let mut sent = VecDeque::with_capacity(args.window);
    let mut partial = 0;
    let mut more = true;
    sent.extend(std::iter::repeat_n(Instant::now(), args.window));
    exchange.send(args.window)?;
    while !sent.is_empty() {
        partial += exchange.receive()?;
        let now = Instant::now();
        let whole = partial / args.size;
        partial %= args.size;
        ensure!(whole <= sent.len(), "more came back than was sent");
        for begin in sent.drain(..whole) {
            more = more && recorder.record(begin, now);
        }
        if more && whole > 0 {
            sent.extend(std::iter::repeat_n(Instant::now(), whole));
            exchange.send(whole)?;
        }
    }
    let mut report = recorder.report()?;
    let counters = exchange.counters()?;
    if !counters.is_null() {
        report["counters"] = counters;
    }
    exchange.end()?;
    println!("{report}");
    Ok(())
}
