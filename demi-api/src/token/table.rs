//! The token table: every outstanding or unreaped operation of an instance.
//!
//! Invariants: a token completes exactly once and is taken exactly once; slot and generation together are
//! never reused (a slot whose generation would wrap is retired). A finished slot is a member of exactly one
//! ready list, that of its owner, so that taking "whatever is next" costs what is ready, not what exists; a
//! future's has none, as its task was woken. Slots come in chunks that never move: growth copies none.
//!
//! Most operations are waited for by the very next call. One that completes on the spot is held in hand, and neither
//! its result nor its token enters the table: [`Completions::hold`] and [`Completions::take_held`]. One that is under
//! way is held as well, and enters it only if it outlasts a turn: [`Completions::await_held`]. Whoever looks at the
//! table otherwise has the hand emptied first: [`Completions::put_down`].
//!
//! An operation that the application waits for by itself gives its slot back when it is posted, and its result goes to
//! the waiting call without being filed: [`Completions::take_or_await`].

mod hand;

use std::task::Waker;

use demi_memalloc::Buf;

use super::QToken;
use super::side::Side;
use crate::desc::QDesc;
use crate::error::Error;
use crate::op::{Completion, Done, Position};
use crate::sga::SgArray;

const NONE: u32 = u32::MAX;
const CHUNK: usize = 1024;

/// Who gets an operation's result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The application, through `wait*`.
    App,
    /// A registered wait set.
    Set(u32),
    /// A future: its waker lies in the slot's side table.
    Task,
    /// An operator, at one of its ports.
    Node {
        /// The operator's descriptor.
        node: QDesc,
        /// Which of its operations this is.
        port: u8,
    },
    /// Nobody any more: the result is dropped when it comes.
    Discard,
}

/// Small results lie in the slot, large ones in a side table whose size follows what is unreaped.
#[derive(Debug)]
enum Outcome {
    None,
    Pushed(Position),
    Connected,
    Flushed,
    Moved(u64),
    Fetched(u64),
    /// One segment of nobody's: what most pops yield.
    Popped(Buf),
    Large(u32),
    Waker(u32),
}

/// The last operation, as long as nobody has looked at the table since. Its token is still the next one.
#[derive(Debug)]
enum Held {
    Nothing,
    /// Under way.
    Begun(QDesc),
    /// Under way, and waited for under [`Completions::awaited`], which is not the next token any more.
    Awaited(QDesc),
    /// By itself: what is moved for it is then not as large as the largest result.
    Pushed(QDesc, Position),
    Result(QDesc, Result<Done, Error>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Pending,
    Ready,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
    owner: Owner,
    /// The queue that the caller named.
    qd: QDesc,
    /// The queue where the operation is now: further down than `qd` once an operator has passed it on.
    at: QDesc,
    /// Ready list, or (next only) free list.
    next: u32,
    prev: u32,
    /// The `wait_any` or `wait_all` that looks at it, if that is the current one.
    watch: u32,
    /// Its place in that one's array.
    offset: u32,
    /// When it became ready, for fairness; wraps.
    sequence: u32,
    outcome: Outcome,
}

impl Owner {
    /// The ready list that its results go to. A future has none: its task is woken.
    #[inline]
    fn list(self) -> Option<usize> {
        match self {
            Owner::App => Some(APP_LIST),
            Owner::Set(set) => Some(FIRST_SET_LIST + set as usize),
            Owner::Node { .. } => Some(NODE_LIST),
            Owner::Task | Owner::Discard => None,
        }
    }
}

impl Slot {
    const FRESH: Slot = Slot {
        generation: 1,
        state: State::Free,
        owner: Owner::App,
        qd: QDesc::NONE,
        at: QDesc::NONE,
        next: NONE,
        prev: NONE,
        watch: 0,
        offset: 0,
        sequence: 0,
        outcome: Outcome::None,
    };

