//! One direction of a connection: a bounded buffer between pushes and pops.
//!
//! Invariants: pushes enter the buffer in order and complete when their last byte is in it; pops are served in
//! order. What was buffered when the direction ended is still popped, then its end or error, again and again.

use std::collections::VecDeque;

use demi_api::sga::MAX_SEGMENTS;
use demi_api::{Buf, Done, Error, Position, QToken, SgArray};
use fastrand::Rng;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PipeId(usize);

#[derive(Debug)]
pub(super) struct Pipe {
    capacity: usize,
    buffer: VecDeque<Buf>,
    /// Bytes in `buffer`.
    len: usize,
    pushes: VecDeque<Push>,
    pops: VecDeque<Pop>,
    /// What pops find behind the last byte, once it is there.
    end: Option<Result<(), Error>>,
    /// Nothing can be pushed any more, although the sender has not said that it is done.
    broken: Option<Error>,
    /// The receiver wants no more: bytes are discarded.
    deaf: bool,
    pub(super) sender_gone: bool,
    pub(super) receiver_gone: bool,
    scheduled: bool,
}

#[derive(Debug)]
struct Push {
    token: QToken,
    rest: SgArray,
    /// Some of its bytes are in the buffer.
    begun: bool,
}

#[derive(Debug)]
struct Pop {
    token: QToken,
    limit: usize,
}

pub(super) type Finished = (QToken, Result<Done, Error>);

impl Pipe {
    pub(super) fn new(capacity: usize) -> Pipe {
        Pipe {
            capacity,
            buffer: VecDeque::new(),
            len: 0,
            pushes: VecDeque::new(),
            pops: VecDeque::new(),
            end: None,
            broken: None,
            deaf: false,
            sender_gone: false,
            receiver_gone: false,
            scheduled: false,
        }
    }

    pub(super) fn set_capacity(&mut self, bytes: usize) {
        self.capacity = bytes;
    }

    pub(super) fn add_push(&mut self, token: QToken, sga: &mut SgArray) -> Result<(), Error> {
        if let Some(Ok(())) = self.end {
            return Err(Error::Closed);
        }
        self.pushes.push_back(Push { token, rest: std::mem::take(sga), begun: false });
        Ok(())
    }

    pub(super) fn add_pop(&mut self, token: QToken, limit: usize) {
        self.pops.push_back(Pop { token, limit });
    }

    /// Moves what can be moved. With a generator, pops get a random part of what is there.
    pub(super) fn run(&mut self, mut cuts: Option<&mut Rng>, mut post: impl FnMut(Finished)) {
        loop {
            let pushed = self.fill(&mut post);
            let popped = self.serve(cuts.as_deref_mut(), &mut post);
            if !pushed && !popped {
                return;
            }
        }
    }

    fn fill(&mut self, post: &mut impl FnMut(Finished)) -> bool {
        let mut progress = false;
        while let Some(push) = self.pushes.front_mut() {
            if let Some(error) = &self.broken {
                post((push.token, Err(error.clone())));
            } else {
                let room = self.capacity.saturating_sub(self.len);
                let part = push.rest.split_to(push.rest.len().min(room));
                progress |= !part.is_empty();
                push.begun |= !part.is_empty();
                if !self.deaf {
                    self.len += part.len();
                    self.buffer
                        .extend(part.into_segments().into_iter().filter(|segment| !segment.is_empty()));
                }
                if !push.rest.is_empty() {
                    return progress;
                }
                post((push.token, Ok(Done::Pushed(Position::default()))));
            }
            self.pushes.pop_front();
            progress = true;
        }
        progress
    }

    fn serve(&mut self, mut cuts: Option<&mut Rng>, post: &mut impl FnMut(Finished)) -> bool {
        let mut progress = false;
        while let Some(pop) = self.pops.front() {
            let element = if self.len > 0 {
                let limit = match &mut cuts {
                    Some(rng) => pop.limit.min(rng.usize(1..=self.len)),
                    None => pop.limit,
                };
                Ok(take(&mut self.buffer, &mut self.len, limit))
            } else {
                match &self.end {
                    _ if self.deaf => Ok(SgArray::new()),
                    Some(Ok(())) if self.pushes.is_empty() => Ok(SgArray::new()),
                    Some(Err(error)) => Err(error.clone()),
                    Some(Ok(())) | None => return progress,
                }
            };
            post((pop.token, element.map(Done::Popped)));
            self.pops.pop_front();
            progress = true;
        }
        progress
    }

