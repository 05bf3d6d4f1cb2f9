//! The log of a server: what changed is in it before a reply says so.
//!
//! The changes of a turn become one element, whichever clients they are of, and elements are pushed without waiting for
//! those before them. A reply that tells of the store leaves when everything is durable that was executed before it.
//! What cannot be logged is undone, so that the store never holds for long what the log does not.
//!
//! | module | what it holds |
//! |---|---|
//! | `record` | the format: `docs/kv-log.md` |
//! | `journal` | changes that are not durable yet, and what undoes them |
//! | `compact` | how much room there is, and how dead records are got rid of |
//! | `replay` | the state, rebuilt at start |

mod compact;
mod journal;
mod record;
mod replay;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use demi_api::{Completion, Demikernel, Done, Error, LibOs, QDesc, QToken};

use self::compact::Compaction;
pub(crate) use self::journal::{Journal, Refusal};
pub(crate) use self::record::{LONGEST, Record};
pub(crate) use self::replay::replay;
use super::store::Store;
use crate::log::Room;

/// Elements under way at once: with fewer, what comes while they are waits to share the next one.
const MOST_IN_FLIGHT: usize = 4;

pub(crate) struct Log {
    qd: QDesc,
    in_flight: VecDeque<InFlight>,
    outcomes: VecDeque<Outcome>,
    room: Room,
    /// How much was appended when the room was looked at.
    looked_at: u64,
    compaction: Option<Compaction>,
    pub(crate) compactions: u64,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    changes: usize,
    /// Or why there is no push of it.
    push: Result<QToken, Refusal>,
}

/// What has become of an element.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) result: Result<(), Refusal>,
}

impl Log {
    /// A log that was replayed.
    pub(crate) fn new(qd: QDesc) -> Log {
        Log {
            qd,
            in_flight: VecDeque::new(),
            outcomes: VecDeque::new(),
            room: Room::default(),
            looked_at: 0,
            compaction: None,
            compactions: 0,
        }
    }

    /// Whether a result is of this log.
    #[inline]
    pub(crate) fn owns(&self, completion: &Completion) -> bool {
        completion.qd == self.qd
    }

    /// Whether everything has met its fate.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes in the result of a push.
    pub(crate) fn completed(&mut self, store: &mut Store, completion: Completion) {
        let Some(front) = self.in_flight.front() else { return };
        if !matches!(&front.push, Ok(token) if *token == completion.token) {
            return;
        }
        match completion.result {
            Ok(Done::Pushed(position)) => {
                let (number, changes) = (front.number, front.changes);
                self.in_flight.pop_front();
                if let Some(journal) = &mut store.journal {
                    journal.settle(number, changes);
                }
                if let Some(compaction) = &mut self.compaction {
                    compaction.is_at(number, position);
                }
                self.outcomes.push_back(Outcome { number, result: Ok(()) });
                self.pass_refused(store);
            }
            Ok(_) => {}
            Err(error) => self.fail(store, error),
        }
    }

    /// The next element that has met its fate, in order.
    #[inline]
    pub(crate) fn outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// At the end of a turn: pushes what has been gathered, and compacts a bit.
    pub(crate) fn turn<L: LibOs>(&mut self, demi: &Demikernel<L>, store: &mut Store) {
        self.push(demi, store);
        self.compact(demi, store);
    }

    /// After which time a turn should be taken although nothing has happened.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match &self.compaction {
            Some(compaction) if self.in_flight.is_empty() => Some(compaction.patience()),
            _ => None,
        }
    }

    /// Pushes; false if that was refused.
    fn push<L: LibOs>(&mut self, demi: &Demikernel<L>, store: &mut Store) -> bool {
        let Some(journal) = &mut store.journal else { return true };
        if self.in_flight.len() < MOST_IN_FLIGHT {
            journal.close();
        }
        while let Some(element) = journal.take() {
            let (number, changes) = (element.number, element.changes);
            match demi.push(self.qd, element.array) {
                Ok(token) => self.in_flight.push_back(InFlight { number, changes, push: Ok(token) }),
                Err(refused) => {
                    self.refuse(store, number, changes, refused.error);
                    return false;
                }
            }
        }
        true
    }

    /// An element was not taken. It and those behind it, which were not pushed, are undone at once, and told of when
    /// those before it are settled.
    #[cold]
    fn refuse(&mut self, store: &mut Store, number: u64, changes: usize, error: Error) {
        let why = if error == Error::NoSpace { Refusal::Full } else { Refusal::Failed(error.clone()) };
        self.compaction = None;
        let Some(journal) = &mut store.journal else { return };
        if let Refusal::Failed(error) = &why {
            tracing::error!(%error, "the log takes nothing any more: changes are refused from now on");
            journal.fail(error.clone());
        }
        let mut undo = changes;
        self.in_flight.push_back(InFlight { number, changes: 0, push: Err(why.clone()) });
        journal.close();
        while let Some(element) = journal.take() {
            undo += element.changes;
            self.in_flight.push_back(InFlight { number: element.number, changes: 0, push: Err(why.clone()) });
        }
        store.undo(undo);
        self.pass_refused(store);
    }

    /// A push has failed, and so may have those behind it. None of them is told to have been done.
    #[cold]
    fn fail(&mut self, store: &mut Store, error: Error) {
        tracing::error!(%error, "the log has failed: changes are refused from now on");
        self.compaction = None;
        let Some(journal) = &mut store.journal else { return };
        journal.fail(error.clone());
        journal.close();
        let why = Refusal::Failed(error);
        let not_pushed = std::iter::from_fn(|| journal.take()).map(|element| element.number);
        let numbers: Vec<u64> = self.in_flight.drain(..).map(|it| it.number).chain(not_pushed).collect();
        let changes = journal.unsettled();
        for number in numbers {
            journal.give_up(number);
            self.outcomes.push_back(Outcome { number, result: Err(why.clone()) });
        }
        store.undo(changes);
    }

    /// Settles elements that were not taken, where those before them are settled.
    fn pass_refused(&mut self, store: &mut Store) {
        while let Some(InFlight { number, push: Err(why), .. }) = self.in_flight.front() {
            self.outcomes.push_back(Outcome { number: *number, result: Err(why.clone()) });
            if let Some(journal) = &mut store.journal {
                journal.give_up(*number);
            }
            self.in_flight.pop_front();
        }
    }
}

impl Refusal {
    /// As an error reply.
    pub(crate) fn text(&self) -> Cow<'static, str> {
        match self {
            Refusal::NoRoom => "OOM command not allowed when used memory > 'maxmemory'.".into(),
            Refusal::Full => {
                "MISCONF the log is full: remove keys, or restart with a larger log. Not done.".into()
            }
            Refusal::Failed(error) => format!(
                "MISCONF the log has failed ({error}): nothing can be changed until a restart. Not done."
            )
            .into(),
        }
    }
}

#[cfg(test)]
mod tests;
