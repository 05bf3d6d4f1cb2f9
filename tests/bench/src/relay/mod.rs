//! A UDP relay four ways, and the client around it.
//!
//! The client sends a datagram to the relay and spins on a second socket, the sink, to which the relay passes
//! it on; then the next. Client and sink are one process on one core, the relay has the other core. What is
//! timed is the whole way: through the kernel to the relay, through the relay, through the kernel again. The client is
//! always the kernel's, so relays differ in nothing but themselves.

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

use crate::measure::{Guard, Plan, Recorder};
use crate::nic::{End, Nic, PORT};
use crate::sys::complete_checksums;
use crate::{cpu, instance};

const HEAP_MIB: usize = 32;

/// Bytes of the largest datagram that a relay takes.
const LARGEST: usize = 2048;

#[derive(clap::Args)]
pub(crate) struct RelayArgs {
    #[arg(long, value_enum)]
    subject: Relay,
    /// Where to pass datagrams on to
    #[arg(long)]
    to: SocketAddr,
    /// Where to listen, unless that follows from the device
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    bind: Ipv4Addr,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
    #[command(flatten)]
    nic: Nic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Relay {
    /// Plain sockets, spinning on `recv`: the control.
    Kernel,
    /// io_uring: multishot receive into a buffer ring, spinning on completions.
    IoUring,
    /// The libOS over such sockets.
    Catnap,
    /// The libOS over a device.
    Catnip,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    /// Bytes per datagram
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The client's address and the sink's
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    bind: Ipv4Addr,
    /// The interface between, which may leave no checksum to a device
    #[arg(long)]
    interface: Option<String>,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    #[command(flatten)]
    plan: Plan,
}

pub(crate) fn relay(args: &RelayArgs) -> Result<()> {
    cpu::pin(args.core)?;
    let any = SocketAddr::from((args.bind, 0));
    match args.subject {
        Relay::Kernel => plain::run(any, args.to),
        Relay::IoUring => sys::run(any, args.to),
        Relay::Catnap => demi::run(&instance::<Catnap>(HEAP_MIB)?, any, args.to),
        Relay::Catnip => {
            demi::run(&args.nic.instance(End::Server, HEAP_MIB)?, (End::Server.ip(), PORT).into(), args.to)
        }
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
    if let Some(interface) = &args.interface {
        complete_checksums(interface).with_context(|| format!("checksums of {interface}"))?;
    }
    let sink = UdpSocket::bind((args.bind, 0))?;
    sink.set_nonblocking(true)?;
    println!("{}", json!({ "sink": sink.local_addr()?.to_string() }));
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let relay: SocketAddr = line.trim().parse().context("standard input takes the relay's address")?;
    let source = UdpSocket::bind((args.bind, 0))?;
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
