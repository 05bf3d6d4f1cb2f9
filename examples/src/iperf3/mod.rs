//! `iperf3`: bulk transfer measured in the protocol of iperf 3.12, as its server or as its client.
//!
//! A test has a control connection and one or several streams. On the control connection goes a cookie, then bytes that
//! name states, and JSON behind its length; each stream begins with the cookie. Whoever sends pushes one block of
//! memory over and over, never a copy of it; whoever receives counts and lets go.
//!
//! Invariants: the server runs one test at a time and turns others away; what a client makes it hold is bounded by
//! `wire::LONGEST_PARAMETERS`, `wire::LONGEST_RESULTS` and `server::MOST_GREETINGS`, and every wait has an end. A
//! client at fault ends its own test only.
//!
//! Not in here: UDP and SCTP, both directions at once, authentication, pacing, `--omit`. A client that asks for one
//! of these is refused with iperf3's own number for it.
//!
//! | module | what it holds |
//! |---|---|
//! | `server`, `client` | the two roles |
//! | `flow` | the streams of a test, which move its bytes |
//! | `wire` | control connections: states, JSON, faults |
//! | `params` | what a test is to be, and what came of it |
//! | `report` | what people and programs are told |

mod client;
mod flow;
mod params;
mod report;
mod server;
mod wire;

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use clap::value_parser;
use demi_api::{Demikernel, Error, LibOs, QDesc};

use self::wire::State;
use crate::cli::{Arguments, Common, grouped, say};
use crate::stop::Stop;

/// iperf3's port.
const PORT: u16 = 5201;

/// Measure bulk transfer.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Bulk transfer over TCP in the protocol of iperf3: a server for its clients, a client for its servers",
    group = clap::ArgGroup::new("role").required(true).args(["server", "client"]),
    after_help = "Examples:\n  \
        {bin} --server --listen 127.0.0.1:5201\n  \
        {bin} --client 127.0.0.1 --time 5 --parallel 2 --reverse\n\n\
        and the other side may be iperf3 itself\n  \
        iperf3 -c 127.0.0.1 -t 5\n  \
        iperf3 -s"
)]
pub struct Args {
    /// Run tests for clients, until stopped by SIGINT or SIGTERM
    #[arg(short, long)]
    server: bool,
    /// Run a test with this server: IP, IP:PORT or [IPv6]:PORT
    #[arg(short, long, value_name = "ADDR", value_parser = server_addr)]
    client: Option<SocketAddr>,
    /// Where the server listens: IP:PORT or [IPv6]:PORT; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:5201", conflicts_with = "client")]
    listen: SocketAddr,
    /// Run one test, then end
    #[arg(short = '1', long, conflicts_with = "client")]
    one_off: bool,
    /// Seconds to send for
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..=86_400))]
    time: u64,
    /// Bytes to send in all, instead of a time
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "time", value_parser = value_parser!(u64).range(1..=1 << 50))]
    bytes: Option<u64>,
    /// Streams at a time
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=params::MOST_STREAMS))]
    parallel: u64,
    /// Bytes of a block
    #[arg(short, long, value_name = "N", default_value_t = 128 << 10, value_parser = value_parser!(u64).range(1..=params::MOST_LEN))]
    length: u64,
    /// The server sends
    #[arg(short = 'R', long)]
    reverse: bool,
    /// Print one JSON object per test
    #[arg(short = 'J', long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments for Args {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn server_addr(text: &str) -> Result<SocketAddr, String> {
    let addr = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
    addr.map_err(|_| "an address is IP, IP:PORT or [IPv6]:PORT".to_owned())
}

/// What is to be known of a role when a signal ends it.
#[derive(Default)]
struct Progress {
    /// The control connection of the test under way.
    control: Cell<Option<QDesc>>,
    /// Tests that were done.
    done: Cell<u64>,
}

/// Runs the server or the client. A signal ends it; the peer of the test under way is told.
pub fn run<L: LibOs + 'static>(demi: &Demikernel<L>, args: Args) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let progress = Progress::default();
    let mut role = pin!(async {
        match args.client {
            Some(addr) => client::run(demi, &args, addr, &progress).await,
            None => server::run(demi, &args, &progress).await,
        }
    });
    loop {
        match demi.block_on(role.as_mut()) {
            Err(Error::Interrupted) if !stop.asked() => {}
            Err(Error::Interrupted) => break,
            outcome => {
                outcome??;
                break;
            }
        }
    }
    if let Some(qd) = progress.control.get() {
        let farewell = if args.server { State::ServerTerminate } else { State::ClientTerminate };
        let token = demi.push(qd, demi.copy_from(&[farewell.byte()])?).map_err(Error::from)?;
        // The peer may be gone, or not read.
        let _ = demi.wait(token, Some(Duration::from_millis(100)));
    }
    // What is left of them belongs to connections that are over.
    demi.abort_tasks()?;
    if args.server {
        say(format_args!("stopped: {} tests done", grouped(progress.done.get())));
    }
    Ok(())
}
