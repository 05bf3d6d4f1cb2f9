//! Other instances: one queue pair to each, on which all connections with it go.
//!
//! Invariants: a peer is in `by_qp` from when its queue pair has a name until that is gone. Its connections are in its slots, by the name that it
//! calls them by; a name is free again when both sides have said Close. What waits to be posted is in its
//! lists, and it is in `busy` while there is any.
//!
//! | file | what it holds |
//! |---|---|
//! | `meeting` | how a queue pair comes about, and ends |
//! | `allowance`, `receives` | the first level of credits: never a message without a receive |
//! | `post` | what goes out, and in which order |
//! | `arrive` | what comes in |

mod allowance;
mod arrive;
mod meeting;
mod post;
mod receives;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;

pub(crate) use self::allowance::Allowance;
pub(crate) use self::post::{Control, post};
pub(crate) use self::receives::Receives;
use crate::device::{Qp, Region, Remote};
use crate::wire::Name;

/// How a peer stands.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Called, at this address; it has not answered.
    Calling { to: SocketAddr, renew: bool, at: Instant },
    /// It called, and was accepted; the queue pair is not connected yet.
    Answering,
    /// Messages go both ways.
    Up,
}

/// Another instance.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stage: Stage,
    pub(crate) qp: Qp,
    pub(crate) id: u128,
    /// Most bytes of a message to it.
    pub(crate) receive_bytes: usize,
    /// Most bytes of an array to it.
    pub(crate) longest: u32,
    /// How many connections it keeps.
    pub(crate) connections: u16,
    /// Its credit words, and ours for it.
    pub(crate) words: Remote,
    pub(crate) region: Region,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) allowance: Allowance,
    /// Messages whose receive there was no memory to replace.
    pub(crate) owed: u32,
    slots: Vec<Slot>,
    free: Vec<u16>,
    pub(crate) open: usize,
    /// Connections that wait for it to be up.
    pub(crate) waiting: Vec<Key>,
    pub(crate) controls: VecDeque<Control>,
    /// Refusals among them: as many at the most as there can be honest questions.
    pub(crate) refusals: u32,
    /// Connections with something to push, and the room in their window for it.
    pub(crate) ready: VecDeque<Key>,
    /// Connections whose window is to be written.
    pub(crate) grants: VecDeque<Key>,
    /// Connections with offers to read.
    pub(crate) readers: VecDeque<Key>,
    /// Reads under way.
    pub(crate) reading: usize,
    /// It is in the list of those that have something to do.
    pub(crate) busy: bool,
    /// Nothing can be sent before it takes something: looked at in its credit word each turn.
    pub(crate) starved: bool,
    /// When something was posted last.
    pub(crate) posted: Instant,
    /// The next look whether it is there.
    pub(crate) look: Option<Instant>,
    pub(crate) expelled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u16,
    occupant: Key,
}

impl Peer {
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up)
    }

    /// Whether nothing goes by it, and nothing waits for it.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_up() && !self.expelled && self.open == 0 && self.waiting.is_empty() && !self.has_work()
    }

    /// Whether a push may go past everything: nothing else waits.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        !self.busy && self.allowance.may_send()
    }

    /// A name for a connection, below `limit` of them.
    pub(crate) fn name(&mut self, occupant: Key, limit: u16) -> Option<Name> {
        let slot = self.free.pop().or_else(|| {
            let slot = u16::try_from(self.slots.len()).ok().filter(|slot| *slot < limit)?;
            self.slots.push(Slot { generation: 0, occupant: Key::NONE });
            Some(slot)
        })?;
        let entry = &mut self.slots[usize::from(slot)];
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        entry.occupant = occupant;
        self.open += 1;
        Some(Name::new(slot, entry.generation))
    }

    /// Frees a name.
    pub(crate) fn release(&mut self, name: Name) {
        if let Some(slot) = self.slots.get_mut(name.slot())
            && slot.generation == name.generation()
            && slot.occupant != Key::NONE
        {
            slot.occupant = Key::NONE;
            self.free.push(name.slot() as u16);
            self.open -= 1;
        }
    }

    /// The connection of a name, if there is one.
    #[inline]
    pub(crate) fn find(&self, name: Name) -> Option<Key> {
        let slot = self.slots.get(name.slot())?;
        (slot.generation == name.generation() && slot.occupant != Key::NONE).then_some(slot.occupant)
    }

    pub(crate) fn occupants(&self) -> impl Iterator<Item = Key> {
        self.slots.iter().map(|slot| slot.occupant).filter(|key| *key != Key::NONE)
    }

    /// Whether anything waits to be posted.
    pub(crate) fn has_work(&self) -> bool {
        !self.controls.is_empty()
            || !self.ready.is_empty()
            || !self.grants.is_empty()
            || !self.readers.is_empty()
            || self.allowance.is_due()
    }
}

/// All other instances.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) table: Slab<Peer>,
    by_qp: Vec<Key>,
    by_id: HashMap<u128, Key>,
    /// Who was found at an address.
    pub(crate) routes: HashMap<SocketAddr, Key>,
    pub(crate) busy: Vec<Key>,
    pub(crate) starved: Vec<Key>,
    /// Peers that receives are owed to.
    pub(crate) owing: Vec<Key>,
    pub(crate) count: usize,
}

impl Peers {
    #[inline]
    pub(crate) fn of_qp(&self, qp: Qp) -> Option<Key> {
        let key = *self.by_qp.get(qp.0 as usize)?;
        (key != Key::NONE).then_some(key)
    }

    fn note_qp(&mut self, qp: Qp, key: Key) {
        let index = qp.0 as usize;
        if self.by_qp.len() <= index {
            self.by_qp.resize(index + 1, Key::NONE);
        }
        self.by_qp[index] = key;
    }

    /// Puts a peer on the list of those that have something to do.
    pub(crate) fn rouse(&mut self, key: Key) {
        if let Some(peer) = self.table.get_mut(key)
            && !std::mem::replace(&mut peer.busy, true)
        {
            self.busy.push(key);
        }
    }

    /// Has something said to a peer.
    pub(crate) fn say(&mut self, key: Key, control: Control) {
        if let Some(peer) = self.table.get_mut(key) {
            peer.controls.push_back(control);
            self.rouse(key);
        }
    }
}
