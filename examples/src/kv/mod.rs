//! `kv`: a key-value server in memory that speaks RESP2, so that `redis-cli` and `redis-benchmark` talk to it. With a
//! log, what it has acknowledged outlives it.
//!
//! One loop on one core. A connection is a stream with `frame` over it, which yields whole requests; what has
//! arrived together is answered together. Values larger than a threshold are never copied: they stay in the buffer
//! they were received into, and a reply sends that very buffer.
//!
//! Over a libOS whose connections carry messages, a message to the server holds one or more whole requests, and one from
//! it one or more whole replies, in the order of the requests. A message that ends inside a request, or holds what is none, is answered up to
//! there, then by an error, and the connection is closed. So it is, without one, where a reply is longer than a message may be.
//! `redis-cli` needs a libOS with streams; `client` measures over any.
//!
//! | module | what it holds |
//! |---|---|
//! | `server` | the wait loop |
//! | `clients` | the table of connections |
//! | `client` | one connection: requests not executed yet, replies not sent yet, both bounded |
//! | `request`, `reply` | the two sides of the protocol |
//! | `message` | requests and replies where connections carry messages |
//! | `command` | the table of commands, and a file per family |
//! | `store` | keys, values, expiry, the limit of memory |
//! | `log` | what was changed, on its way to the log and back; compaction |
//! | `info` | what INFO tells |
//! | `load` | the client that measures and verifies |
//!
//! Not in here: other data types, databases other than 0.

mod client;
mod clients;
mod command;
mod info;
mod load;
mod log;
mod message;
mod number;
mod reply;
mod request;
mod server;
mod store;

use anyhow::ensure;
use demi_api::{Config, Demikernel, LibOs};

use crate::cli::{Arguments, Common};
use crate::log::LogArgs;
use crate::net::Endpoint;

/// Serve keys and values.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "Key-value server in memory that speaks Redis' protocol (RESP2), and a client that measures it",
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        {bin} --listen 127.0.0.1:6380\n  \
        {bin} --listen '[::1]:6380' --maxmemory 64\n  \
        {bin} --listen unix:/tmp/kv.sock\n  \
        {bin} --log /var/lib/kv.log --log-size 4096   (needs a binary whose name ends in -cattree)\n  \
        {bin} client --connect 127.0.0.1:6380 --requests mixed --pipeline 16 --histogram\n\n\
        and then\n  \
        redis-cli -p 6380 set greeting hello\n  \
        redis-benchmark -p 6380 -t ping,set,get,incr,mset -n 100000 -c 50 -P 16"
)]
pub struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Where to listen: IP:PORT, [IPv6]:PORT or unix:PATH; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6380")]
    listen: Endpoint,
    /// Most memory for keys, values and requests, in MiB; three quarters of the heap by default
    #[arg(long, value_name = "MIB")]
    maxmemory: Option<u32>,
    /// Values up to this many bytes are copied to size; larger ones stay in the buffer they were received into
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    copy_threshold: usize,
    /// Most clients at a time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_clients: usize,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Set and get keys over many connections, verify the replies, report latencies
    Client(load::Client),
}

impl Arguments for Args {
    fn common(&self) -> &Common {
        &self.common
    }

    fn configure(&self, config: Config) -> anyhow::Result<Config> {
        self.log.configure(config)
    }
}

/// Serves until a signal comes, or measures a server.
pub fn run<L: LibOs>(demi: &Demikernel<L>, args: Args) -> anyhow::Result<()> {
    if let Some(Role::Client(client)) = &args.role {
        return load::run(demi, client);
    }
    let heap = demi.heap().region().len;
    let limit = args.maxmemory.map_or(heap / 4 * 3, |mib| (mib as usize) << 20);
    ensure!(
        limit <= heap / 8 * 7,
        "--maxmemory is more than seven eighths of the heap, which is {} MiB; raise heap.size_mib in the configuration",
        heap >> 20
    );
    server::serve(demi, &args, limit)
}