    pub(super) fn cancel_pop(&mut self, token: QToken) -> bool {
        let place = self.pops.iter().position(|pop| pop.token == token);
        place.is_some_and(|place| self.pops.remove(place).is_some())
    }

    /// Bytes in the buffer cannot be recalled, nor can a push of which some are.
    pub(super) fn cancel_push(&mut self, token: QToken) -> bool {
        let place = self.pushes.iter().position(|push| push.token == token && !push.begun);
        place.is_some_and(|place| self.pushes.remove(place).is_some())
    }

    /// The sender is done: the end lies behind what it has pushed.
    pub(super) fn shut_write(&mut self) {
        self.end.get_or_insert(Ok(()));
    }

    /// The receiver takes nothing more.
    pub(super) fn shut_read(&mut self) {
        self.deaf = true;
        self.buffer.clear();
        self.len = 0;
    }

    /// The sender gives up: what it has not got into the buffer fails, and the receiver finds a reset.
    pub(super) fn abort(&mut self, pushes: &Error, post: impl FnMut(Finished)) {
        self.broken = Some(pushes.clone());
        self.fail_pushes(post);
        self.end = Some(Err(Error::ConnectionReset));
    }

    /// The receiver is closed. Returns whether it leaves bytes unread.
    pub(super) fn close_receiver(&mut self, mut post: impl FnMut(Finished)) -> bool {
        for pop in std::mem::take(&mut self.pops) {
            post((pop.token, Err(Error::Cancelled)));
        }
        let unread = self.len > 0 || self.pushes.iter().any(|push| !push.rest.is_empty());
        self.receiver_gone = true;
        self.shut_read();
        self.broken = Some(Error::ConnectionReset);
        self.fail_pushes(post);
        unread
    }

    /// The sender is closed. Returns whether pushes are left, to be waited for.
    pub(super) fn close_sender(&mut self) -> bool {
        self.sender_gone = true;
        self.shut_write();
        !self.pushes.is_empty()
    }

    pub(super) fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    fn fail_pushes(&mut self, mut post: impl FnMut(Finished)) {
        let Some(error) = self.broken.clone() else { return };
        for push in std::mem::take(&mut self.pushes) {
            post((push.token, Err(error.clone())));
        }
    }
}

/// Up to `limit` bytes, in as many segments as an array holds.
fn take(buffer: &mut VecDeque<Buf>, len: &mut usize, limit: usize) -> SgArray {
    let mut sga = SgArray::new();
    let mut missing = limit;
    while missing > 0
        && sga.segments().len() < MAX_SEGMENTS
        && let Some(front) = buffer.front_mut()
    {
        let whole = front.len() <= missing;
        let part = if whole { front.clone() } else { front.split_to(missing) };
        missing -= part.len();
        *len -= part.len();
        sga.push(part).expect("there is room, as was looked at");
        if whole {
            buffer.pop_front();
        }
    }
    sga
}

/// Every direction of every connection, by number.
#[derive(Default, Debug)]
pub(super) struct Pipes {
    slots: Vec<Option<Pipe>>,
    free: Vec<usize>,
}

impl Pipes {
    pub(super) fn insert(&mut self, pipe: Pipe) -> PipeId {
        let id = self.free.pop().unwrap_or(self.slots.len());
        if id == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[id] = Some(pipe);
        PipeId(id)
    }

    /// The direction that an open socket refers to.
    pub(super) fn get_mut(&mut self, id: PipeId) -> &mut Pipe {
        self.find(id).expect("a direction lives for as long as one of its ends is open")
    }

    pub(super) fn find(&mut self, id: PipeId) -> Option<&mut Pipe> {
        self.slots.get_mut(id.0)?.as_mut()
    }

    /// Notes that the direction is on the agenda; false if it was, or is no more.
    pub(super) fn begin_schedule(&mut self, id: PipeId) -> bool {
        self.find(id).is_some_and(|pipe| !std::mem::replace(&mut pipe.scheduled, true))
    }

    pub(super) fn end_schedule(&mut self, id: PipeId) -> Option<&mut Pipe> {
        let pipe = self.find(id)?;
        pipe.scheduled = false;
        Some(pipe)
    }

    /// Forgets a direction that nobody can use any more.
    pub(super) fn release(&mut self, id: PipeId) {
        let over = self.find(id).is_some_and(|pipe| {
            pipe.sender_gone && pipe.receiver_gone && pipe.pushes.is_empty() && pipe.pops.is_empty()
        });
        if over {
            self.slots[id.0] = None;
            self.free.push(id.0);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
