//! Queue descriptors, and the table in which each libOS keeps its queues.
//!
//! A descriptor is a small integer whose two low bits say whose it is, so that a call finds its owner
//! without a lookup: the operator graph, or one of at most two libOSes (see [`crate::pair::Pair`]).
//! Numbers are reused first-in first-out: a closed one stays out of use for as long as possible.

use std::collections::VecDeque;
use std::fmt;

use crate::error::Error;

const TAG_BITS: u32 = 2;

/// Names a queue of one instance. Fits a positive C `int`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QDesc(u32);

impl QDesc {
    /// Names no queue.
    pub(crate) const NONE: QDesc = QDesc(u32::MAX);

    fn new(index: u32, tag: Tag) -> QDesc {
        QDesc(index << TAG_BITS | tag as u32)
    }

    /// The number behind the descriptor.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// A descriptor from any number: an allegation, checked at its first use.
    pub fn from_raw(raw: u32) -> QDesc {
        QDesc(raw)
    }

    pub(crate) fn tag(self) -> Option<Tag> {
        match self.0 & ((1 << TAG_BITS) - 1) {
            0 => Some(Tag::Graph),
            1 => Some(Tag::First),
            2 => Some(Tag::Second),
            _ => None,
        }
    }

    /// Whether the descriptor's owner is this one. A comparison, where [`QDesc::tag`] is a jump.
    #[inline]
    pub(crate) fn has_tag(self, tag: Tag) -> bool {
        self.0 & ((1 << TAG_BITS) - 1) == tag as u32
    }

    fn index(self) -> usize {
        (self.0 >> TAG_BITS) as usize
    }
}

impl fmt::Display for QDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for QDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qd {}", self.0)
    }
}

/// Who allocates and understands a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// The operator graph: in-memory and derived queues.
    Graph = 0,
    /// The libOS, or the first of a pair.
    First = 1,
    /// The second libOS of a pair.
    Second = 2,
}

/// The queues of one owner, by descriptor.
#[derive(Debug)]
pub struct QueueTable<T> {
    tag: Tag,
    max: usize,
    slots: Vec<Option<T>>,
    free: VecDeque<u32>,
}

impl<T> QueueTable<T> {
    /// An empty table whose descriptors carry `tag`, for at most `max` queues.
    pub fn new(tag: Tag, max: usize) -> QueueTable<T> {
        let max = max.min((i32::MAX >> TAG_BITS) as usize);
        QueueTable { tag, max, slots: Vec::new(), free: VecDeque::new() }
    }

    /// Takes `queue` in and names it. Fails with [`Error::TooManyQueues`] when the table is full.
    pub fn insert(&mut self, queue: T) -> Result<QDesc, Error> {
        let index = match self.free.pop_front() {
            Some(index) => index,
            None if self.slots.len() < self.max => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return Err(Error::TooManyQueues(self.max)),
        };
        self.slots[index as usize] = Some(queue);
        Ok(QDesc::new(index, self.tag))
    }

    /// Takes the queue out; its number goes to the end of the line.
    pub fn remove(&mut self, qd: QDesc) -> Result<T, Error> {
        if !qd.has_tag(self.tag) {
            return Err(Error::BadDescriptor);
        }
        let queue = self.slots.get_mut(qd.index()).and_then(Option::take).ok_or(Error::BadDescriptor)?;
        self.free.push_back(qd.index() as u32);
        Ok(queue)
    }

    /// The queue behind `qd`.
    #[inline]
    pub fn get(&self, qd: QDesc) -> Result<&T, Error> {
        if !qd.has_tag(self.tag) {
            return Err(Error::BadDescriptor);
        }
        match self.slots.get(qd.index()) {
            Some(Some(queue)) => Ok(queue),
            _ => Err(Error::BadDescriptor),
        }
    }

    /// The queue behind `qd`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, qd: QDesc) -> Result<&mut T, Error> {
        if !qd.has_tag(self.tag) {
            return Err(Error::BadDescriptor);
        }
        match self.slots.get_mut(qd.index()) {
            Some(Some(queue)) => Ok(queue),
            _ => Err(Error::BadDescriptor),
        }
    }

    /// Every open queue, in order of descriptor.
    pub fn iter(&self) -> impl Iterator<Item = (QDesc, &T)> {
        let tag = self.tag;
        self.slots
            .iter()
            .enumerate()
            .filter_map(move |(index, slot)| Some((QDesc::new(index as u32, tag), slot.as_ref()?)))
    }

    /// How many queues are open.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no queue is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_first_in_first_out() {
        let mut table = QueueTable::new(Tag::First, 8);
        let [a, b, c] = [0, 1, 2].map(|n| table.insert(n).unwrap());
        table.remove(b).unwrap();
        table.remove(a).unwrap();
        assert_eq!(table.insert(3).unwrap(), b);
        assert_eq!(table.insert(4).unwrap(), a);
        assert_eq!(table.get(c), Ok(&2));
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn foreign_stale_and_random_descriptors_are_refused() {
        let mut table = QueueTable::new(Tag::First, 2);
        let qd = table.insert(()).unwrap();
        table.insert(()).unwrap();
        assert_eq!(table.insert(()), Err(Error::TooManyQueues(2)));
        table.remove(qd).unwrap();
        assert_eq!(table.remove(qd), Err(Error::BadDescriptor));
        for raw in [0, 2, 3, 7, u32::MAX, i32::MAX as u32] {
            assert_eq!(table.get(QDesc::from_raw(raw)), Err(Error::BadDescriptor));
        }
    }
}
