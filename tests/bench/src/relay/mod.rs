//! A UDP relay three ways, and the client around it.
//!
//! The client sends a datagram to the relay and spins on a second socket, the sink, to which the relay passes
//! it on; then the next. Client and sink are one process on one core, the relay has the other core. What is
//! timed is the whole way: through the kernel to the relay, through the relay, through the kernel again.

mod demi;
mod plain;
mod sys;

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use demi_libos_catnap::Catnap;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::json;

use crate::cpu;
use crate::measure::{Guard, Plan, Recorder};

/// Bytes of the largest datagram that a relay takes.
const LARGEST: usize = 2048;

#[derive(clap::Args)]
pub(crate) struct RelayArgs {
    #[arg(long, value_enum)]
    subject: Relay,
    /// Where to pass datagrams on to
    #[arg(long)]
    to: SocketAddr,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Relay {
    /// Plain sockets, spinning on `recv`: the control.
    Kernel,
    /// io_uring: multishot receive into a buffer ring, spinning on completions.
    IoUring,
    /// The libOS.
    Catnap,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    /// Bytes per datagram
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    #[command(flatten)]
    plan: Plan,
}

pub(crate) fn relay(args: &RelayArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    match args.subject {
        Relay::Kernel => plain::run(any, args.to),
        Relay::IoUring => sys::run(any, args.to),
        Relay::Catnap => demi::run::<Catnap>(any, args.to),
    }
}

/// Says where a relay listens.
fn announce(addr: SocketAddr) -> Result<()> {
    println!("{}", json!({ "listening": addr.to_string() }));
    Ok(std::io::stdout().flush()?)
}

/// Prints the sink's address, reads the relay's from standard input, measures, and ends the relay with an
/// empty datagram.
pub(crate) fn client(args: &ClientArgs) -> Result<()> {
    cpu::pin(args.core)?;
    ensure!((1..=LARGEST).contains(&args.size), "--size ranges from 1 to {LARGEST}");
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sink.set_nonblocking(true)?;
    println!("{}", json!({ "sink": sink.local_addr()?.to_string() }));
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let relay: SocketAddr = line.trim().parse().context("standard input takes the relay's address")?;
    let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    source.connect(relay)?;

    let message = vec![0x5a; args.size];
    let mut buffer = vec![0; LARGEST];
    let mut recorder = Recorder::start(&args.plan)?;
    loop {
        let begin = Instant::now();
        send(&source, &message, SendFlags::NOSIGNAL)?;
        let count = receive(&sink, &mut buffer)?;
        ensure!(count == args.size, "the relay changed a datagram's length");
        if !recorder.record(begin, Instant::now()) {
            break;
        }
    }
    send(&source, &[], SendFlags::NOSIGNAL)?;
    println!("{}", recorder.report()?);
    Ok(())
}

#[inline]
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<usize> {
    let mut guard = Guard::new();
    loop {
        match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((count, _)) => return Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => guard.spin()?,
            Err(error) => return Err(error.into()),
        }
    }
}
