//! The demo: two sockets of its own, a burst of messages to both, and beside it what comes out of the pipeline.

use std::time::Duration;

use demi_api::{Addr, Demikernel, Domain, Done, Error, LibOs, SgArray, SocketKind};

use super::{Args, build, message};
use crate::cli::say;
use crate::net;

/// What is sent, in this order: to which source, how urgent, what.
const BURST: [(char, u8, &str); 14] = [
    ('A', 6, "door 3 opened"),
    ('B', 7, "cache: 812 hits, 3 misses"),
    ('A', 4, "disk 2: 91 % full"),
    ('B', 3, "backup: no answer from vault"),
    ('A', 6, "door 3 closed"),
    ('B', 6, "user ada logged in"),
    ('A', 0, "power lost, on battery"),
    ('B', 4, "certificate expires in 5 days"),
    ('A', 7, "poll took 2 us"),
    ('B', 2, "pump 1: pressure out of range"),
    ('A', 3, "disk 2: write failed"),
    ('B', 6, "user ada logged out"),
    ('A', 1, "battery: 9 minutes left"),
    ('B', 5, "clock adjusted by 3 ms"),
];

/// Columns of the left half.
const LEFT: usize = 46;

/// How long a message may take from one socket of this process to another.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Args) -> anyhow::Result<()> {
    let anywhere: Addr = "127.0.0.1:0".parse()?;
    let (a, b) = (net::bind_datagram(demi, &anywhere)?, net::bind_datagram(demi, &anywhere)?);
    let sorted = build(demi, &[a, b], args)?;
    let (to_a, to_b) = (demi.local_addr(a)?, demi.local_addr(b)?);

    let sender = demi.socket(Domain::Inet, SocketKind::Datagram)?;
    for (source, severity, text) in BURST {
        let sga = demi.copy_from(format!("<{severity}>{text}").as_bytes())?;
        let to = if source == 'A' { to_a.clone() } else { to_b.clone() };
        let push = demi.push_to(sender, sga, to).map_err(Error::from)?;
        demi.wait(push, Some(PATIENCE))?.pushed()?;
    }
    let came: Vec<SgArray> =
        std::iter::from_fn(|| pop(demi, sorted).transpose()).collect::<Result<_, _>>()?;
    draw(&came, args.severity);
    let dropped = demi.counters()?.elements_dropped as usize;
    say(format_args!("\n  {} sent = {} came out + {dropped} filtered out", BURST.len(), came.len(),));
    anyhow::ensure!(came.len() + dropped == BURST.len(), "some messages were lost on the way");
    Ok(())
}

/// The next message, if one comes in time.
fn pop<L: LibOs>(demi: &Demikernel<L>, sorted: demi_api::QDesc) -> Result<Option<SgArray>, Error> {
    let token = demi.pop(sorted)?;
    match demi.wait(token, Some(PATIENCE)).map(|completion| completion.result) {
        Ok(Ok(Done::Popped(sga))) => Ok(Some(sga)),
        Ok(Ok(_)) | Err(Error::TimedOut) => Ok(None),
        Ok(Err(error)) | Err(error) => Err(error),
    }
}

fn draw(came: &[SgArray], severity: u8) {
    let least = message::NAMES[usize::from(severity)];
    say("  A ──┐");
    say(format_args!(
        "      ├── merge ── filter({least} or worse) ── map(name it) ── sort(most urgent first) ──▶"
    ));
    say("  B ──┘\n");
    say(format_args!("  {:<LEFT$}  {}", "sent, in this order", "came out, in this order"));
    let mut came = came.iter();
    for (source, level, text) in BURST {
        let fate = if level <= severity { ' ' } else { '✗' };
        let sent =
            format!("{source}  {fate} {:<8} {text}", message::NAMES[usize::from(level)].to_lowercase());
        let line = format!("  {sent:<LEFT$}  {}", came.next().map(message::text).unwrap_or_default());
        say(line.trim_end());
    }
}
