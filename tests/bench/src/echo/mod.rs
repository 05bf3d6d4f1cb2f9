//! Both ends of an echo over TCP: plain sockets, and a libOS over the same.
//!
//! Both take what one receive yields, and both servers send it back with one call. Both spin on the receive, both
//! have Nagle's algorithm off. One loop drives either client, so what is timed and how is the same to the letter.
//!
//! With several messages outstanding the clients differ: the plain one sends each message with one call, the other
//! pushes all that are due and then waits for them, which the libOS may carry out with fewer calls. With `--lockstep`
//! it waits for each push before the next, and both make the same calls.

mod demi;
mod kernel;

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Result, ensure};
use demi_libos_catnap::Catnap;
use serde_json::json;

use crate::measure::{Plan, Recorder};
use crate::{Subject, cpu};

/// Most bytes outstanding: within any socket buffer, so that neither end ever blocks on sending.
const MOST_OUTSTANDING: usize = 128 << 10;

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 32)]
    heap_mib: usize,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// The server
    #[arg(long)]
    connect: SocketAddr,
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
    plan: Plan,
}

/// The client's side of a connection to an echo server.
pub(crate) trait Exchange {
    /// Sends `count` messages.
    fn send(&mut self, count: usize) -> Result<()>;
    /// Waits until there are bytes and takes as many as one receive yields; returns how many.
    fn receive(&mut self) -> Result<usize>;
}

pub(crate) fn server(args: &ServerArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match args.subject {
        Subject::Kernel => kernel::serve(any),
        Subject::Catnap => demi::serve::<Catnap>(any, args.heap_mib),
    }
}

/// Says where a server listens.
fn announce(addr: SocketAddr) -> Result<()> {
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
        Subject::Kernel => drive(&mut kernel::Client::connect(args.connect, args.size)?, args),
        Subject::Catnap => {
            let client = demi::Client::<Catnap>::connect(args.connect, args.size, args.heap_mib)?;
            if args.lockstep {
                drive(&mut demi::Lockstep(client), args)
            } else {
                drive(&mut { client }, args)
            }
        }
    }
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
    println!("{}", recorder.report()?);
    Ok(())
}
