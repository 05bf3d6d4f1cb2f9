//! What never enters the table: the operation in hand, for the call that is next, and a result that a call waits for.

use super::{CHUNK, Completions, Held, NONE, Owner, State};
use crate::desc::QDesc;
use crate::error::Error;
use crate::op::{Completion, Done, Position};
use crate::sga::SgArray;
use crate::token::QToken;

impl Completions {
    /// Completes the operation that is waited for.
    #[inline(never)]
    pub(super) fn arrive(&mut self, token: QToken, result: Result<Done, Error>) {
        if let Some(place) = self.arriving(token) {
            *place = result;
        }
    }

    /// The same of a pop, whose array is taken out where it lies.
    #[inline(always)]
    pub(super) fn arrive_popped(&mut self, token: QToken, sga: &mut SgArray) {
        if let Some(Ok(Done::Popped(place))) = self.arriving(token) {
            std::mem::swap(place, sga);
        }
    }

    /// Notes that the operation has ended that is waited for: as a pop of nothing, until its result is put there.
    #[inline(always)]
    fn arriving(&mut self, token: QToken) -> Option<&mut Result<Done, Error>> {
        self.awaited = None;
        self.sequence = self.sequence.wrapping_add(1);
        let qd = match self.held {
            Held::Awaited(qd) => {
                self.held = Held::Nothing;
                self.reuse(token);
                qd
            }
            _ => self.leave(token),
        };
        debug_assert!(self.arrived.is_none(), "nothing is waited for while there is something");
        if self.arrived.is_some() {
            return None;
        }
        let nothing = Ok(Done::Popped(SgArray::default()));
        let arrived = self.arrived.insert(Completion { token, qd, result: nothing });
        Some(&mut arrived.result)
    }

    /// Takes an operation out of the table that has arrived.
    #[inline(never)]
    fn leave(&mut self, token: QToken) -> QDesc {
        self.pending -= 1;
        self.live -= 1;
        let free = self.free;
        let slot = self.slot_mut(token.slot());
        let qd = slot.qd;
        if slot.retire(free) {
            let following = QToken::new(token.slot(), slot.generation);
            // The slot that was in use last is the best one to use next.
            if self.next == QToken::NONE {
                self.next = following;
            } else {
                self.free = token.slot();
            }
        }
        qd
    }

    /// Lets the slot be used again of an operation that has ended without having entered the table.
    #[inline]
    fn reuse(&mut self, token: QToken) {
        if self.next == QToken::NONE {
            self.next = token.following();
        } else {
            self.give_back(token);
        }
    }

    /// The same, where another slot is the next one by now.
    #[cold]
    #[inline(never)]
    fn give_back(&mut self, token: QToken) {
        let free = self.free;
        let slot = self.slot_mut(token.slot());
        slot.generation = token.generation();
        if slot.retire(free) {
            self.free = token.slot();
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
        debug_assert!(matches!(self.held, Held::Nothing | Held::Awaited(_)), "the hand holds this token");
        if self.next == QToken::NONE { self.find_next() } else { Ok(self.next) }
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
        self.next = token;
        Ok(token)
    }

    /// The operation is under way, or has been posted meanwhile.
    #[inline]
    pub(crate) fn begun(&mut self, token: QToken) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next == token {
            debug_assert!(matches!(self.held, Held::Nothing), "whoever asks finds the hand empty");
            // What is known to be nothing need not be dropped.
            if matches!(self.held, Held::Nothing) {
                self.held = Held::Begun(qd);
            }
        }
    }

    /// The token that the application's next operation will have, if that need not be looked for. To be followed by
    /// [`begun_at`](Completions::begun_at) or [`hold_pushed_at`](Completions::hold_pushed_at), or by nothing.
    #[inline]
    pub(crate) fn known_next(&self) -> Option<QToken> {
        (self.next != QToken::NONE).then_some(self.next)
    }

    /// The operation with that token is under way, and nothing was posted meanwhile.
    #[inline]
    pub(crate) fn begun_at(&mut self, qd: QDesc) {
        debug_assert!(matches!(self.held, Held::Nothing), "whoever asks finds the hand empty");
        if matches!(self.held, Held::Nothing) {
            self.held = Held::Begun(qd);
        }
    }

