//! The processes that `cargo xtask bench` starts and compares.
//!
//! Each invocation is one role in one measurement: one end of an echo, one relay, one process with many idle
//! queues. It does its part on the core that it is given and prints JSON, one object per line. A role is
//! started fresh for every alternation, or takes turns when told to on its standard input.
//!
//! - [`echo`]: both ends of an echo, over plain sockets, over a libOS, over a NIC
//! - [`load`]: latency against offered load
//! - [`nic`]: a NIC from words on the command line
//! - [`relay`]: a UDP relay three ways, and the client around it
//! - [`wait`]: what one completion costs beside many idle queues
//! - [`unreaped`]: pushes whose tokens nobody waits for
//! - [`bulk`]: one connection, as much as goes
//! - [`conns`]: many connections, all idle but one
//! - [`alloc`]: allocation and release
//! - [`nvme`]: random blocks, from user space and by the kernel
//! - [`instr`]: both ends of an echo in one thread, for callgrind
//! - [`log`]: durable writes and reads of a device
//! - [`smol`]: smoltcp, beside which catnip is measured
//! - [`cpu`]: pinning, and the cache-line ping-pong; [`measure`]: warm-up, stop, percentiles
//!
//! Not in here: what to compare with what, how often and in which order. That is `xtask`'s.

mod alloc;
mod bulk;
mod conns;
mod cpu;
mod echo;
mod instr;
mod load;
mod log;
mod measure;
mod nic;
mod nvme;
mod relay;
mod smol;
mod sys;
mod unreaped;
mod wait;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use demi_api::{Config, Demikernel, LibOs};

#[derive(Parser)]
#[command(version, about = "One role of one measurement; `cargo xtask bench` starts these")]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Round trip of a cache line between two cores
    Cacheline(cpu::CachelineArgs),
    /// Echo to one connection until it ends
    EchoServer(echo::ServerArgs),
    /// Keep a window of messages outstanding and time each
    EchoClient(echo::ClientArgs),
    /// Take a stream in
    BulkReceive(bulk::ReceiverArgs),
    /// Send a stream
    BulkSend(bulk::SenderArgs),
    /// Both ends of a stream in one thread
    BulkPair(bulk::PairArgs),
    /// Accept connections, count what they take, and echo on all of them
    ConnsServer(conns::ServerArgs),
    /// Open connections and echo on one; does as it is told on standard input
    ConnsClient(conns::ClientArgs),
    /// Echo to some connections until all end
    LoadServer(load::ServerArgs),
    /// Send messages on a schedule, or as many as go, and time each from when it was due
    LoadClient(load::ClientArgs),
    /// Send datagrams to a relay and receive them behind it, one after the other
    RelayClient(relay::ClientArgs),
    /// Pass datagrams on until one is empty
    Relay(relay::RelayArgs),
    /// One active queue pair among idle ones; runs a slice per line on standard input
    Wait(wait::Args),
    /// Push without ever waiting for a token
    Unreaped(unreaped::Args),
    /// Both ends of an echo in one thread, and nothing else: for callgrind
    Instr(instr::Args),
    /// Durable writes, or reads, by a bare io_uring
    LogRaw(log::RawArgs),
    /// Durable appends to a log, and reads, through cattree
    LogDemi(log::DemiArgs),
    /// Time allocation and release against the system's malloc
    Alloc(alloc::Args),
    /// Random blocks of two NVMe controllers, ours and the kernel's, by turns
    Nvme(nvme::Args),
    /// Allocate and release, and nothing else: for callgrind
    Pairs(alloc::PairsArgs),
}

/// What stands behind a libOS role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LibosName {
    Catnap,
    Loopback,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demi-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    cpu::end_with_parent()?;
    match &cli.role {
        Role::Cacheline(args) => cpu::cacheline(args),
        Role::EchoServer(args) => echo::server(args),
        Role::EchoClient(args) => echo::client(args),
        Role::BulkReceive(args) => bulk::receiver(args),
        Role::BulkSend(args) => bulk::sender(args),
        Role::BulkPair(args) => bulk::pair(args),
        Role::ConnsServer(args) => conns::server(args),
        Role::ConnsClient(args) => conns::client(args),
        Role::LoadServer(args) => load::server(args),
        Role::LoadClient(args) => load::client(args),
        Role::RelayClient(args) => relay::client(args),
        Role::Relay(args) => relay::relay(args),
        Role::Wait(args) => wait::run(args),
        Role::Unreaped(args) => unreaped::run(args),
        Role::Instr(args) => instr::run(args),
        Role::LogRaw(args) => log::raw(args),
        Role::LogDemi(args) => log::demi(args),
        Role::Alloc(args) => alloc::compare(args),
        Role::Nvme(args) => nvme::run(args),
        Role::Pairs(args) => alloc::pairs(args),
    }
}

/// An instance with a heap of `mib` MiB and all else as shipped.
fn instance<L: LibOs>(mib: usize) -> Result<Demikernel<L>> {
    let mut config = Config::default();
    config.heap.size_mib = mib;
    Ok(Demikernel::new(&config)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
