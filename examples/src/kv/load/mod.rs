//! `client`: many connections that set and get keys, verify every reply, and report latencies.
//!
//! | module | what it holds |
//! |---|---|
//! | `worker` | one connection: what it has asked, and what must be the answer |
//! | `content` | values that tell of themselves whether they are right |
//! | `report` | what is told at the end |
//!
//! A connection has keys of its own, so what it has set last is what it must get: nobody else writes there.

mod content;
mod report;
mod worker;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use demi_api::{Completion, Demikernel, Done, Error, LibOs, SocketKind};

use self::report::Report;
use self::worker::Worker;
use crate::net::{self, Endpoint};
use crate::stop::Stop;

/// How long the server may stay silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Results that one wait takes.
const BATCH: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Client {
    /// The server: IP:PORT, [IPv6]:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    connect: Endpoint,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// What to ask: set each key in turn, get each in turn, or one of both at random
    #[arg(long, value_name = "KIND", default_value = "mixed")]
    requests: Kind,
    /// Requests to send, as many on each connection
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Requests under way at a time on a connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pipeline: u32,
    /// Bytes of a value
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    size: u32,
    /// Keys of a connection
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    keys: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Draw the distribution of latencies
    #[arg(long)]
    histogram: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Set,
    Get,
    Mixed,
}

pub(super) fn run<L: LibOs>(demi: &Demikernel<L>, args: &Client) -> anyhow::Result<()> {
    let under_way = u64::from(args.pipeline) * (u64::from(args.size) + worker::LONGEST_HEAD);
    let heap = demi.heap().region().len as u64;
    ensure!(
        under_way * u64::from(args.clients) <= heap / 2,
        "--clients times --pipeline times --size is more than half of the heap, which is {} MiB; \
         raise heap.size_mib in the configuration",
        heap >> 20
    );
    let stop = Stop::on_signals(demi)?;
    let mut load = Load { demi, workers: Vec::new(), by_queue: Vec::new(), report: Report::default() };
    for number in 0..args.clients {
        load.add(Worker::new(
            demi,
            net::connect(demi, &args.connect.addr(), SocketKind::Stream)?,
            number,
            args,
        )?);
    }
    let start = Instant::now();
    let outcome = load.exchange(args, &stop);
    let took = start.elapsed();
    for worker in &load.workers {
        worker.close(demi);
    }
    let answered = load.report.latencies.count();
    outcome.with_context(|| format!("after {answered} of {} answers", args.count))?;
    load.report.print(L::NAME, args, took);
    Ok(())
}

struct Load<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    workers: Vec<Worker>,
    /// The worker of a descriptor, by its number.
    by_queue: Vec<Option<u32>>,
    report: Report,
}

impl<L: LibOs> Load<'_, L> {
    fn add(&mut self, worker: Worker) {
        for qd in worker.queues() {
            let place = qd.raw() as usize;
            if self.by_queue.len() <= place {
                self.by_queue.resize(place + 1, None);
            }
            self.by_queue[place] = Some(self.workers.len() as u32);
        }
        self.workers.push(worker);
    }

    /// Asks and takes answers until all are there, or a signal comes.
    fn exchange(&mut self, args: &Client, stop: &Stop) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            worker.go_on(self.demi, args.pipeline.into())?;
        }
        let mut results = Vec::new();
        while self.report.latencies.count() < args.count {
            match self.demi.wait_next_n(&mut results, BATCH, Some(PATIENCE)) {
                Ok(_) => {}
                Err(Error::Interrupted) if stop.asked() => return Ok(()),
                Err(Error::Interrupted) => continue,
                Err(Error::TimedOut) => {
                    bail!("{} sent no reply for {} s", args.connect, PATIENCE.as_secs());
                }
                Err(error) => return Err(error.into()),
            }
            for completion in results.drain(..) {
                self.step(args, completion)?;
            }
            if stop.asked() {
                return Ok(());
            }
        }
        Ok(())
    }

    #[inline]
    fn step(&mut self, args: &Client, completion: Completion) -> anyhow::Result<()> {
        let place = self.by_queue.get(completion.qd.raw() as usize).copied().flatten();
        let Some(worker) = place.and_then(|place| self.workers.get_mut(place as usize)) else {
            return Ok(());
        };
        let taken = match completion.result {
            Ok(Done::Popped(message)) => worker.popped(self.demi, message, &mut self.report)?,
            Ok(Done::Batch(replies)) => worker.answered(self.demi, replies, &mut self.report)?,
            Ok(_) => return Ok(()),
            Err(Error::EndOfStream) => bail!("{} closed a connection", args.connect),
            Err(error) => return Err(error.into()),
        };
        worker.go_on(self.demi, taken)
    }
}
