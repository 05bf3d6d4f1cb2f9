//! A device with faults: requests that fail, by number or by chance, and completions that come late.
//!
//! Invariants: what becomes of the n-th request depends on the seed, the rules, n and the request alone. Every request
//! that was taken completes once, with the buffers that it came with, and no more than [`Caps::depth`] are under way.
//! A request that is not to fail reaches the device as it is; one that is to fail reaches it only as far as its rule's
//! [`Portion`] says.
//!
//! | file | what it holds |
//! |---|---|
//! | `rule` | which requests fail, and how |

mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

pub use self::rule::{Portion, Rule, Rules, When, Which};
use super::{BlockDevice, Buffers, Caps, Command, Completion, DeviceCx, Request};

/// A device of type `D` with faults.
#[derive(Debug)]
pub struct Fault<D> {
    device: D,
    rules: Rules,
    delay: Duration,
    jitter: Duration,
    /// With the device, by the tags that it knows them by.
    under_way: BTreeMap<u64, UnderWay>,
    next: u64,
    /// Complete, and when they may be handed out.
    held: Vec<(Instant, Completion)>,
    /// From the device; empty between calls.
    arrived: Vec<Completion>,
}

#[derive(Debug)]
struct UnderWay {
    tag: u64,
    lie: Option<Lie>,
}

/// A write that is to fail although some of it is done.
#[derive(Debug)]
struct Lie {
    error: Error,
    /// Where it was to write.
    offset: u64,
    /// What, in whole.
    data: SgArray,
}

impl<D: BlockDevice> Fault<D> {
    /// Puts faults before a device.
    pub fn new(device: D, rules: Rules) -> Fault<D> {
        Fault {
            device,
            rules,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            under_way: BTreeMap::new(),
            next: 0,
            held: Vec::new(),
            arrived: Vec::new(),
        }
    }

    /// The same, whose completions come `delay` later, and up to `jitter` more, random for each: so in another order.
    pub fn late(device: D, rules: Rules, delay: Duration, jitter: Duration) -> Fault<D> {
        Fault { delay, jitter, ..Fault::new(device, rules) }
    }

    /// The device without faults. What is under way is lost.
    pub fn into_inner(self) -> D {
        self.device
    }

    fn hold(&mut self, now: Instant, completion: Completion) {
        let jitter = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX - 1);
        let extra = if jitter == 0 { 0 } else { self.rules.draw(jitter + 1) };
        self.held.push((now + self.delay + Duration::from_nanos(extra), completion));
    }

    /// What reaches the device of a write that fails. `None`: nothing.
    fn in_part(&self, error: Error, portion: Portion, command: &Command) -> Option<(Command, Lie)> {
        let Command::Write { offset, data, durable } = command else { return None };
        let block = self.caps().block_size;
        let mut part = data.clone();
        let mut start = *offset;
        let blocks = (data.len() / block) as u64;
        let keep = match portion {
            Portion::Nothing => 0,
            Portion::All => blocks,
            Portion::Part => self.rules.draw(blocks + 1),
        };
        // What the device would refuse is not cut into something that it might take.
        if keep == 0 || self.caps().check(command).is_err() {
            return None;
        }
        if portion == Portion::Part && self.rules.draw(2) == 0 {
            part.advance((blocks - keep) as usize * block);
            start += (blocks - keep) * block as u64;
        } else {
            part = part.split_to(keep as usize * block);
        }
        let lie = Lie { error, offset: *offset, data: data.clone() };
        Some((Command::Write { offset: start, data: part, durable: *durable }, lie))
    }
}

impl<D: BlockDevice> BlockDevice for Fault<D> {
    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn submit(&mut self, cx: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        if self.under_way.len() + self.held.len() >= self.caps().depth {
            return Err(request);
        }
        let Request { tag, command } = request;
        let (command, lie) = match self.rules.judge(&command) {
            None => (command, None),
            Some((error, portion)) => match self.in_part(error.clone(), portion, &command) {
                Some((part, lie)) => (part, Some(lie)),
                None => {
                    let buffers = match command {
                        Command::Read { into, .. } => Buffers::Read(into),
                        Command::Write { data, .. } => Buffers::Written(data),
                        Command::Flush | Command::Discard { .. } => Buffers::None,
                    };
                    self.hold(cx.now, Completion { tag, result: Err(error), buffers });
                    return Ok(());
                }
            },
        };
        let id = self.next;
        if let Err(Request { command, .. }) = self.device.submit(cx, Request { tag: id, command }) {
            let command = match (command, lie) {
                (Command::Write { durable, .. }, Some(lie)) => {
                    Command::Write { offset: lie.offset, data: lie.data, durable }
                }
                (command, _) => command,
            };
            return Err(Request { tag, command });
        }
        self.next += 1;
        self.under_way.insert(id, UnderWay { tag, lie });
        Ok(())
    }

    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.device.poll(cx, &mut arrived);
        for completion in arrived.drain(..) {
            let Some(UnderWay { tag, lie }) = self.under_way.remove(&completion.tag) else { continue };
            let completion = match lie {
                None => Completion { tag, ..completion },
                Some(Lie { error, data, .. }) => {
                    Completion { tag, result: Err(error), buffers: Buffers::Written(data) }
                }
            };
            self.hold(cx.now, completion);
        }
        self.arrived = arrived;
        let before = done.len();
        self.held.sort_by_key(|(due, _)| *due);
        let due = self.held.partition_point(|(due, _)| *due <= cx.now);
        done.extend(self.held.drain(..due).map(|(_, completion)| completion));
        done.len() - before
    }

    fn next_deadline(&self) -> Option<Instant> {
        let held = self.held.iter().map(|(due, _)| *due).min();
        [self.device.next_deadline(), held].into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.held.iter().all(|(due, _)| *due > cx.now) && self.device.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("fault_requests", self.rules.seen());
        visit("fault_struck", self.rules.struck());
        self.device.counters(visit);
    }
}
