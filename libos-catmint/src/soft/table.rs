//! The queue pairs of a device, by name and by number.
//!
//! A name is a small number that is used again. On the wire a queue pair has a number of 24 bits: its name, and in front of
//! it a generation that changes each time, so that what is late finds nobody.

use std::net::SocketAddr;

use super::rc::QueuePair;
use super::wire::{CommId, Qpn};
use crate::device::Qp;

/// Most queue pairs: what the names' bits in a number allow.
pub(super) const MOST: usize = 1 << 16;

/// A queue pair, and what belongs to it.
#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) path: P,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The connection manager's name for it.
    pub(super) conn: CommId,
    pub(super) stage: Stage,
    /// It is in the list of those that have something to send.
    pub(super) is_due: bool,
}

/// How far a queue pair has come.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are connected")]
pub(super) enum Stage {
    /// We have asked, and wait for an answer.
    Calling,
    /// We have accepted, and wait for the peer's word or first packet.
    Answering(QueuePair),
    /// Connected.
    Up(QueuePair),
}

impl Stage {
    /// The reliable connection, if there is one already.
    #[inline]
    pub(super) fn pair(&mut self) -> Option<&mut QueuePair> {
        match self {
            Stage::Answering(pair) | Stage::Up(pair) => Some(pair),
            Stage::Calling => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table<P> {
    places: Vec<Place<P>>,
    free: Vec<u16>,
    /// Names that have ended; then those of which that was told. Who was told is done with it when the next turn begins.
    ended: Vec<u16>,
    told: Vec<u16>,
    most: usize,
}

#[derive(Debug)]
struct Place<P> {
    /// Never zero, so that no number is one of the few that mean something else.
    generation: u8,
    entry: Option<Entry<P>>,
}

impl<P> Table<P> {
    pub(super) fn new(most: usize) -> Table<P> {
        Table {
            places: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            told: Vec::new(),
            most: most.min(MOST),
        }
    }

    /// A name that is not in use, and the number that goes with it. It is taken with [`insert`](Table::insert).
    pub(super) fn vacancy(&mut self, rng: &mut fastrand::Rng) -> Option<(Qp, Qpn)> {
        let place = match self.free.last() {
            Some(place) => *place,
            None if self.places.len() < self.most => {
                let place = u16::try_from(self.places.len()).ok()?;
                self.places.push(Place { generation: rng.u8(1..), entry: None });
                self.free.push(place);
                place
            }
            None => return None,
        };
        let qp = Qp(place.into());
        Some((qp, self.number(qp)))
    }

    fn number(&self, qp: Qp) -> Qpn {
        let generation = self.places.get(qp.0 as usize).map_or(0, |place| place.generation);
        Qpn::new(u32::from(generation) << 16 | qp.0)
    }

    /// Takes the vacancy that was looked up last.
    pub(super) fn insert(&mut self, entry: Entry<P>) {
        if let Some(place) = self.free.pop() {
            self.places[usize::from(place)].entry = Some(entry);
        }
    }

    /// Ends a name. It is used again when that was told, and the turn after it has begun.
    pub(super) fn remove(&mut self, qp: Qp) -> Option<Entry<P>> {
        let place = self.places.get_mut(qp.0 as usize)?;
        let entry = place.entry.take()?;
        place.generation = place.generation.checked_add(1).unwrap_or(1);
        self.ended.push(qp.0 as u16);
        Some(entry)
    }

    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        if !self.told.is_empty() {
            self.free.append(&mut self.told);
        }
    }

    /// A turn ends, and has told of everything.
    #[inline]
    pub(super) fn end_turn(&mut self) {
        if !self.ended.is_empty() {
            self.told.append(&mut self.ended);
        }
    }

    #[inline]
    pub(super) fn get(&self, qp: Qp) -> Option<&Entry<P>> {
        self.places.get(qp.0 as usize)?.entry.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, qp: Qp) -> Option<&mut Entry<P>> {
        self.places.get_mut(qp.0 as usize)?.entry.as_mut()
    }

    /// The connected queue pair of that name.
    #[inline]
    pub(super) fn up(&mut self, qp: Qp) -> Option<&mut QueuePair> {
        match &mut self.get_mut(qp)?.stage {
            Stage::Up(pair) => Some(pair),
            Stage::Calling | Stage::Answering(_) => None,
        }
    }

    /// Whom a number on the wire means.
    #[inline]
    pub(super) fn find(&self, number: Qpn) -> Option<Qp> {
        let qp = Qp(number.value() & 0xFFFF);
        let place = self.places.get(qp.0 as usize)?;
        (u32::from(place.generation) == number.value() >> 16).then_some(qp)
    }

    /// How much more can be posted on it.
    #[inline]
    pub(super) fn room(&self, qp: Qp) -> usize {
        match self.get(qp).map(|entry| &entry.stage) {
            Some(Stage::Up(pair)) => pair.room(),
            Some(Stage::Calling | Stage::Answering(_)) | None => 0,
        }
    }

    /// All queue pairs.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (Qp, &mut Entry<P>)> {
        (0..).zip(&mut self.places).filter_map(|(at, place)| Some((Qp(at), place.entry.as_mut()?)))
    }

    /// All names in use.
    pub(super) fn names(&self) -> impl Iterator<Item = (Qp, &Entry<P>)> {
        (0..).zip(&self.places).filter_map(|(at, place)| Some((Qp(at), place.entry.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<()> {
        let addr = SocketAddr::from(([10, 0, 0, 1], 1));
        Entry {
            path: (),
            local: addr,
            remote: addr,
            conn: CommId::default(),
            stage: Stage::Calling,
            is_due: false,
        }
    }

    #[test]
    fn a_number_means_one_queue_pair_and_no_later_one_of_its_name() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut table = Table::new(2);
        let (first, number) = table.vacancy(&mut rng).unwrap();
        assert!(number.value() > 1 << 16);
        table.insert(entry());
        let (second, other) = table.vacancy(&mut rng).unwrap();
        assert!(first != second && number != other);
        table.insert(entry());
        assert!(table.vacancy(&mut rng).is_none(), "no more than two");
        let mut stale = number;
        for _ in 0..600 {
            assert_eq!(table.find(stale), Some(first));
            table.remove(first).unwrap();
            assert!(table.find(stale).is_none() && table.remove(first).is_none());
            // Whoever has it does not know yet, and then has what he was told still before him.
            assert!(table.vacancy(&mut rng).is_none());
            table.begin_turn();
            assert!(table.vacancy(&mut rng).is_none());
            table.end_turn();
            assert!(table.vacancy(&mut rng).is_none());
            table.begin_turn();
            let (again, number) = table.vacancy(&mut rng).unwrap();
            assert_eq!(again, first);
            table.insert(entry());
            assert!(table.find(stale).is_none() && number.value() >> 16 != 0);
            stale = number;
        }
        assert_eq!(table.names().map(|(qp, _)| qp).collect::<Vec<_>>(), [first, second]);
        assert!(table.find(Qpn::GSI).is_none() && table.find(Qpn::new(0)).is_none());
    }
}
