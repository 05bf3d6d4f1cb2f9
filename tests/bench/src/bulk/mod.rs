//! One connection, one direction, as much as goes: catnip, smoltcp over the same device, and the kernel's TCP.
//!
//! The sender offers arrays of 64 KiB in four buffers; those of smoltcp and the kernel, which copy, the same bytes in
//! one piece. The receiver takes what one receive yields, looks at nothing but its length, and lets go of it. What is
//! counted begins after the warm-up and ends with the stream. With `--verify` the bytes are a running pattern instead,
//! which the receiver checks to the last; such a run says nothing about speed.
//!
//! | file | what it holds |
//! |---|---|
//! | `catnip`, `smol`, `kernel` | both ends, over each |
//! | `pair` | both ends in one thread |
//! | `nic` | the device under the first two |
//! | `pattern` | bytes that tell where in the stream they belong |

mod catnip;
mod kernel;
pub(crate) mod nic;
mod pair;
mod pattern;
mod smol;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use self::nic::Nic;
pub(crate) use self::pair::{PairArgs, pair};
use self::pattern::Pattern;
use crate::cpu;

/// Buffers of one array, and bytes of one.
const PIECES: usize = 4;
const PIECE: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Subject {
    Catnip,
    Smoltcp,
    /// The kernel's TCP over its loopback, blocking: for orientation.
    Kernel,
}

#[derive(clap::Args)]
pub(crate) struct ReceiverArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    #[command(flatten)]
    nic: Nic,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Seconds to receive before measuring
    #[arg(long, default_value_t = 0.1)]
    warmup: f64,
    /// Check every byte
    #[arg(long)]
    verify: bool,
}

#[derive(clap::Args)]
pub(crate) struct SenderArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    #[command(flatten)]
    nic: Nic,
    /// The receiver
    #[arg(long)]
    connect: SocketAddr,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Seconds to send
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// MiB to send, instead of a time
    #[arg(long)]
    mib: Option<u64>,
    /// Send what the receiver can check
    #[arg(long)]
    verify: bool,
}

/// The sending side of a connection.
trait Sender {
    /// Offers the next array; returns its length. Waits while too much is under way.
    fn send(&mut self, pattern: Option<&mut Pattern>) -> Result<usize>;
    /// Waits until the peer has everything, and ends the stream. What was counted.
    fn finish(self) -> Result<Map<String, Value>>;
}

/// The receiving side of a connection.
trait Receiver {
    /// Takes what one receive yields, shows it, and returns its length: 0 at the end.
    fn receive(&mut self, look: impl FnMut(&[u8]) -> Result<()>) -> Result<usize>;
    /// What was counted.
    fn finish(self) -> Result<Map<String, Value>>;
}

pub(crate) fn receiver(args: &ReceiverArgs) -> Result<()> {
    cpu::pin(args.core)?;
    args.nic.enter()?;
    match args.subject {
        Subject::Catnip => drive_receiver(catnip::Receiving::accept(&args.nic)?, args),
        Subject::Smoltcp => drive_receiver(smol::Receiving::accept(&args.nic)?, args),
        Subject::Kernel => drive_receiver(kernel::Receiving::accept()?, args),
    }
}

pub(crate) fn sender(args: &SenderArgs) -> Result<()> {
    cpu::pin(args.core)?;
    ensure!((0.0..=60.0).contains(&args.seconds), "--seconds ranges from 0 to 60");
    args.nic.enter()?;
    match args.subject {
        Subject::Catnip => drive_sender(catnip::Sending::connect(&args.nic, args.connect)?, args),
        Subject::Smoltcp => drive_sender(smol::Sending::connect(&args.nic, args.connect)?, args),
        Subject::Kernel => drive_sender(kernel::Sending::connect(args.connect)?, args),
    }
}

/// Says where a receiver listens.
fn announce(addr: SocketAddr) -> Result<()> {
    println!("{}", json!({ "listening": addr.to_string() }));
    Ok(std::io::stdout().flush()?)
}

fn drive_receiver(mut receiver: impl Receiver, args: &ReceiverArgs) -> Result<()> {
    let mut pattern = args.verify.then(Pattern::new);
    let warm = Instant::now() + Duration::from_secs_f64(args.warmup);
    let (mut begin, mut bytes, mut total) = (None, 0_u64, 0_u64);
    let end = loop {
        let count = receiver.receive(|part| match &mut pattern {
            Some(pattern) => pattern.check(part),
            None => Ok(()),
        })?;
        let now = Instant::now();
        if count == 0 {
            break now;
        }
        total += count as u64;
        match begin {
            Some(_) => bytes += count as u64,
            None if now >= warm => begin = Some(now),
            None => {}
        }
    };
    // A run of so few bytes that it ended within the warm-up has no speed.
    let seconds = begin.map_or(f64::NAN, |begin| (end - begin).as_secs_f64());
    let mut report = receiver.finish()?;
    report.insert("bytes".into(), total.into());
    report.insert("gbit_per_s".into(), (bytes as f64 * 8e-9 / seconds).into());
    report.insert("verified".into(), args.verify.into());
    println!("{}", Value::Object(report));
    Ok(())
}

fn drive_sender(mut sender: impl Sender, args: &SenderArgs) -> Result<()> {
    let mut pattern = args.verify.then(Pattern::new);
    let deadline = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut total = 0_u64;
    while args.mib.map_or_else(|| Instant::now() < deadline, |mib| total < mib << 20) {
        let count = sender.send(pattern.as_mut())?;
        if count == 0 {
            bail!("an array without bytes was sent");
        }
        total += count as u64;
    }
    let mut report = sender.finish().context("waiting for the receiver to take the rest")?;
    report.insert("bytes".into(), total.into());
    println!("{}", Value::Object(report));
    Ok(())
}
