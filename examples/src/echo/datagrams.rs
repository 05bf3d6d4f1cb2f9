//! Exchange of datagrams: each starts with its number, for they may be lost, doubled or overtaken. A window that
//! stays without a reply for [`LOST_AFTER`] is given up as lost.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use demi_api::{Buf, Demikernel, Done, Error, LibOs, QDesc, SgArray};

use super::Client;
use super::report::Report;
use crate::stop::Stop;

/// Bytes of a datagram's number, which is little-endian.
pub(super) const HEADER: usize = 8;

const LOST_AFTER: Duration = Duration::from_millis(200);

/// Windows given up in a row before the client does.
const HOPELESS: u32 = 25;

pub(super) fn exchange<L: LibOs>(
    demi: &Demikernel<L>,
    qd: QDesc,
    ring: &Buf,
    args: &Client,
    report: &mut Report,
    stop: &Stop,
) -> anyhow::Result<()> {
    let now = Instant::now();
    let slots = vec![Slot { number: 0, since: now, open: false }; args.window as usize];
    // So late replies to an earlier exchange on this socket are told from those to this one.
    let next = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |passed| passed.as_nanos() as u64) % (1 << 48);
    let mut run = Exchange { demi, qd, ring, size: args.size as usize, slots, next, left: args.count };
    for slot in 0..run.slots.len() {
        run.send(slot, now)?;
    }
    let mut pop = demi.pop(qd)?;
    let mut results = Vec::new();
    let mut silent = 0;
    while run.slots.iter().any(|slot| slot.open) {
        match demi.wait_next_n(&mut results, 64, Some(LOST_AFTER)) {
            Ok(_) => {}
            Err(Error::Interrupted) if stop.asked() => break,
            Err(Error::TimedOut) => {
                report.lost += run.give_up()?;
                silent += 1;
                if silent >= HOPELESS {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
        for completion in results.drain(..) {
            let is_pop = completion.token == pop;
            match completion.result {
                Ok(Done::Popped(sga)) => {
                    if run.reply(&sga, report)? {
                        silent = 0;
                    }
                }
                Ok(_) => {}
                Err(error @ Error::ConnectionRefused) => {
                    bail!("cannot reach {}: {error}; is the server running with --udp?", args.connect)
                }
                Err(error) => return Err(error).context(format!("exchange with {}", args.connect)),
            }
            if is_pop {
                pop = demi.pop(qd)?;
            }
        }
    }
    // The next exchange on this socket must not find a pop of this one.
    if demi.cancel(pop).is_ok() {
        demi.wait(pop, None)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Slot {
    number: u64,
    since: Instant,
    open: bool,
}

struct Exchange<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    qd: QDesc,
    ring: &'a Buf,
    size: usize,
    slots: Vec<Slot>,
    next: u64,
    left: u64,
}

impl<L: LibOs> Exchange<'_, L> {
    /// Sends the slot's next datagram, if any is left to send.
    fn send(&mut self, slot: usize, now: Instant) -> anyhow::Result<()> {
        self.slots[slot].open = self.left > 0;
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        // The number names its slot, so that a reply finds it without a search.
        let number = self.next * self.slots.len() as u64 + slot as u64;
        self.next = self.next.wrapping_add(1) % (1 << 48);
        let mut datagram = self.demi.alloc(self.size)?;
        datagram[..HEADER].copy_from_slice(&number.to_le_bytes());
        datagram[HEADER..].copy_from_slice(self.content(number));
        self.slots[slot] = Slot { number, since: now, open: true };
        self.demi.push(self.qd, datagram).map_err(Error::from)?;
        Ok(())
    }

    /// Records a reply and sends the next datagram; false if it answers nothing that is open.
    fn reply(&mut self, sga: &SgArray, report: &mut Report) -> anyhow::Result<bool> {
        let now = Instant::now();
        let [segment] = sga.segments() else { bail!("the reply is empty or cut up") };
        let Some((number, content)) = segment.split_first_chunk::<HEADER>() else {
            bail!("the reply is too short")
        };
        let number = u64::from_le_bytes(*number);
        let slot = (number % self.slots.len() as u64) as usize;
        if !self.slots[slot].open || self.slots[slot].number != number {
            return Ok(false);
        }
        if content != self.content(number) {
            bail!("the reply differs from what was sent: the server is no echo server");
        }
        report.record(now - self.slots[slot].since);
        self.send(slot, now)?;
        Ok(true)
    }

    /// Counts what is open as lost, and sends on.
    fn give_up(&mut self) -> anyhow::Result<u64> {
        let now = Instant::now();
        let mut lost = 0;
        for slot in 0..self.slots.len() {
            if self.slots[slot].open {
                lost += 1;
                self.send(slot, now)?;
            }
        }
        Ok(lost)
    }

    fn content(&self, number: u64) -> &[u8] {
        let messages = (self.ring.len() / self.size) as u64;
        let start = (number % messages) as usize * self.size;
        &self.ring[start + HEADER..start + self.size]
    }
}