    /// Becomes the head of the free list, under its next generation. False: it has had its last.
    #[inline]
    fn retire(&mut self, free: u32) -> bool {
        self.state = State::Free;
        if self.generation == u32::MAX {
            return false;
        }
        self.generation += 1;
        self.next = free;
        true
    }
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

impl List {
    const EMPTY: List = List { head: NONE, tail: NONE };
}

const APP_LIST: usize = 0;
const NODE_LIST: usize = 1;
const FIRST_SET_LIST: usize = 2;

/// The tokens of an instance. A libOS only ever [`post`](Completions::post)s.
#[derive(Debug)]
pub struct Completions {
    chunks: Vec<Box<[Slot; CHUNK]>>,
    used: u32,
    max: usize,
    /// Of every fresh slot.
    first_generation: u32,
    live: usize,
    pending: usize,
    free: u32,
    /// The token of the next operation: its slot is free, but in no list, and learns its generation when it is used.
    /// [`QToken::NONE`] while it is to be found.
    next: QToken,
    /// The queue that is being asked, until its answer is noted: an operation may be posted meanwhile.
    asked: QDesc,
    held: Held,
    /// The operation that the present call waits for, if it is the application's and under way.
    awaited: Option<QToken>,
    /// That operation's end.
    arrived: Option<Completion>,
    round: u32,
    sequence: u32,
    lists: Vec<List>,
    free_lists: Vec<u32>,
    large: Side<Result<Done, Error>>,
    wakers: Side<Waker>,
    watch: u32,
    watch_hits: usize,
    watch_first: u32,
    stale_posts: u64,
    woken: usize,
}

impl Completions {
    /// A table for at most `max` tokens.
    pub fn new(max: usize) -> Completions {
        Completions::beginning_at(max, 1)
    }

    /// A table whose generations begin at `first_generation`, from 1 to half of all there are: tables that begin
    /// at random do not take each other's tokens for their own.
    pub(crate) fn beginning_at(max: usize, first_generation: u32) -> Completions {
        Completions {
            chunks: Vec::new(),
            used: 0,
            max: max.min(NONE as usize - 1),
            first_generation,
            live: 0,
            pending: 0,
            free: NONE,
            next: QToken::NONE,
            asked: QDesc::NONE,
            held: Held::Nothing,
            awaited: None,
            arrived: None,
            round: 1,
            sequence: 0,
            lists: vec![List::EMPTY; FIRST_SET_LIST],
            free_lists: Vec::new(),
            large: Side::default(),
            wakers: Side::default(),
            watch: 0,
            watch_hits: 0,
            watch_first: NONE,
            stale_posts: 0,
            woken: 0,
        }
    }

    /// Completes `token`: once, by whoever has taken on its operation.
    ///
    /// A token that is not pending is a fault of the libOS: it is counted and nobody's result changes.
    #[inline]
    pub fn post(&mut self, token: QToken, result: Result<Done, Error>) {
        if self.awaited == Some(token) {
            return self.arrive(token, result);
        }
        self.file(token, result);
    }

    /// Completes the pop `token` with an array, which is taken out where it lies.
    #[inline(always)]
    pub fn post_popped(&mut self, token: QToken, sga: &mut SgArray) {
        if self.awaited == Some(token) {
            return self.arrive_popped(token, sga);
        }
        self.file_popped(token, sga);
    }

    #[inline(never)]
    fn file_popped(&mut self, token: QToken, sga: &mut SgArray) {
        self.file(token, Ok(Done::Popped(std::mem::take(sga))));
    }

    #[inline(never)]
    fn file(&mut self, token: QToken, result: Result<Done, Error>) {
        let outcome = self.outcome(result);
        self.settle(token, outcome);
    }

    #[inline]
    fn outcome(&mut self, result: Result<Done, Error>) -> Outcome {
        match result {
            Ok(Done::Pushed(position)) => Outcome::Pushed(position),
            Ok(Done::Connected) => Outcome::Connected,
            Ok(Done::Flushed) => Outcome::Flushed,
            Ok(Done::Moved(count)) => Outcome::Moved(count),
            Ok(Done::Fetched(word)) => Outcome::Fetched(word),
            Ok(Done::Popped(sga)) => match sga.into_single() {
                Ok(segment) => Outcome::Popped(segment),
                Err(sga) => Outcome::Large(self.large.insert(Ok(Done::Popped(sga)))),
            },
            result => Outcome::Large(self.large.insert(result)),
        }
    }

