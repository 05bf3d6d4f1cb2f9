//! Latency against load: messages to an echo server over several connections.
//!
//! With a rate the loop is open: messages leave on a schedule of random (exponential) gaps, one connection after the
//! other, and each one's latency counts from the moment at which it was due. So a server that stalls pays for all that
//! would have come meanwhile, and what cannot be sent because too much is under way waits at the cost of its latency.
//! Without a rate the loop is closed: each connection has a window of messages outstanding, which shows the peak.
//!
//! - [`demi`]: both ends over catnip; [`kernel`]: over plain sockets
//! - [`schedule`]: when messages are due

mod demi;
mod kernel;
mod schedule;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde_json::json;

use self::schedule::Schedule;
use crate::cpu;
use crate::measure::{percentiles, preemptions};
use crate::nic::{self, End, Nic};

/// Most bytes under way: more queues at either end only hide that the server does not keep up.
const MOST_OUTSTANDING: usize = 1 << 20;

/// Connections at most.
const MOST_CONNECTIONS: usize = 1024;

/// Messages sent between two looks at what has come back.
const BURST: usize = 32;

/// How long answers are waited for after the last message was due.
const DRAIN: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Subject {
    /// Plain sockets, non-blocking and spinning: on `recv` with one connection, on epoll with more.
    Kernel,
    /// The libOS over a NIC.
    Catnip,
}

#[derive(clap::Args)]
pub(crate) struct ServerArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// Connections that will come
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Where the kernel's sockets listen
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// The core to stay on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 64)]
    heap_mib: usize,
    #[command(flatten)]
    nic: Nic,
}

#[derive(clap::Args)]
pub(crate) struct ClientArgs {
    #[arg(long, value_enum)]
    subject: Subject,
    /// The server, where it has an address of the kernel's
    #[arg(long, default_value_t = nic::server())]
    connect: SocketAddr,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages per second over all connections; without it, as many as go
    #[arg(long)]
    rate: Option<f64>,
    /// Messages outstanding on each connection, without --rate
    #[arg(long, default_value_t = 1)]
    window: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Seconds to run before measuring
    #[arg(long, default_value_t = 0.1)]
    warmup: f64,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 64)]
    heap_mib: usize,
    #[command(flatten)]
    nic: Nic,
}

/// The client's side of some connections to an echo server.
trait Fleet {
    /// Sends a message on a connection. What the stack does not take at once leaves later, in order.
    fn send(&mut self, connection: usize) -> Result<()>;
    /// Carries on without waiting, and appends how many bytes came back on which connections.
    fn poll(&mut self, arrived: &mut Vec<(usize, usize)>) -> Result<()>;
    /// Ends the connections, as far as the end of this process does not.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn server(args: &ServerArgs) -> Result<()> {
    cpu::pin(args.core)?;
    ensure!((1..=MOST_CONNECTIONS).contains(&args.connections), "--connections: 1 to {MOST_CONNECTIONS}");
    match args.subject {
        Subject::Kernel => kernel::serve((args.bind, 0).into(), args.connections),
        Subject::Catnip => {
            let demi = args.nic.instance(End::Server, args.heap_mib)?;
            demi::serve(&demi, nic::server(), args.connections)
        }
    }
}

pub(crate) fn client(args: &ClientArgs) -> Result<()> {
    cpu::pin(args.core)?;
    ensure!((1..=MOST_CONNECTIONS).contains(&args.connections), "--connections: 1 to {MOST_CONNECTIONS}");
    ensure!((1..=MOST_OUTSTANDING).contains(&args.size), "--size: 1 to {MOST_OUTSTANDING}");
    ensure!(args.window > 0, "--window must be at least 1");
    ensure!(args.rate.is_none_or(|rate| (1.0..=1e9).contains(&rate)), "--rate: 1 to 1000000000");
    let times = [args.seconds, args.warmup];
    ensure!(times.iter().all(|time| (0.0..=60.0).contains(time)), "--seconds and --warmup: 0 to 60");
    match args.subject {
        Subject::Kernel => {
            drive(&mut kernel::Clients::connect(args.connect, args.connections, args.size)?, args)
        }
        Subject::Catnip => {
            let demi = args.nic.instance(End::Client, args.heap_mib)?;
            drive(&mut demi::Clients::connect(demi, args.connect, args.connections, args.size)?, args)
        }
    }
}

/// A connection as the loop sees it: the messages that are under way on it, and when each was due.
#[derive(Default)]
struct Line {
    due: VecDeque<Instant>,
    /// Bytes of the message that is coming back.
    partial: usize,
}

/// What was measured of the messages that were due within the time to measure.
struct Account {
    from: Instant,
    to: Instant,
    histogram: Histogram<u64>,
    /// Messages that came back within that time, whenever they were due.
    returned: u64,
    /// Messages that had not come back when the wait for them was over.
    missing: u64,
}

