//! TCP echo over a libOS, beside its controls.
//!
//! - [`catnap`]: over the kernel's sockets, beside the same without the libOS
//! - [`catnip`]: over a NIC, beside that NIC alone, other stacks over it, and the kernel's
//! - [`ratios`]: what the reports of a run over a NIC come to
//! - [`dpdk`]: DPDK's own memif, for comparison with ours

mod catnap;
mod catnip;
mod dpdk;
mod ratios;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::link::Device;
use super::{Roles, Session, number};

/// TCP echo, beside plain spinning sockets and, over a NIC, other stacks.
///
/// Every control does what the subject does: both ends spin, the server sends back what one receive returned,
/// Nagle's algorithm is off. The subject pushes the messages that are due and then waits for them, which may
/// take fewer calls than messages; with --lockstep it waits for each before it pushes the next. Server and
/// client are fresh processes in every alternation, each on its core; a warm-up comes first.
///
/// --libos catnap: the control is `kernel`, a plain non-blocking echo over the loopback interface.
///
/// --libos catnip: both ends are catnip over --device. Beside it run `raw` (frames of the same size over the
/// device alone, sent back with their addresses swapped), `smoltcp` (its own sockets over the same device),
/// `kernel` (plain spinning TCP: over loopback for memif, over the same veth pair with other addresses for
/// af_xdp; for tap over a veth pair between two namespaces, as the kernel can be only one end of a TAP), and for
/// memif `dpdk` (as `raw`, by DPDK's net_memif; needs gcc and libdpdk-dev, see `cargo xtask setup`). af_xdp and
/// tap need root and make network namespaces, which go with this program however it ends. In --json, the last line holds `ratio_p50` and
/// `ratio_throughput` (to `kernel`), `ratio_p50_raw`, `ratio_p50_smoltcp`; for memif also `ratio_p50_fast`, over
/// the `fast_alternations` in which the cache-line ping-pong took at most 0.2 µs before and after both, and
/// `ratio_raw_dpdk`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The libOS
    #[arg(long, value_enum, default_value_t = Libos::Catnap)]
    libos: Libos,
    /// The NIC, for catnip [default: memif]
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Subjects to leave out, for catnip: any of raw, dpdk, smoltcp
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    without: Vec<String>,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages outstanding
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Wait for each push before the next
    #[arg(long)]
    lockstep: bool,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 24)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Messages to measure in each turn, instead of a time
    #[arg(long)]
    count: Option<u64>,
}

impl Args {
    /// The NIC that both ends will use, if any.
    pub(super) fn device(&self) -> Option<Device> {
        (self.libos == Libos::Catnip).then(|| self.device.unwrap_or(Device::Memif))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
    Catnip,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    match args.libos {
        Libos::Catnap if args.device.is_some() || !args.without.is_empty() => {
            bail!("catnap has no device of its own: --device and --without go with --libos catnip")
        }
        Libos::Catnap => catnap::run(args, session),
        Libos::Catnip => catnip::run(args, session),
    }
}

/// One exchange to measure, by any subject.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) size: usize,
    pub(crate) window: usize,
    pub(crate) lockstep: bool,
    pub(crate) seconds: f64,
    pub(crate) count: Option<u64>,
    pub(crate) histogram: bool,
}

impl Exchange {
    fn of(args: &Args) -> Exchange {
        Exchange {
            size: args.size,
            window: args.window,
            lockstep: args.lockstep,
            seconds: args.seconds,
            count: args.count,
            histogram: false,
        }
    }

    /// Starts a server and a client over the loopback interface, and returns the client's report.
    pub(crate) fn measure(&self, roles: &Roles, subject: &str) -> Result<Value> {
        let [near, far] = roles.cores();
        let mut server = roles.start(&format!("echo-server --subject {subject} --core {far}"))?;
        let address = server.address("listening")?;
        let report = roles.report(&format!(
            "echo-client --subject {subject} --core {near} --connect {address} {}",
            self.words()
        ))?;
        server.finish()?;
        Ok(report)
    }

    /// What the client is told of it.
    fn words(&self) -> String {
        let Exchange { size, window, seconds, .. } = self;
        let mut words = format!("--size {size} --window {window} --seconds {seconds}");
        if let Some(count) = self.count {
            words.push_str(&format!(" --count {count}"));
        }
        if self.lockstep {
            words.push_str(" --lockstep");
        }
        if self.histogram {
            words.push_str(" --histogram");
        }
        words
    }
}