    fn settle(&mut self, token: QToken, outcome: Outcome) {
        let index = token.slot();
        let known =
            self.chunks.get_mut(index as usize / CHUNK).map(|chunk| &mut chunk[index as usize % CHUNK]);
        let Some(slot) =
            known.filter(|slot| slot.generation == token.generation() && slot.state == State::Pending)
        else {
            return self.settle_unknown(token, outcome);
        };
        self.pending -= 1;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let Some(list) = slot.owner.list() else { return self.settle_unlisted(index, sequence, outcome) };
        slot.state = State::Ready;
        slot.sequence = sequence;
        slot.outcome = outcome;
        let watched = slot.watch;
        let tail = std::mem::replace(&mut self.lists[list].tail, index);
        slot.prev = tail;
        slot.next = NONE;
        self.note_watched(index, watched);
        if tail == NONE {
            self.lists[list].head = index;
        } else {
            self.slot_mut(tail).next = index;
        }
    }

    /// Completes the operation that is just being started, if that is the one.
    #[cold]
    fn settle_unknown(&mut self, token: QToken, outcome: Outcome) {
        if token != QToken::NONE && self.next == token && self.asked != QDesc::NONE {
            self.begin(token, self.asked, Owner::App);
            return self.settle(token, outcome);
        }
        debug_assert!(false, "{token} posted, but not pending");
        self.stale_posts += 1;
        self.forget(outcome);
    }

    /// Completes an operation that a future owns, or nobody.
    fn settle_unlisted(&mut self, index: u32, sequence: u32, outcome: Outcome) {
        if self.slot(index).owner == Owner::Discard {
            self.forget(outcome);
            return self.release(index);
        }
        self.woken += 1;
        let slot = self.slot_mut(index);
        slot.state = State::Ready;
        slot.sequence = sequence;
        let (watched, before) = (slot.watch, std::mem::replace(&mut slot.outcome, outcome));
        self.note_watched(index, watched);
        if let Outcome::Waker(waker) = before {
            self.wakers.take(waker).wake();
        }
    }

    /// Counts an operation that has completed for the present wait, if it is marked by it.
    #[inline]
    fn note_watched(&mut self, index: u32, watched: u32) {
        if watched == self.watch && watched != 0 {
            self.watch_hits += 1;
            if self.watch_first == NONE {
                self.watch_first = index;
            }
        }
    }

    /// Drops a result that nobody gets.
    fn forget(&mut self, outcome: Outcome) {
        if let Outcome::Large(at) = outcome {
            drop(self.large.take(at));
        }
    }

    /// How many tokens are outstanding or unreaped.
    pub fn live(&self) -> usize {
        self.live
    }

    /// How many operations are under way.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// A number that changes whenever a result is handed out or a turn begins: operations that are started under
    /// the same one were started without a look at what became of those before, and may be carried out together.
    /// Never zero.
    #[inline]
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Begins the next round.
    #[inline]
    pub(crate) fn next_round(&mut self) {
        // Odd, so that it comes round to what it was without having been zero.
        self.round = self.round.wrapping_add(2);
    }

    /// Tokens posted by a libOS that were not pending: always zero unless it has a fault.
    pub fn stale_posts(&self) -> u64 {
        self.stale_posts
    }

    /// Reserves a slot for an operation on `qd`.
    #[inline]
    pub(crate) fn reserve(&mut self, qd: QDesc, owner: Owner) -> Result<QToken, Error> {
        let token = self.next()?;
        self.begin(token, qd, owner);
        Ok(token)
    }

    #[inline(always)]
    fn begin(&mut self, token: QToken, qd: QDesc, owner: Owner) {
        debug_assert_eq!(self.next, token, "tokens are used in the order in which they are given");
        self.next = QToken::NONE;
        self.enter(token, qd, owner);
    }

    /// Enters an operation under its token, whose slot is in no list.
    #[inline(always)]
    fn enter(&mut self, token: QToken, qd: QDesc, owner: Owner) {
        self.live += 1;
        self.pending += 1;
        let slot = self.slot_mut(token.slot());
        slot.generation = token.generation();
        slot.state = State::Pending;
        slot.owner = owner;
        slot.qd = qd;
        slot.at = qd;
        slot.watch = 0;
    }

    /// Gives back a slot whose operation was refused.
    pub(crate) fn unreserve(&mut self, token: QToken) {
        if let Ok(index) = self.find(token, State::Pending) {
            self.pending -= 1;
            self.release(index);
        }
    }