impl Account {
    #[inline]
    fn covers(&self, moment: Instant) -> bool {
        (self.from..self.to).contains(&moment)
    }

    #[inline]
    fn returned(&mut self, due: Instant, now: Instant) {
        self.returned += u64::from(self.covers(now));
        if self.covers(due) {
            self.histogram.saturating_record((now - due).as_nanos() as u64);
        }
    }

    /// Its latency is at least what it has come to.
    fn missing(&mut self, due: Instant, now: Instant) {
        if self.covers(due) {
            self.missing += 1;
            self.histogram.saturating_record((now - due).as_nanos() as u64);
        }
    }
}

fn drive(fleet: &mut impl Fleet, args: &ClientArgs) -> Result<()> {
    let start = Instant::now();
    let from = start + Duration::from_secs_f64(args.warmup);
    let to = from + Duration::from_secs_f64(args.seconds);
    let mut account = Account {
        from,
        to,
        // Three digits up to a minute: constant in size, nothing allocated while measuring.
        histogram: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        returned: 0,
        missing: 0,
    };
    let mut lines: Vec<Line> = (0..args.connections).map(|_| Line::default()).collect();
    let most = (MOST_OUTSTANDING / args.size).max(1);
    let mut schedule = match args.rate {
        Some(rate) => Schedule::open(start, rate, args.connections),
        None => Schedule::closed(args.window, args.connections),
    };
    let (mut outstanding, mut arrived) = (0, Vec::with_capacity(args.connections));
    let preempted = preemptions()?;
    let mut now = start;
    while now < to || outstanding > 0 && now < to + DRAIN {
        let mut burst = BURST.min(most - outstanding);
        while burst > 0
            && let Some((connection, due)) = schedule.next(now, to)
        {
            burst -= 1;
            lines[connection].due.push_back(due);
            outstanding += 1;
            fleet.send(connection)?;
        }
        fleet.poll(&mut arrived)?;
        now = Instant::now();
        for (connection, bytes) in arrived.drain(..) {
            let line = &mut lines[connection];
            line.partial += bytes;
            while line.partial >= args.size {
                line.partial -= args.size;
                let due = line.due.pop_front();
                ensure!(due.is_some(), "more came back than was sent");
                account.returned(due.unwrap_or(now), now);
                outstanding -= 1;
                schedule.answered(connection);
            }
        }
    }
    lines.iter().flat_map(|line| &line.due).for_each(|due| account.missing(*due, now));
    if args.rate.is_some() {
        // What was due, and never could be sent.
        while let Some((_, due)) = schedule.next(now, to) {
            account.missing(due, now);
        }
    }
    fleet.end()?;
    let mut report = percentiles(&account.histogram);
    report["connections"] = args.connections.into();
    report["size"] = args.size.into();
    report["offered_msgs_per_s"] = json!(args.rate);
    report["msgs_per_s"] = (account.returned as f64 / args.seconds.max(1e-9)).into();
    report["preemptions"] = preemptions()?.saturating_sub(preempted).into();
    report["missing"] = account.missing.into();
    println!("{report}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{Cli, Role};

    fn nic() -> Nic {
        let at = format!("@demi-bench-load-{}", std::process::id());
        let cli = Cli::parse_from(["demi-bench", "load-server", "--subject", "catnip", "--at", &at]);
        let Role::LoadServer(args) = cli.role else { panic!("it was given another role") };
        args.nic
    }

    #[test]
    fn every_byte_comes_back_on_its_connection() {
        const SIZE: usize = 5000;
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let demi = nic().instance(End::Server, 8)?;
                demi::serve(&demi, nic::server(), 3)
            });
            let demi = nic().instance(End::Client, 8).unwrap();
            let mut fleet = loop {
                // Refused until the server listens.
                match demi::Clients::connect(demi.clone(), nic::server(), 3, SIZE) {
                    Ok(fleet) => break fleet,
                    Err(error) => assert!(!server.is_finished(), "{error}"),
                }
            };
            for connection in [0, 1, 2, 2, 1, 2] {
                fleet.send(connection).unwrap();
            }
            let (mut bytes, mut arrived) = ([0; 3], Vec::new());
            let mut guard = crate::measure::Guard::new();
            while bytes != [SIZE, 2 * SIZE, 3 * SIZE] {
                guard.spin().unwrap();
                fleet.poll(&mut arrived).unwrap();
                arrived.drain(..).for_each(|(connection, count)| bytes[connection] += count);
                assert!(bytes.iter().sum::<usize>() <= 6 * SIZE, "{bytes:?}");
            }
            fleet.end().unwrap();
            server.join().unwrap().unwrap();
        });
    }
}
