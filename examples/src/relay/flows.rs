//! The clients of a relay: by address, and by the descriptor of their own socket.
//!
//! The client that sent last is found without a hash: datagrams come in trains.

use std::collections::HashMap;

use demi_api::{Addr, QDesc, QToken};

const NONE: u32 = u32::MAX;

pub(super) struct Flow {
    pub(super) client: Addr,
    pub(super) upstream: QDesc,
    /// The pop outstanding on `upstream`.
    pub(super) pop: QToken,
    /// When it was found last, in datagrams of all clients.
    pub(super) used: u64,
}

pub(super) struct Flows {
    places: Vec<Option<Flow>>,
    vacant: Vec<u32>,
    by_client: HashMap<Addr, u32>,
    by_queue: Vec<u32>,
    last: Option<(Addr, u32)>,
    clock: u64,
}

impl Flows {
    /// A table for at most `most` clients.
    pub(super) fn new(most: usize) -> Flows {
        Flows {
            places: (0..most).map(|_| None).collect(),
            vacant: (0..most as u32).rev().collect(),
            by_client: HashMap::new(),
            by_queue: Vec::new(),
            last: None,
            clock: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.vacant.is_empty()
    }

    /// The place of a client, which counts as used now.
    #[inline]
    pub(super) fn find(&mut self, client: &Addr) -> Option<usize> {
        self.clock += 1;
        let place = match &self.last {
            Some((last, place)) if last == client => *place,
            _ => {
                let place = *self.by_client.get(client)?;
                self.last = Some((client.clone(), place));
                place
            }
        } as usize;
        self.get_mut(place).used = self.clock;
        Some(place)
    }

    #[inline]
    pub(super) fn place_of(&self, upstream: QDesc) -> Option<usize> {
        self.by_queue
            .get(upstream.raw() as usize)
            .filter(|place| **place != NONE)
            .map(|place| *place as usize)
    }

    #[inline]
    pub(super) fn get(&self, place: usize) -> &Flow {
        self.places[place].as_ref().expect("places that are handed out are taken")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: usize) -> &mut Flow {
        self.places[place].as_mut().expect("places that are handed out are taken")
    }

    /// Takes a client in.
    ///
    /// # Panics
    /// When the table is full.
    pub(super) fn insert(&mut self, flow: Flow) -> usize {
        let place = self.vacant.pop().expect("the caller has made room");
        let number = flow.upstream.raw() as usize;
        if self.by_queue.len() <= number {
            self.by_queue.resize((number + 1).next_power_of_two(), NONE);
        }
        self.by_queue[number] = place;
        self.by_client.insert(flow.client.clone(), place);
        self.places[place as usize] = Some(Flow { used: self.clock, ..flow });
        place as usize
    }

    pub(super) fn remove_oldest(&mut self) -> Option<Flow> {
        let taken =
            self.places.iter().enumerate().filter_map(|(place, flow)| Some((flow.as_ref()?.used, place)));
        let (_, place) = taken.min()?;
        let flow = self.places[place].take()?;
        self.vacant.push(place as u32);
        self.by_client.remove(&flow.client);
        self.by_queue[flow.upstream.raw() as usize] = NONE;
        self.last = None;
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(number: u16) -> Flow {
        let client = Addr::Inet(([127, 0, 0, 1], number).into());
        Flow { client, upstream: QDesc::from_raw(number.into()), pop: QToken::from_raw(1), used: 0 }
    }

    #[test]
    fn the_one_silent_for_longest_gives_way() {
        let mut flows = Flows::new(2);
        for number in [5, 6] {
            assert_eq!(flows.find(&flow(number).client), None);
            flows.insert(flow(number));
        }
        assert!(flows.is_full());
        assert!(flows.find(&flow(5).client).is_some());
        assert_eq!(flows.remove_oldest().unwrap().upstream, QDesc::from_raw(6));
        assert_eq!(flows.find(&flow(6).client), None);
        assert_eq!(flows.place_of(QDesc::from_raw(6)), None);
        assert_eq!(flows.place_of(QDesc::from_raw(999)), None);
        let place = flows.insert(flow(6));
        assert_eq!(flows.find(&flow(6).client), Some(place));
        assert_eq!(flows.place_of(QDesc::from_raw(6)), Some(place));
    }
}