    /// Takes the result out if it is there. `Err(BadToken)`: there is no such operation.
    #[inline]
    pub(crate) fn take(&mut self, token: QToken) -> Result<Option<Completion>, Error> {
        Ok(if self.is_finished(token)? { Some(self.take_finished(token)) } else { None })
    }

    /// Takes the application's oldest result, of any token that is in no set.
    pub(crate) fn take_next(&mut self) -> Option<Completion> {
        self.take_head(APP_LIST)
    }

    /// Whether there is a result for the application.
    pub(crate) fn has_next(&self) -> bool {
        self.lists[APP_LIST].head != NONE
    }

    /// Takes the oldest result of a set.
    pub(crate) fn take_next_of(&mut self, set: u32) -> Option<Completion> {
        self.take_head(FIRST_SET_LIST + set as usize)
    }

    /// Whether there is a result meant for an operator.
    #[inline]
    pub(crate) fn has_for_nodes(&self) -> bool {
        self.lists[NODE_LIST].head != NONE
    }

    /// Takes the oldest result meant for an operator.
    pub(crate) fn take_node(&mut self) -> Option<(QDesc, u8, QToken, Result<Done, Error>)> {
        let index = self.lists[NODE_LIST].head;
        if index == NONE {
            return None;
        }
        let Owner::Node { node, port } = self.slot(index).owner else {
            unreachable!("node list holds nodes' tokens")
        };
        let completion = self.take_ready(index);
        Some((node, port, completion.token, completion.result))
    }

    /// Begins a `wait_any`: marks what is pending, takes the result that has been ready for longest.
    pub(crate) fn watch_any(&mut self, tokens: &[QToken]) -> Result<Option<(usize, Completion)>, Error> {
        self.next_watch();
        let mut best: Option<(usize, u32, u32)> = None;
        for (offset, token) in tokens.iter().enumerate() {
            let index = self.find_callers(*token)?;
            let (now, watch) = (self.sequence, self.watch);
            let slot = self.slot_mut(index);
            if slot.state == State::Ready {
                let age = now.wrapping_sub(slot.sequence);
                if best.is_none_or(|(_, _, oldest)| age > oldest) {
                    best = Some((offset, index, age));
                }
            } else if slot.watch != watch {
                slot.watch = watch;
                slot.offset = offset as u32;
            }
        }
        Ok(best.map(|(offset, index, _)| (offset, self.take_ready(index))))
    }

    /// Begins a `wait_all`: marks what is pending and returns how many that are.
    pub(crate) fn watch_all(&mut self, tokens: &[QToken]) -> Result<usize, Error> {
        self.next_watch();
        let mut pending = 0;
        for token in tokens {
            let index = self.find_callers(*token)?;
            let watch = self.watch;
            let slot = self.slot_mut(index);
            if slot.watch == watch {
                return Err(Error::DuplicateToken);
            }
            slot.watch = watch;
            pending += usize::from(slot.state != State::Ready);
        }
        Ok(pending)
    }

    /// The first of the watched operations to complete since the watch began, with its place in the array.
    pub(crate) fn take_watched(&mut self) -> Option<(usize, Completion)> {
        let index = std::mem::replace(&mut self.watch_first, NONE);
        if index == NONE {
            return None;
        }
        let offset = self.slot(index).offset as usize;
        Some((offset, self.take_ready(index)))
    }

    /// How many watched operations have completed since the watch began.
    pub(crate) fn watch_hits(&self) -> usize {
        self.watch_hits
    }

    /// Takes the result of an operation that is known to be finished.
    #[inline]
    pub(crate) fn take_finished(&mut self, token: QToken) -> Completion {
        self.take_ready(token.slot())
    }

    /// Whether the operation is under way. `Err(BadToken)`: there is no such operation.
    #[inline]
    pub(crate) fn is_pending(&self, token: QToken) -> Result<bool, Error> {
        Ok(self.slot(self.find_live(token)?).state == State::Pending)
    }

    /// Whether the application's operation is finished. `Err(BadToken)`: it has no such operation.
    #[inline]
    pub(crate) fn is_finished(&self, token: QToken) -> Result<bool, Error> {
        Ok(self.slot(self.find_callers(token)?).state == State::Ready)
    }

