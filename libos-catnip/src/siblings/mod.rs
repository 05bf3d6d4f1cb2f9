//! Other instances on queues of the same interface: what reached the wrong one is handed over.
//!
//! Instances share nothing but the interface. Which of them a frame comes to is the choice of the NIC or of who sends, so
//! what an instance has no use for may be for a sibling: it is asked, then the next, and the last to be asked answers as
//! a host without siblings would. So no directory of connections is needed, none can be out of date, and a segment is
//! refused once, when nobody has its connection. News of neighbours, routers and errors goes to all.
//!
//! One who does not turn for a while holds nobody up: what it may have a use for is laid before it, the next is asked, and
//! as it may have been its, nobody refuses it. Nor does anybody while somebody is coming who is not known yet.
//!
//! A queue that nobody has is served by the next in a circle of those who live, until its owner comes and all know it.
//!
//! Invariants: a message visits every instance once at the most, since each passes it on only to those that lie farther
//! from where it began. What there is to tell waits for the end of the turn and is bounded by [`MOST`] bytes for each
//! sibling; what a sibling has no room for is lost, as on a network. Only processes of the same user take part, and what
//! they say is checked as what a peer says.
//!
//! | module | what it is |
//! |---|---|
//! | `mesh` | sockets between the instances, who is there |
//! | `message` | what they tell each other |
//! | `sys` | what was told and not read |

mod mesh;
mod message;
mod sys;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use rustix::event::epoll;

use self::mesh::Mesh;
pub(crate) use self::message::{Message, Round, is_advert, messages};

use crate::device::xdp::Shares;
use crate::ip::{About, Problem};
use crate::ports::PortClass;

/// Most bytes that go to one sibling in one turn: 1.5 of the largest datagram.
const MOST: usize = 96 << 10;

/// Messages are looked for this often, and in every turn for a while after there was one: a look is a system call.
const PERIOD: Duration = Duration::from_micros(50);
const LIVELY: Duration = Duration::from_millis(1);

