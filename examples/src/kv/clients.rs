//! The table of connections: a slab, and for each queue descriptor the place of its client.
//!
//! A descriptor may name a new connection while a result of the old one is still to come, so a place found here is
//! a guess until the client has recognized the result's token.

use demi_api::QDesc;

use super::client::Client;

const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Clients {
    places: Vec<Option<Client>>,
    vacant: Vec<u32>,
    /// By the number of the descriptor.
    by_queue: Vec<u32>,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    /// Takes a client in; returns its place.
    pub(super) fn insert(&mut self, client: Client) -> usize {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        for qd in client.queues() {
            let number = qd.raw() as usize;
            if self.by_queue.len() <= number {
                self.by_queue.resize((number + 1).next_power_of_two(), NONE);
            }
            self.by_queue[number] = place;
        }
        self.places[place as usize] = Some(client);
        place as usize
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<Client> {
        let client = self.places[place].take()?;
        for qd in client.queues() {
            self.by_queue[qd.raw() as usize] = NONE;
        }
        self.vacant.push(place as u32);
        Some(client)
    }

    /// The place of the client that a queue belongs to.
    #[inline]
    pub(super) fn place_of(&self, qd: QDesc) -> Option<usize> {
        self.by_queue.get(qd.raw() as usize).filter(|place| **place != NONE).map(|place| *place as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Client> {
        self.places.get_mut(place)?.as_mut()
    }

    /// The places that are taken.
    pub(super) fn places(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.places[*place].is_some()).collect()
    }
}