    /// The queue where a pending operation is now.
    pub(crate) fn location(&self, token: QToken) -> Result<QDesc, Error> {
        Ok(self.slot(self.find_live(token)?).at)
    }

    /// Notes that an operator has passed the operation on to `at`.
    pub(crate) fn relocate(&mut self, token: QToken, at: QDesc) {
        if let Ok(index) = self.find(token, State::Pending) {
            self.slot_mut(index).at = at;
        }
    }

    /// Gives the token to another owner; a result that is there already goes to its list, or is dropped.
    pub(crate) fn give_to(&mut self, token: QToken, owner: Owner) -> Result<(), Error> {
        let index = self.find_live(token)?;
        match self.slot(index).state {
            State::Pending => {
                if let Outcome::Waker(waker) = self.slot(index).outcome {
                    drop(self.wakers.take(waker));
                    self.slot_mut(index).outcome = Outcome::None;
                }
                self.slot_mut(index).owner = owner;
            }
            State::Ready => {
                self.unlink(index);
                self.slot_mut(index).owner = owner;
                match owner {
                    Owner::App => self.link(APP_LIST, index),
                    Owner::Set(set) => self.link(FIRST_SET_LIST + set as usize, index),
                    Owner::Node { .. } => self.link(NODE_LIST, index),
                    Owner::Task => {}
                    Owner::Discard => drop(self.take_ready(index)),
                }
            }
            State::Free => {}
        }
        Ok(())
    }

    /// Sets the waker of a pending operation that a future owns.
    pub(crate) fn set_waker(&mut self, token: QToken, waker: &Waker) -> Result<(), Error> {
        let index = self.find(token, State::Pending)?;
        if let Outcome::Waker(old) = self.slot(index).outcome {
            let old = self.wakers.get_mut(old);
            if !old.will_wake(waker) {
                *old = waker.clone();
            }
            return Ok(());
        }
        let waker = self.wakers.insert(waker.clone());
        self.slot_mut(index).outcome = Outcome::Waker(waker);
        Ok(())
    }

    /// A new, empty ready list for a wait set.
    pub(crate) fn open_set(&mut self) -> u32 {
        if let Some(set) = self.free_lists.pop() {
            return set;
        }
        self.lists.push(List::EMPTY);
        (self.lists.len() - 1 - FIRST_SET_LIST) as u32
    }

    /// Gives up a set; its tokens, pending and ready, go back to the application. Looks at every slot.
    pub(crate) fn close_set(&mut self, set: u32) {
        for index in 0..self.used {
            let slot = self.slot(index);
            if slot.state != State::Free && slot.owner == Owner::Set(set) {
                let token = QToken::new(index, slot.generation);
                self.give_to(token, Owner::App).expect("the slot is in use under this generation");
            }
        }
        self.free_lists.push(set);
    }

    /// How many operations have completed so far; wraps.
    pub(crate) fn posted(&self) -> u32 {
        self.sequence
    }

    /// Results handed to futures so far; wraps.
    pub(crate) fn woken(&self) -> usize {
        self.woken
    }

    fn next_watch(&mut self) {
        self.watch_hits = 0;
        self.watch_first = NONE;
        self.watch = self.watch.wrapping_add(1);
        if self.watch == 0 {
            for index in 0..self.used {
                self.slot_mut(index).watch = 0;
            }
            self.watch = 1;
        }
    }

    fn take_head(&mut self, list: usize) -> Option<Completion> {
        let index = self.lists[list].head;
        (index != NONE).then(|| self.take_ready(index))
    }

    #[inline]
    fn take_ready(&mut self, index: u32) -> Completion {
        self.live -= 1;
        self.next_round();
        let free = self.free;
        let slot = self.slot_mut(index);
        let (token, qd) = (QToken::new(index, slot.generation), slot.qd);
        let (list, prev, next) = (slot.owner.list(), slot.prev, slot.next);
        let outcome = std::mem::replace(&mut slot.outcome, Outcome::None);
        if slot.retire(free) {
            self.free = index;
        }
        if let Some(list) = list {
            self.bridge(list, prev, next);
        }
        let result = match outcome {
            Outcome::Pushed(position) => Ok(Done::Pushed(position)),
            Outcome::Connected => Ok(Done::Connected),
            Outcome::Flushed => Ok(Done::Flushed),
            Outcome::Moved(count) => Ok(Done::Moved(count)),
            Outcome::Fetched(word) => Ok(Done::Fetched(word)),
            Outcome::Popped(segment) => Ok(Done::Popped(segment.into())),
            Outcome::Large(at) => self.large.take(at),
            Outcome::None | Outcome::Waker(_) => unreachable!("a ready slot has a result"),
        };
        Completion { token, qd, result }
    }

