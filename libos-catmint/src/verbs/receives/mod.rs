//! The shared receive queue: buffers that wait for messages.
//!
//! Invariant: a buffer lies in its place from when it was given until its completion, untouched. What was given is posted at
//! the next flush, many with one call.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;

use std::rc::Rc;

use demi_api::memalloc::{Buf, BufMut};
use rustix::io::Result;

use self::raw::{POSTS, Receive, SharedQueue};
use super::counters::Counters;
use super::domain::raw::Domain;

/// In the names of completions: it was a receive. Names of other postings never have it.
pub(super) const RECEIVE: u64 = 1 << 63;

/// Places for buffers, and the queue.
pub(super) struct Receives {
    // The queue before what lies in it.
    pub(super) queue: Rc<SharedQueue>,
    places: Vec<Option<BufMut>>,
    free: Vec<u32>,
    /// Given, and not posted.
    news: Vec<Receive>,
    key: u32,
}

impl Receives {
    pub(super) fn new(domain: &Rc<Domain>, depth: u32, key: u32) -> Result<Receives> {
        Ok(Receives {
            queue: SharedQueue::new(domain, depth)?,
            places: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            news: Vec::with_capacity(depth as usize),
            key,
        })
    }

    pub(super) fn depth(&self) -> usize {
        self.places.len()
    }

    #[inline]
    pub(super) fn give(&mut self, mut into: BufMut) -> std::result::Result<(), BufMut> {
        if into.is_empty() {
            return Err(into);
        }
        let Some(place) = self.free.pop() else { return Err(into) };
        let addr = into.as_mut_ptr().expose_provenance() as u64;
        let name = RECEIVE | u64::from(place);
        self.news.push(Receive { name, addr, len: into.len() as u32, key: self.key });
        self.places[place as usize] = Some(into);
        Ok(())
    }

    #[inline]
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Posts what was given. What the device does not take now stays for the next time.
    pub(super) fn flush(&mut self, counters: &mut Counters) {
        let mut posted = 0;
        while posted < self.news.len() {
            let batch = &self.news[posted..];
            let taken = self.queue.post(batch);
            counters.receive_calls += 1;
            counters.receives += taken as u64;
            posted += taken;
            if taken < batch.len().min(POSTS) {
                break;
            }
        }
        self.news.drain(..posted);
    }

    /// The message that a completion tells of.
    #[inline]
    pub(super) fn take(&mut self, name: u64, len: u32) -> Option<Buf> {
        let place = name as u32;
        let mut message = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        message.truncate(len as usize);
        Some(message.freeze())
    }

    /// Posts a buffer again that a queue pair gave back unused. False: there is none.
    pub(super) fn again(&mut self, name: u64) -> bool {
        let Some(Some(into)) = self.places.get_mut(name as u32 as usize) else { return false };
        let addr = into.as_mut_ptr().expose_provenance() as u64;
        self.news.push(Receive { name, addr, len: into.len() as u32, key: self.key });
        true
    }
}
