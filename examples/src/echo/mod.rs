//! `echo`: a server that sends back what it receives, and a client that measures how long that takes.
//!
//! The server's loop is push, pop and wait, nothing else. With a log, a reply leaves when what it repeats is durable. The client verifies every byte and reads the clock once per
//! message.

mod client;
mod datagrams;
mod log;
mod report;
mod server;
mod stream;

use demi_api::{Config, Demikernel, LibOs};

use crate::cli::{Arguments, Common};
use crate::log::LogArgs;
use crate::net::Endpoint;

/// Measure round trips.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Echo server, and a client that measures its latency",
    after_help = "Examples:\n  \
        {bin} server --listen 127.0.0.1:7777\n  \
        {bin} client --connect 127.0.0.1:7777 --size 64 --count 100000 --histogram\n  \
        {bin} client --connect 127.0.0.1:7777 --window 32 --json\n  \
        {bin} server --listen '[::1]:7777' --udp\n  \
        {bin} server --listen unix:/tmp/echo.sock\n  \
        {bin} server --listen 127.0.0.1:7777 --log /var/lib/echo.log   (a binary whose name ends in -cattree)"
)]
pub struct Args {
    #[command(subcommand)]
    role: Role,
    #[command(flatten)]
    common: Common,
}

impl Arguments for Args {
    fn common(&self) -> &Common {
        &self.common
    }

    fn configure(&self, config: Config) -> anyhow::Result<Config> {
        match &self.role {
            Role::Server(server) => server.log.configure(config),
            Role::Client(_) => Ok(config),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Send back whatever comes, until stopped by SIGINT or SIGTERM
    Server(Server),
    /// Send messages, verify the replies, report latencies
    Client(Client),
}

#[derive(Debug, clap::Args)]
struct Server {
    /// Where to listen: IP:PORT, [IPv6]:PORT or unix:PATH; port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    listen: Endpoint,
    /// Datagrams instead of a stream
    #[arg(long)]
    udp: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, clap::Args)]
struct Client {
    /// The server: IP:PORT, [IPv6]:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    connect: Endpoint,
    /// Datagrams instead of a stream
    #[arg(long)]
    udp: bool,
    /// Bytes of a message
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: u32,
    /// Messages under way at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,
    /// Messages to measure
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw the distribution of latencies
    #[arg(long)]
    histogram: bool,
}

/// Runs the server or the client.
pub fn run<L: LibOs>(demi: &Demikernel<L>, args: Args) -> anyhow::Result<()> {
    match &args.role {
        Role::Server(args) => server::run(demi, args),
        Role::Client(args) => client::run(demi, args),
    }
}