    /// Frees a slot that is in no list.
    fn release(&mut self, index: u32) {
        if let Outcome::Waker(waker) = std::mem::replace(&mut self.slot_mut(index).outcome, Outcome::None) {
            drop(self.wakers.take(waker));
        }
        self.live -= 1;
        let free = self.free;
        if self.slot_mut(index).retire(free) {
            self.free = index;
        }
    }

    fn link(&mut self, list: usize, index: u32) {
        let tail = self.lists[list].tail;
        let slot = self.slot_mut(index);
        slot.prev = tail;
        slot.next = NONE;
        if tail == NONE {
            self.lists[list].head = index;
        } else {
            self.slot_mut(tail).next = index;
        }
        self.lists[list].tail = index;
    }

    fn unlink(&mut self, index: u32) {
        let slot = self.slot(index);
        if let Some(list) = slot.owner.list() {
            self.bridge(list, slot.prev, slot.next);
        }
    }

    /// Joins the neighbours of a slot that has left its list.
    #[inline]
    fn bridge(&mut self, list: usize, prev: u32, next: u32) {
        if prev == NONE {
            self.lists[list].head = next;
        } else {
            self.slot_mut(prev).next = next;
        }
        if next == NONE {
            self.lists[list].tail = prev;
        } else {
            self.slot_mut(next).prev = prev;
        }
    }

    #[inline]
    fn find_live(&self, token: QToken) -> Result<u32, Error> {
        let index = token.slot();
        let Some(chunk) = self.chunks.get(index as usize / CHUNK) else { return Err(Error::BadToken) };
        let slot = &chunk[index as usize % CHUNK];
        let known = slot.generation == token.generation() && slot.state != State::Free;
        if known { Ok(index) } else { Err(Error::BadToken) }
    }

    #[inline]
    fn find(&self, token: QToken, state: State) -> Result<u32, Error> {
        let index = self.find_live(token)?;
        if self.slot(index).state == state { Ok(index) } else { Err(Error::BadToken) }
    }

    /// A token as the application names it: an operator's own, and those that nobody waits for any more, are
    /// not for it to name.
    #[inline]
    fn find_callers(&self, token: QToken) -> Result<u32, Error> {
        let index = self.find_live(token)?;
        match self.slot(index).owner {
            Owner::App | Owner::Set(_) | Owner::Task => Ok(index),
            Owner::Node { .. } | Owner::Discard => Err(Error::BadToken),
        }
    }

    /// Checks that the token is in this set.
    pub(crate) fn check_in_set(&self, token: QToken, set: u32) -> Result<(), Error> {
        let index = self.find_live(token)?;
        if self.slot(index).owner == Owner::Set(set) { Ok(()) } else { Err(Error::BadToken) }
    }

    /// Checks that the application may name the token.
    pub(crate) fn check(&self, token: QToken) -> Result<(), Error> {
        self.find_callers(token).map(drop)
    }

    /// Lets a pending token's slot run on its last generation.
    #[cfg(test)]
    pub(super) fn exhaust(&mut self, token: QToken) {
        let index = self.find_live(token).expect("the token is live");
        self.slot_mut(index).generation = u32::MAX;
    }

    #[cold]
    fn grow(&mut self) -> Result<u32, Error> {
        if self.used as usize >= self.max {
            return Err(Error::TooManyTokens(self.max));
        }
        if self.used as usize == self.chunks.len() * CHUNK {
            let generation = self.first_generation;
            let chunk: Box<[Slot]> = (0..CHUNK).map(|_| Slot { generation, ..Slot::FRESH }).collect();
            self.chunks.push(chunk.try_into().unwrap_or_else(|_| unreachable!("it has CHUNK slots")));
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
