//! Parts of the heap that peers may read: one memory window each, bound for the time of the grant to one queue pair, or, where
//! there are none, a registration.
//!
//! Some devices let a peer that has a window read all that the window's registration covers (the kernel's rxe does). With
//! them each window has a registration of its own, no larger than the grant.
//!
//! Invariant: the heap's memory is kept from when it is granted until no peer can reach it: until the window was
//! invalidated or given back.

use std::rc::Rc;

use demi_api::memalloc::Buf;
use rustix::io::Result;

use super::config::Windows;
use super::domain::raw::{Domain, Registration, Rights, Window};
use crate::device::Event;

/// Windows that are kept for the next grants.
const SPARE: usize = 256;

/// By what peers reach it.
pub(super) enum By {
    /// Dropped in this order: what a window is bound to cannot go before it.
    Window {
        window: Rc<Window>,
        key: u32,
        bound_to: Rc<Registration>,
    },
    Registration(Registration),
}

/// A grant that has not ended.
pub(super) struct Given {
    pub(super) data: Buf,
    /// Nothing once the queue pair has ended.
    pub(super) by: Option<By>,
    /// The queue pair's name.
    pub(super) to: u32,
    /// The cookie that its end is to be told with, once that was asked for.
    pub(super) ending: Option<u64>,
}

#[derive(Default)]
struct Entry {
    generation: u32,
    given: Option<Given>,
}

/// All grants, by name: place and generation.
pub(super) struct Grants {
    entries: Vec<Entry>,
    free: Vec<u32>,
    spare: Vec<Rc<Window>>,
    domain: Rc<Domain>,
    windows: Windows,
}

/// Bits of a name that say the place.
const PLACE: u32 = 20;

impl Grants {
    pub(super) fn new(domain: &Rc<Domain>, windows: Windows) -> Grants {
        let domain = Rc::clone(domain);
        Grants { entries: Vec::new(), free: Vec::new(), spare: Vec::new(), domain, windows }
    }

    /// Something that peers can reach these bytes by, once it is bound.
    pub(super) fn make(&mut self, data: &Buf, heap: &Rc<Registration>) -> Result<By> {
        let narrow = |rights| Registration::new(&self.domain, data.as_ptr(), data.len(), rights);
        let bound_to = match self.windows {
            Windows::Off => {
                let rights = Rights { remote_read: true, ..Rights::default() };
                return Ok(By::Registration(narrow(rights)?));
            }
            Windows::Narrow => Rc::new(narrow(Rights { window: true, ..Rights::default() })?),
            Windows::Auto => Rc::clone(heap),
        };
        let window = self.spare.pop().map_or_else(|| Window::new(&self.domain), Ok)?;
        let key = window.next_key();
        Ok(By::Window { window, key, bound_to })
    }

    /// Notes a grant; its name. `None`: there are too many.
    pub(super) fn insert(&mut self, data: Buf, by: By, to: u32) -> std::result::Result<u32, Buf> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.entries.len() >> PLACE == 0 => {
                self.entries.push(Entry::default());
                self.entries.len() as u32 - 1
            }
            None => return Err(data),
        };
        let entry = &mut self.entries[place as usize];
        entry.given = Some(Given { data, by: Some(by), to, ending: None });
        Ok(entry.generation << PLACE | place)
    }

    pub(super) fn get(&mut self, name: u32) -> Option<&mut Given> {
        let entry = self.entries.get_mut(name as usize & ((1 << PLACE) - 1))?;
        entry.given.as_mut().filter(|_| entry.generation << PLACE == name >> PLACE << PLACE)
    }

    /// Takes out what no peer reaches any more; its window can be bound again.
    pub(super) fn remove(&mut self, name: u32) -> Option<Given> {
        self.get(name)?;
        let place = name & ((1 << PLACE) - 1);
        let entry = &mut self.entries[place as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(place);
        let given = entry.given.take()?;
        if let Some(By::Window { window, .. }) = &given.by
            && self.spare.len() < SPARE
        {
            self.spare.push(Rc::clone(window));
        }
        Some(given)
    }

    /// A queue pair has ended. Its windows go, before it is destroyed: some devices (rxe) keep it as long as one is bound to it.
    /// What was ending has ended.
    pub(super) fn queue_pair_ended(&mut self, to: u32) -> Vec<Event> {
        let mut ended = Vec::new();
        for place in 0..self.entries.len() {
            let Some(given) = &mut self.entries[place].given else { continue };
            if given.to != to {
                continue;
            }
            given.by = None;
            let Some(cookie) = given.ending else { continue };
            let name = self.entries[place].generation << PLACE | place as u32;
            ended.extend(self.remove(name).map(|given| Event::Revoked { cookie, data: given.data }));
        }
        ended
    }
}
