//! Results that never enter the table: one in hand, for the call that is next, and one that a call waits for.

use super::{CHUNK, Completions, Held, NONE, Owner, State};
use crate::desc::QDesc;
use crate::error::Error;
use crate::op::{Completion, Done, Position};
use crate::token::QToken;

impl Completions {
    /// Completes the operation that is waited for.
    #[inline(always)]
    pub(super) fn arrive(&mut self, token: QToken, result: impl FnOnce() -> Result<Done, Error>) {
        self.awaited = None;
        self.pending -= 1;
        self.live -= 1;
        self.sequence = self.sequence.wrapping_add(1);
        let free = self.free;
        let slot = self.slot_mut(token.slot());
        let qd = slot.qd;
        if slot.retire(free) {
            let following = QToken::new(token.slot(), slot.generation);
            match self.next {
                // The slot that was in use last is the best one to use next.
                None => self.next = Some(following),
                Some(_) => self.free = token.slot(),
            }
        }
        debug_assert!(self.arrived.is_none(), "nothing is waited for while there is something");
        if self.arrived.is_none() {
            // Made where it lies.
            self.arrived = Some(Completion { token, qd, result: result() });
        }
    }

    /// The token that the application's next operation will have, which `qd` is about to be asked for. What comes of
    /// it must be noted: [`begun`](Completions::begun), [`hold`](Completions::hold) or
    /// [`refused`](Completions::refused).
    #[inline]
    pub(crate) fn ask(&mut self, qd: QDesc) -> Result<QToken, Error> {
        let token = self.next()?;
        self.asked = qd;
        Ok(token)
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<QToken, Error> {
        debug_assert!(matches!(self.held, Held::Nothing), "the hand holds a result under this token");
        match self.next {
            Some(token) => Ok(token),
            None => self.find_next(),
        }
    }

    pub(super) fn find_next(&mut self) -> Result<QToken, Error> {
        let index = if self.free != NONE {
            let index = self.free;
            self.free = self.slot(index).next;
            index
        } else {
            self.grow()?
        };
        let token = QToken::new(index, self.slot(index).generation);
        self.next = Some(token);
        Ok(token)
    }

    /// The operation is under way, or has been posted meanwhile.
    #[inline]
    pub(crate) fn begun(&mut self, token: QToken) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next == Some(token) {
            self.begin(token, qd, Owner::App);
        }
    }

    /// The operation was done on the spot.
    #[inline]
    pub(crate) fn hold(&mut self, result: Result<Done, Error>) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next.is_none() {
            return self.note_twice_done();
        }
        self.held = Held::Result(qd, result);
    }

    /// The operation was a push, done on the spot.
    #[inline]
    pub(crate) fn hold_pushed(&mut self, position: Position) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next.is_none() {
            return self.note_twice_done();
        }
        debug_assert!(matches!(self.held, Held::Nothing), "whoever asks finds the hand empty");
        if matches!(self.held, Held::Nothing) {
            self.held = Held::Pushed(qd, position);
        }
    }

    /// The operation was posted while it was started, and is now said to be done: the first result counts.
    #[cold]
    fn note_twice_done(&mut self) {
        debug_assert!(false, "an operation was posted and returned as done");
        self.stale_posts += 1;
    }

    /// There is no operation. Its token is not given again: the libOS has seen it.
    pub(crate) fn refused(&mut self) {
        self.asked = QDesc::NONE;
        self.next = self.next.and_then(QToken::following);
    }

    /// Takes the result in hand, if it is the one asked for, and of a push.
    #[inline]
    pub(crate) fn take_held_push(&mut self, token: QToken) -> Option<(QDesc, Position)> {
        match self.held {
            Held::Pushed(qd, position) if self.next == Some(token) => {
                self.held = Held::Nothing;
                self.next = token.following();
                self.next_round();
                Some((qd, position))
            }
            _ => None,
        }
    }

    /// Takes the result in hand, if it is the one asked for.
    #[inline]
    pub(crate) fn take_held(&mut self, token: QToken) -> Option<Completion> {
        if self.next != Some(token) {
            return None;
        }
        let (qd, result) = self.empty_hand()?;
        self.next = token.following();
        self.next_round();
        Some(Completion { token, qd, result })
    }

    #[inline]
    fn empty_hand(&mut self) -> Option<(QDesc, Result<Done, Error>)> {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => None,
            Held::Pushed(qd, position) => Some((qd, Ok(Done::Pushed(position)))),
            Held::Result(qd, result) => Some((qd, result)),
        }
    }

    /// Puts the result in hand, if there is one, where the others lie.
    #[inline]
    pub(crate) fn put_down(&mut self) {
        self.awaited = None;
        if !matches!(self.held, Held::Nothing) {
            self.put_away();
        }
    }

    #[inline(never)]
    fn put_away(&mut self) {
        let (Some(token), Some((qd, result))) = (self.next, self.empty_hand()) else { return };
        self.begin(token, qd, Owner::App);
        self.post(token, result);
    }

    /// Has the result of the application's operation come straight to [`take_arrived`](Completions::take_arrived), if it
    /// is under way: until the next call that looks at the table otherwise.
    #[inline]
    pub(crate) fn await_pending(&mut self, token: QToken) -> bool {
        let index = token.slot() as usize;
        let slot = self.chunks.get(index / CHUNK).map(|chunk| &chunk[index % CHUNK]);
        let pending = slot.is_some_and(|slot| {
            slot.generation == token.generation() && slot.state == State::Pending && slot.owner == Owner::App
        });
        // A call that a panic has ended leaves what has come behind, for whoever asks for it again.
        let pending = pending && self.arrived.is_none();
        self.awaited = pending.then_some(token);
        pending
    }

    /// Takes the result that has come.
    #[inline]
    pub(crate) fn take_arrived(&mut self) -> Option<Completion> {
        let arrived = self.arrived.take();
        if arrived.is_some() {
            self.next_round();
        }
        arrived
    }

    /// Takes the result out if it is there, and has it come straight here if it is not: until the next call that looks
    /// at the table otherwise. `Err(BadToken)`: there is no such operation.
    #[inline]
    pub(crate) fn take_or_await(&mut self, token: QToken) -> Result<Option<Completion>, Error> {
        if self.awaited == Some(token) {
            return Ok(None);
        }
        if self.arrived.as_ref().is_some_and(|arrived| arrived.token == token) {
            return Ok(self.take_arrived());
        }
        if self.is_finished(token)? {
            return Ok(Some(self.take_finished(token)));
        }
        self.await_pending(token);
        Ok(None)
    }
}
