//! Both ends of an echo in one thread and nothing else: for callgrind.
//!
//! The ends hang on one wire in memory, so no time is spent waiting: each turn finds what it is for. The four steps of
//! an exchange are functions of their own that are not inlined, which is where a profile is cut by direction.

mod demi;
mod smol;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::json;

/// The Ethernet addresses of client and server.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const MTU: usize = 1500;
const PORT: u16 = 7;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum)]
    subject: Stack,
    #[arg(long, value_enum)]
    transport: Transport,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Exchanges
    #[arg(long)]
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Stack {
    Catnip,
    /// smoltcp's own sockets.
    Smoltcp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// The four steps of an exchange, in order.
trait Echo {
    fn client_send(&mut self) -> Result<()>;
    fn server_receive(&mut self) -> Result<()>;
    fn server_send(&mut self) -> Result<()>;
    fn client_receive(&mut self) -> Result<()>;
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((1..=1024).contains(&args.size), "--size ranges from 1 to 1024");
    match args.subject {
        Stack::Catnip => exchange(&mut demi::Ends::connect(args.transport, args.size)?, args.count)?,
        Stack::Smoltcp => exchange(&mut smol::Ends::connect(args.transport, args.size)?, args.count)?,
    }
    println!("{}", json!({ "exchanges": args.count }));
    Ok(())
}

fn exchange(ends: &mut impl Echo, count: u64) -> Result<()> {
    for _ in 0..count {
        ends.client_send()?;
        ends.server_receive()?;
        ends.server_send()?;
        ends.client_receive()?;
    }
    Ok(())
}