    /// The operation was done on the spot.
    #[inline]
    pub(crate) fn hold(&mut self, result: Result<Done, Error>) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next == QToken::NONE {
            return self.note_twice_done();
        }
        self.held = Held::Result(qd, result);
    }

    /// The operation was a push, done on the spot.
    #[inline]
    pub(crate) fn hold_pushed(&mut self, position: Position) {
        let qd = std::mem::replace(&mut self.asked, QDesc::NONE);
        if self.next == QToken::NONE {
            return self.note_twice_done();
        }
        self.hold_pushed_at(qd, position);
    }

    /// The operation with the token that was known was a push on `qd`, and is done.
    #[inline]
    pub(crate) fn hold_pushed_at(&mut self, qd: QDesc, position: Position) {
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
        if self.next != QToken::NONE {
            self.next = self.next.following();
        }
    }

    /// Takes the result in hand, if it is the one asked for, and of a push.
    #[inline]
    pub(crate) fn take_held_push(&mut self, token: QToken) -> Option<(QDesc, Position)> {
        match self.held {
            Held::Pushed(qd, position) if self.next == token => {
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
        if self.next != token {
            return None;
        }
        let (qd, result) = self.empty_hand()?;
        self.next = token.following();
        self.next_round();
        Some(Completion { token, qd, result })
    }

    #[inline]
    fn empty_hand(&mut self) -> Option<(QDesc, Result<Done, Error>)> {
        if let Held::Begun(_) | Held::Awaited(_) = self.held {
            return None;
        }
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing | Held::Begun(_) | Held::Awaited(_) => None,
            Held::Pushed(qd, position) => Some((qd, Ok(Done::Pushed(position)))),
            Held::Result(qd, result) => Some((qd, result)),
        }
    }

    /// Puts what is in hand, if anything, where the others lie.
    #[inline]
    pub(crate) fn put_down(&mut self) {
        if !matches!(self.held, Held::Nothing) {
            self.put_away();
        }
        self.awaited = None;
    }

    #[inline(never)]
    fn put_away(&mut self) {
        if let Held::Begun(qd) | Held::Awaited(qd) = self.held {
            let awaited = matches!(self.held, Held::Awaited(_));
            self.held = Held::Nothing;
            match self.awaited {
                Some(token) if awaited => self.enter(token, qd, Owner::App),
                _ => self.begin(self.next, qd, Owner::App),
            }
            return;
        }
        let Some((qd, result)) = self.empty_hand() else { return };
        let token = self.next;
        self.begin(token, qd, Owner::App);
        self.post(token, result);
    }

    /// Has the result of an operation that is not in hand come straight to
    /// [`take_arrived`](Completions::take_arrived), if it is under way. The hand is put down.
    #[inline(never)]
    pub(crate) fn await_filed(&mut self, token: QToken) -> bool {
        self.put_down();
        self.await_pending(token)
    }

    /// Has the result of the operation in hand come straight to [`take_arrived`](Completions::take_arrived), if it is
    /// this one and under way: until the hand is put down.
    #[inline]
    pub(crate) fn await_held(&mut self, token: QToken) -> bool {
        let Held::Begun(qd) = self.held else { return false };
        let awaits = self.next == token && self.arrived.is_none();
        if awaits {
            self.held = Held::Awaited(qd);
            self.next = QToken::NONE;
            self.awaited = Some(token);
        }
        awaits
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

    /// Whether the result has come that is waited for.
    #[inline]
    pub(crate) fn has_arrived(&self) -> bool {
        self.arrived.is_some()
    }

    /// The result that has come, in its place.
    #[inline]
    pub(crate) fn arrived(&mut self) -> Option<&mut Completion> {
        self.arrived.as_mut()
    }

    /// Drops what is left of it. Mostly that is nothing, and finding out by dropping it would cost more.
    #[inline]
    pub(crate) fn leave_arrived(&mut self) {
        match &self.arrived {
            Some(Completion { result: Ok(Done::Popped(sga)), .. }) if sga.is_vacant() => {
                std::mem::forget(self.arrived.take());
            }
            _ => self.arrived = None,
        }
    }

    /// Brings the result in hand where one that has come is, if it is the one asked for.
    #[inline]
    pub(crate) fn bring_held(&mut self, token: QToken) -> bool {
        if self.next != token || self.arrived.is_some() {
            return false;
        }
        self.arrived = self.take_held(token);
        self.arrived.is_some()
    }

    /// As [`take_or_await`](Completions::take_or_await), where a result that is there stays, or is brought, where one that has
    /// come is.
    pub(crate) fn bring_or_await(&mut self, token: QToken) -> Result<bool, Error> {
        if self.awaited == Some(token) {
            return Ok(false);
        }
        if let Some(arrived) = &self.arrived {
            return if arrived.token == token { Ok(true) } else { Err(Error::Reentrant) };
        }
        if self.is_finished(token)? {
            self.arrived = Some(self.take_finished(token));
            return Ok(true);
        }
        self.await_pending(token);
        Ok(false)
    }
}
