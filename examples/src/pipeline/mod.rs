//! `pipeline`: log messages from several sources, merged, filtered, made readable, and the most urgent first.
//!
//! ```text
//!  A ─┐
//!     ├─ merge ── filter ── map ── sort ──▶  printed, or sent on
//!  B ─┘        urgent     named   most
//!              enough            urgent first
//! ```
//!
//! A message is a line of syslog: `<PRI>text`. Each stage is a queue made of the one before it; the program pops from
//! the last. Where messages are sent on, `qconnect` moves them and the program only waits.
//!
//! | module | what it holds |
//! |---|---|
//! | `message` | severities, and the closures of the operators |
//! | `source` | UDP sockets, and TCP connections cut into lines |
//! | `live` | sources of the network |
//! | `demo` | sources of its own, and a picture |

mod demo;
mod live;
mod message;
mod source;

use demi_api::{Demikernel, Error, LibOs, QDesc};

use self::source::Where;
use crate::cli::{Arguments, Common};
use crate::net::Endpoint;

/// Merge, filter and sort log messages.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Merges, filters and sorts log messages from several sockets as they come",
    group = clap::ArgGroup::new("what").required(true).args(["listen", "demo"]),
    after_help = "Examples:\n  \
        {bin} --demo\n  \
        {bin} --listen 127.0.0.1:5514 --listen tcp:127.0.0.1:5515 --severity 4\n  \
        {bin} --listen '[::1]:5514' --send-to 127.0.0.1:5600\n\n\
        and then\n  \
        logger --server 127.0.0.1 --port 5514 --udp --rfc3164 --priority user.err 'disk 2 failed'\n  \
        echo '<2>power lost' | nc -q0 127.0.0.1 5515"
)]
pub struct Args {
    /// A source, any number of times: [udp:]IP:PORT, or tcp:IP:PORT for lines of text
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Where>,
    /// Drop what is less urgent: 0 emergency, 3 error, 4 warning, 6 information, 7 everything
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=7))]
    severity: u8,
    /// Messages among which the most urgent is looked for
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    lookahead: u32,
    /// Send on as UDP datagrams instead of printing
    #[arg(long, value_name = "ADDR", conflicts_with = "demo")]
    send_to: Option<Endpoint>,
    /// Make messages and show what becomes of them
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments for Args {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Runs the demo, or the pipeline until a signal comes.
pub fn run<L: LibOs>(demi: &Demikernel<L>, args: Args) -> anyhow::Result<()> {
    if args.demo { demo::run(demi, &args) } else { live::run(demi, &args) }
}

/// The pipeline over some sources, of which there is at least one.
fn build<L: LibOs>(demi: &Demikernel<L>, sources: &[QDesc], args: &Args) -> Result<QDesc, Error> {
    let mut merged = sources[0];
    for source in &sources[1..] {
        merged = demi.merge(merged, *source)?;
    }
    let severity = args.severity;
    let urgent = demi.filter(merged, move |sga| message::severity(sga) <= severity)?;
    let named = demi.map(urgent, message::name, |_, sga| Ok(sga))?;
    demi.sort_with(named, args.lookahead as usize, message::by_urgency)
}
