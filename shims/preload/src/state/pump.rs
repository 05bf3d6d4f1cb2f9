//! Results of the instance, each carried to the socket that it belongs to.

use std::time::{Duration, Instant};

use demi_api::op::{Completion, Done};
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::{Role, State};
use crate::carrier::Carrier;

/// Results taken in one go.
const RESULTS: usize = 64;

/// A turn is due after this time at the latest, where there is always something ready.
const STALE: Duration = Duration::from_micros(20);

/// Goes in one turn of the pump.
const GOES: usize = 8;

/// What an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Pop,
    /// Of so many bytes.
    Push(u32),
    Accept,
    Connect,
}

/// Whose each operation is, by the place of its token.
pub(crate) struct Routes(Vec<Option<(Key, What)>>);

impl Routes {
    pub(crate) const fn new() -> Routes {
        Routes(Vec::new())
    }

    pub(crate) fn set(&mut self, token: QToken, key: Key, what: What) {
        let place = token.slot() as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        self.0[place] = Some((key, what));
    }

    fn take(&mut self, token: QToken) -> Option<(Key, What)> {
        self.0.get_mut(token.slot() as usize)?.take()
    }
}

impl<C: Carrier> State<C> {
    /// Turns the instance and carries what is done to where it belongs. Returns how much that was.
    pub(crate) fn pump(&mut self) -> usize {
        let mut done = 0;
        for _ in 0..GOES {
            let count = self.take_results();
            done += count;
            if count < RESULTS {
                break;
            }
        }
        done
    }

    /// Turns the instance if that was not done lately: to be called before something is said to be ready, or a program that
    /// leaves it so would keep everything else waiting.
    pub(crate) fn keep_up(&mut self) {
        if self.demi.is_some() && self.turned.is_none_or(|turned| turned.elapsed() >= STALE) {
            self.turn();
        }
    }

    /// Turns the instance, whatever is done already.
    pub(crate) fn turn(&mut self) {
        let Some(demi) = &self.demi else { return };
        // Only a closure of an operator could be in the way, and there is none.
        let _ = demi.poll();
        self.note_turn();
        self.pump();
    }

    fn note_turn(&mut self) {
        self.turns += 1;
        self.turned = Some(Instant::now());
    }

    /// How often the instance was turned.
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// What is done already, or else what one turn brings.
    pub(crate) fn take_results(&mut self) -> usize {
        self.feed();
        let Some(demi) = &self.demi else { return 0 };
        let mut results = std::mem::take(&mut self.results);
        self.disturbed = true;
        // That nothing is done is no failure, and there is no other.
        let _ = demi.wait_next_n(&mut results, RESULTS, Some(Duration::ZERO));
        let count = results.len();
        if count == 0 {
            self.note_turn();
        }
        // All at first: what the first of them starts may get the place that the last has given up.
        let mut whose = std::mem::take(&mut self.whose);
        whose.extend(results.iter().map(|result| self.routes.take(result.token)));
        for (result, whose) in results.drain(..).zip(whose.drain(..)) {
            if let Some((key, what)) = whose {
                self.route(key, what, result);
            }
        }
        (self.results, self.whose) = (results, whose);
        count
    }

    fn route(&mut self, key: Key, what: What, completion: Completion) {
        let is_datagram = self.socket(key).is_ok_and(|socket| matches!(socket.role, Role::Datagram(_)));
        match what {
            What::Pop if is_datagram => self.datagram_popped(key, completion.result),
            What::Pop => self.stream_popped(key, completion.result),
            What::Push(count) => {
                let result = completion.result.map(|_: Done| ());
                if is_datagram {
                    self.datagram_pushed(key, count, result);
                } else {
                    self.stream_pushed(key, count, result);
                }
            }
            What::Accept => self.accepted(key, completion.qd, completion.result),
            What::Connect => self.connected(key, completion.result),
        }
    }
}
