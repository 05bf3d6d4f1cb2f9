//! Queue pairs by name, and how far each has come.
//!
//! Invariant: a tag is a place and how often it was used before, so that a completion or an event that comes late names
//! nothing.

use std::collections::HashMap;
use std::net::SocketAddr;

use demi_api::time::Instant;

use super::cm::raw::Id;
use super::queue::SendQueue;
use crate::device::{Fault, Qp};

/// Bits of a tag that say the place; eleven others say how often it was used. The highest bit is never set.
const PLACE: u32 = 20;
const USES: u32 = 31 - PLACE;

/// How far a queue pair has come.
#[derive(Debug)]
pub(super) enum State {
    /// The way to the peer is looked for, which is then told this; or there is none.
    Resolving(Option<Vec<u8>>),
    /// The peer was asked.
    Connecting,
    /// The peer was answered.
    Accepting,
    Connected,
    /// It has failed or was ended; what is outstanding comes back.
    Closing(Fault),
}

/// A queue pair.
pub(super) struct Pair {
    // In the order in which they must go: when the first is gone, the device does not touch what the second keeps.
    pub(super) id: Id,
    pub(super) send: Option<SendQueue>,
    pub(super) state: State,
    pub(super) addrs: Option<(SocketAddr, SocketAddr)>,
    /// When it is given up.
    pub(super) deadline: Option<Instant>,
    /// Its number on the device, once it has one.
    pub(super) number: Option<u32>,
    /// Whether it is in line to be flushed.
    pub(super) in_line: bool,
}

impl Pair {
    pub(super) fn new(id: Id, state: State, deadline: Instant) -> Pair {
        let deadline = Some(deadline);
        Pair { id, send: None, state, addrs: None, deadline, number: None, in_line: false }
    }
}

#[derive(Default)]
struct Entry {
    uses: u32,
    pair: Option<Pair>,
}

/// All queue pairs.
pub(super) struct Pairs {
    entries: Vec<Entry>,
    free: Vec<u32>,
    numbers: HashMap<u32, Qp>,
    /// The number that was asked for last, as most messages come in a row from one peer.
    last: (u32, Qp),
}

impl Pairs {
    pub(super) fn new(count: u32) -> Pairs {
        Pairs {
            entries: (0..count.min(1 << PLACE)).map(|_| Entry::default()).collect(),
            free: (0..count.min(1 << PLACE)).rev().collect(),
            numbers: HashMap::new(),
            last: (u32::MAX, Qp(u32::MAX)),
        }
    }

    /// What names a queue pair to the device.
    pub(super) fn tag(&self, name: Qp) -> u32 {
        let uses = self.entries.get(name.0 as usize).map_or(0, |entry| entry.uses);
        (uses & ((1 << USES) - 1)) << PLACE | name.0
    }

    /// Whom a tag names, if it is there still.
    #[inline]
    pub(super) fn named(&self, tag: u32) -> Option<Qp> {
        let name = Qp(tag & ((1 << PLACE) - 1));
        (self.get(name).is_some() && self.tag(name) == tag).then_some(name)
    }

    /// The name that the next one will have. `None`: there are as many as there may be.
    pub(super) fn vacant(&self) -> Option<Qp> {
        self.free.last().map(|place| Qp(*place))
    }

    /// Puts in the next one; returns its name.
    ///
    /// # Errors
    /// The queue pair itself, if there are as many as there may be.
    pub(super) fn insert(&mut self, pair: Pair) -> Result<Qp, Box<Pair>> {
        let Some(place) = self.free.pop() else { return Err(Box::new(pair)) };
        self.entries[place as usize].pair = Some(pair);
        Ok(Qp(place))
    }

    #[inline]
    pub(super) fn get(&self, name: Qp) -> Option<&Pair> {
        self.entries.get(name.0 as usize)?.pair.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, name: Qp) -> Option<&mut Pair> {
        self.entries.get_mut(name.0 as usize)?.pair.as_mut()
    }

    /// Takes one out for a moment: its name stays its own.
    pub(super) fn take(&mut self, name: Qp) -> Option<Pair> {
        self.entries.get_mut(name.0 as usize)?.pair.take()
    }

    pub(super) fn put_back(&mut self, name: Qp, pair: Pair) {
        if let Some(entry) = self.entries.get_mut(name.0 as usize) {
            entry.pair = Some(pair);
        }
    }

    pub(super) fn remove(&mut self, name: Qp) -> Option<Pair> {
        let entry = self.entries.get_mut(name.0 as usize)?;
        let pair = entry.pair.take()?;
        entry.uses = entry.uses.wrapping_add(1);
        self.free.push(name.0);
        if let Some(number) = pair.number {
            self.numbers.remove(&number);
            self.last = (u32::MAX, Qp(u32::MAX));
        }
        Some(pair)
    }

    /// Notes the number that the device knows a queue pair by.
    pub(super) fn set_number(&mut self, name: Qp, number: u32) {
        if let Some(pair) = self.get_mut(name) {
            pair.number = Some(number);
            self.numbers.insert(number, name);
        }
    }

    /// The queue pair of that number.
    #[inline]
    pub(super) fn by_number(&mut self, number: u32) -> Option<Qp> {
        if self.last.0 != number {
            self.last = (number, *self.numbers.get(&number)?);
        }
        Some(self.last.1)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Qp> {
        let places = 0..self.entries.len() as u32;
        places.map(Qp).filter(|name| self.get(*name).is_some())
    }

    /// Those that are given up at `now`.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Qp> {
        let is_overdue = |name: &Qp| {
            self.get(*name).and_then(|pair| pair.deadline).is_some_and(|deadline| deadline <= now)
        };
        self.names().filter(is_overdue).collect()
    }

    /// When the next one is given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.names().filter_map(|name| self.get(name)?.deadline).min()
    }
}