/// Before another attempt to take on a queue, at first and at the most.
const AGAIN: Duration = Duration::from_millis(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(1);

/// The siblings of one instance.
#[derive(Debug)]
pub(crate) struct Siblings {
    /// The first of this instance's queues, by which the others know it.
    id: u16,
    /// Which part of the queues is its own.
    part: usize,
    shares: Shares,
    mesh: Mesh,
    /// What there is to be told, by sibling.
    batches: Vec<(u16, Vec<u8>)>,
    /// Readable when the device or a sibling has something.
    all: Fd,
    look_at: Instant,
    lively_until: Instant,
    /// When to see to it that the right queues are served, and how often that has failed.
    attempt_at: Option<Instant>,
    attempts: u32,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    passed_on: u64,
    told: u64,
    heard: u64,
    lost: u64,
    refused: u64,
    unanswered: u64,
}

impl Siblings {
    /// Makes this instance known to its siblings, and them to it, as the owner of the first part that is free.
    pub(crate) fn join(shares: &Shares) -> Result<Box<Siblings>, Error> {
        let firsts: Vec<u16> = shares.parts.iter().map(|part| part[0] as u16).collect();
        let (mut mesh, part) = Mesh::listen(shares.interface, &firsts, shares.wait)?;
        mesh.call_all(shares.queues).map_err(met)?;
        let all = epoll::create(epoll::CreateFlags::CLOEXEC).map(Fd::from).map_err(met)?;
        epoll::add(&all, &mesh, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(met)?;
        Ok(Box::new(Siblings {
            id: firsts[part],
            part,
            shares: shares.clone(),
            mesh,
            batches: Vec::new(),
            all,
            look_at: Instant::default(),
            lively_until: Instant::default(),
            attempt_at: Some(Instant::default()),
            attempts: 0,
            counters: Counters::default(),
        }))
    }

    /// The queues of this instance.
    pub(crate) fn own(&self) -> &[u32] {
        &self.shares.parts[self.part]
    }

    /// The ports that it may choose.
    pub(crate) fn ports(&self) -> PortClass {
        PortClass::new(self.shares.queues, self.own(), self.shares.spread.clone())
    }

    /// From now on, the device wakes this instance as well.
    pub(crate) fn watch(&mut self, device: BorrowedFd<'_>) -> Result<(), Error> {
        epoll::add(&self.all, device, epoll::EventData::new_u64(1), epoll::EventFlags::IN).map_err(met)
    }

    /// The queues that this instance should serve, if that may have changed: its own, and those for which it is next.
    pub(crate) fn wanted(&mut self, now: Instant) -> Option<Vec<u32>> {
        if self.mesh.has_changed() {
            (self.attempt_at, self.attempts) = (Some(now), 0);
        }
        self.attempt_at.take_if(|at| *at <= now)?;
        let parts = &self.shares.parts;
        if let [own] = &parts[..] {
            return Some(own.clone());
        }
        let count = parts.len();
        let lives = |part: usize| part == self.part || self.mesh.ids().any(|id| usize::from(id) == part);
        let heir = |part: usize| (part..part + count).map(|part| part % count).find(|part| lives(*part));
        let ours = (0..count).filter(|part| heir(*part) == Some(self.part));
        Some(ours.flat_map(|part| parts[part].iter().copied()).collect())
    }

    /// Notes that not all of them could be had: the kernel needs a while to let go of what a process had that has died.
    pub(crate) fn try_again(&mut self, now: Instant) {
        self.attempt_at = Some(now + (AGAIN * (1 << self.attempts)).min(AGAIN_AT_MOST));
        self.attempts = (self.attempts + 1).min(8);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.attempt_at
    }

    /// Passes a packet on to the next that may have a use for it. `round`: how far it had got when it came, if it did not
    /// come from the device. False: all have been asked, and this instance is the last.
    pub(crate) fn pass_on(
        &mut self,
        now: Instant,
        round: Option<Round>,
        about: &About,
        data: &SgArray,
    ) -> bool {
        let mut round = round.unwrap_or(Round { origin: self.id, skipped: false, aside: false });
        let (mut at, mut welcomed) = (self.id, false);
        // Each step asks somebody farther from the origin, and a newcomer is looked for once.
        loop {
            let Some(next) = next(round.origin, at, self.mesh.ids()) else {
                if !std::mem::replace(&mut welcomed, true) && self.mesh.welcome(now) {
                    continue;
                }
                let unanswered = round.skipped || self.mesh.has_strangers(now);
                self.counters.unanswered += u64::from(unanswered);
                return unanswered;
            };
            self.counters.passed_on += 1;
            let deaf = self.mesh.is_deaf(next, now);
            self.tell(next, |batch| {
                message::put_datagram(batch, Round { aside: deaf, ..round }, about, data);
            });
            if !deaf {
                return true;
            }
            round.skipped = true;
            at = next;
        }
    }

    /// Tells everyone of an error about a packet, whose connection may be a sibling's.
    pub(crate) fn tell_problem(&mut self, problem: &Problem) {
        self.tell_all(|batch| message::put_problem(batch, problem));
    }

    /// Tells everyone what a neighbour or a router makes known.
    pub(crate) fn tell_advert(&mut self, frame: &SgArray) {
        self.tell_all(|batch| message::put_advert(batch, frame));
    }

    fn tell_all(&mut self, put: impl Fn(&mut Vec<u8>)) {
        let mut last = None;
        // In rising order, as there may be two connections to one sibling.
        while let Some(id) = self.mesh.ids().filter(|id| last.is_none_or(|last| *id > last)).min() {
            self.counters.told += 1;
            self.tell(id, &put);
            last = Some(id);
        }
    }

    fn tell(&mut self, id: u16, put: impl Fn(&mut Vec<u8>)) {
        let place = self.batches.iter().position(|(to, _)| *to == id).unwrap_or_else(|| {
            self.batches.push((id, Vec::new()));
            self.batches.len() - 1
        });
        let batch = &mut self.batches[place].1;
        let before = batch.len();
        put(batch);
        if batch.len() > MOST {
            batch.truncate(before);
            self.counters.lost += 1;
        }
    }

    /// Sends what was told in this turn.
    pub(crate) fn flush(&mut self, now: Instant) {
        for (id, batch) in &mut self.batches {
            if !batch.is_empty() {
                self.counters.lost += u64::from(!self.mesh.send(*id, batch, now));
                batch.clear();
            }
        }
    }

    /// Whether it is time to look for messages.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.look_at
    }

    /// Before a sleep: the next turn looks for messages.
    pub(crate) fn arm(&mut self) {
        self.look_at = Instant::default();
    }

    /// Looks for messages; [`receive`](Siblings::receive) then has them.
    pub(crate) fn look(&mut self, now: Instant) {
        self.mesh.look();
        if self.mesh.has_more() {
            self.lively_until = now + LIVELY;
        }
        self.look_at = if now < self.lively_until { now } else { now + PERIOD };
    }

    /// The next packet of messages: where it lies, and how many bytes it has. `None`: there are no more for now.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<(Vec<u8>, usize)> {
        let packet = self.mesh.receive(now);
        self.counters.heard += u64::from(packet.is_some());
        packet
    }

    /// Takes back what [`receive`](Siblings::receive) gave, to be used again.
    pub(crate) fn recycle(&mut self, room: Vec<u8>) {
        self.mesh.recycle(room);
    }

    /// Notes a message that made no sense.
    pub(crate) fn refuse(&mut self) {
        self.counters.refused += 1;
    }

    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let Counters { passed_on, told, heard, lost, refused, unanswered } = self.counters;
        visit("siblings", self.mesh.ids().count() as u64);
        visit("siblings_passed_on", passed_on);
        visit("siblings_told", told);
        visit("siblings_heard", heard);
        visit("siblings_lost", lost);
        visit("siblings_refused", refused);
        // Packets that nobody had a use for, but somebody may have who could not be asked.
        visit("siblings_unanswered", unanswered);
    }
}

impl AsFd for Siblings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }
}

fn met(errno: rustix::io::Errno) -> Error {
    Error::Config(format!("cannot meet the instances that share the interface: {errno}: try again"))
}

/// Who is asked after `own`, of those who were not asked since `origin`: the next in a circle.
fn next(origin: u16, own: u16, others: impl Iterator<Item = u16>) -> Option<u16> {
    let distance = |id: u16| id.wrapping_sub(origin);
    others.filter(|id| distance(*id) > distance(own)).min_by_key(|id| distance(*id))
}
