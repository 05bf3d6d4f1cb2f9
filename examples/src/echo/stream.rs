//! Exchange over a stream: the n-th byte sent is the n-th of an endless repetition of the ring, so messages are
//! slices of it, replies are compared with it where they lie, and boundaries are a matter of counting.

use std::time::Instant;

use anyhow::bail;
use demi_api::{Buf, Demikernel, Done, Error, LibOs, QDesc, SgArray};

use super::Client;
use super::client::{PATIENCE, waited};
use super::report::Report;
use crate::stop::Stop;

pub(super) fn exchange<L: LibOs>(
    demi: &Demikernel<L>,
    qd: QDesc,
    ring: &Buf,
    args: &Client,
    report: &mut Report,
    stop: &Stop,
) -> anyhow::Result<()> {
    let window = u64::from(args.window);
    let mut sender = Sender { demi, qd, ring, size: args.size as usize, at: 0 };
    let mut sent_at = vec![Instant::now(); args.window as usize];
    let mut sent = window.min(args.count);
    let mut replied = 0;
    let mut slot = 0;
    let mut receiver = Receiver { ring, at: 0, of_message: 0, size: args.size as usize };
    sender.send(sent as usize)?;
    demi.pop(qd)?;
    let mut results = Vec::new();
    while replied < args.count {
        let Some(_) = waited(demi.wait_next_n(&mut results, 8, Some(PATIENCE)), args, stop)? else {
            return Ok(());
        };
        for completion in results.drain(..) {
            let sga = match completion.result? {
                Done::Popped(sga) => sga,
                _ => continue,
            };
            if sga.is_empty() {
                bail!("{} closed the connection", args.connect);
            }
            let whole = receiver.take(&sga)?;
            let more = whole.min(args.count - sent);
            for reply in 0..whole {
                let now = Instant::now();
                report.record(now - sent_at[slot]);
                if reply < more {
                    sent_at[slot] = now;
                }
                slot = if slot + 1 == sent_at.len() { 0 } else { slot + 1 };
            }
            replied += whole;
            if more > 0 {
                sender.send(more as usize)?;
                sent += more;
            }
            if replied < args.count {
                demi.pop(qd)?;
            }
        }
    }
    Ok(())
}

struct Sender<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    qd: QDesc,
    ring: &'a Buf,
    size: usize,
    at: usize,
}

impl<L: LibOs> Sender<'_, L> {
    /// Sends the next messages, which lie side by side in the ring.
    #[inline]
    fn send(&mut self, messages: usize) -> anyhow::Result<()> {
        let mut left = messages * self.size;
        let mut sga = SgArray::new();
        while left > 0 {
            let part = left.min(self.ring.len() - self.at);
            sga.push(self.ring.slice(self.at..self.at + part))?;
            self.at = if self.at + part == self.ring.len() { 0 } else { self.at + part };
            left -= part;
        }
        self.demi.push(self.qd, sga).map_err(Error::from)?;
        Ok(())
    }
}

struct Receiver<'a> {
    ring: &'a Buf,
    at: usize,
    /// Bytes of the current message that are here.
    of_message: usize,
    size: usize,
}

impl Receiver<'_> {
    /// Compares what has come with what was sent; how many messages are whole by it.
    #[inline]
    fn take(&mut self, sga: &SgArray) -> anyhow::Result<u64> {
        for segment in sga.segments() {
            let mut rest = &segment[..];
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(rest.len().min(self.ring.len() - self.at));
                if *part != self.ring[self.at..self.at + part.len()] {
                    bail!("the reply differs from what was sent: the server is no echo server");
                }
                self.at = if self.at + part.len() == self.ring.len() { 0 } else { self.at + part.len() };
                self.of_message += part.len();
                rest = behind;
            }
        }
        let whole = self.of_message / self.size;
        self.of_message -= whole * self.size;
        Ok(whole as u64)
    }
}
