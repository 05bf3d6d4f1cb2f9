//! When a request fails, and how.

use std::cell::RefCell;
use std::rc::Rc;

use demi_api::error::Error;

use super::super::Command;

/// Requests that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    Any,
    /// Reads.
    Reads,
    /// Writes.
    Writes,
    /// Flushes.
    Flushes,
    /// Discards.
    Discards,
    /// All but reads and flushes.
    Changes,
}

impl Which {
    fn includes(self, command: &Command) -> bool {
        match command {
            Command::Read { .. } => matches!(self, Which::Any | Which::Reads),
            Command::Write { .. } => matches!(self, Which::Any | Which::Writes | Which::Changes),
            Command::Flush => matches!(self, Which::Any | Which::Flushes),
            Command::Discard { .. } => matches!(self, Which::Any | Which::Discards | Which::Changes),
        }
    }
}

/// Which of the requests that a rule looks at it strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// Each with this probability, from 0 (never) to 1 (always).
    Chance(f64),
    /// Those with these numbers, from 0, of those that it looked at since it was added.
    Numbers {
        /// The first.
        from: u64,
        /// How many; `u64::MAX` for all.
        count: u64,
    },
}

/// How much of a write that fails is done nevertheless. Of a discard that fails, nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// Nothing.
    Nothing,
    /// All of it: only the report is wrong.
    All,
    /// A random number of blocks, from the start or up to the end.
    Part,
}

/// Lets requests fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The requests that it looks at.
    pub which: Which,
    /// Those of them that fail.
    pub when: When,
    /// What they fail with.
    pub error: Error,
    /// How much of a write is done nevertheless.
    pub portion: Portion,
}

impl Rule {
    /// One request fails, the `number`-th from 0, as by an error of the medium; what comes later does not.
    pub fn once(which: Which, number: u64) -> Rule {
        let when = When::Numbers { from: number, count: 1 };
        Rule { which, when, error: Error::Io, portion: Portion::Nothing }
    }

    /// Everything fails from the `number`-th request on.
    pub fn dead(number: u64) -> Rule {
        Rule { when: When::Numbers { from: number, count: u64::MAX }, ..Rule::once(Which::Any, number) }
    }

    /// Every change is refused from the `number`-th on: the device has become read-only.
    pub fn read_only(number: u64) -> Rule {
        Rule { which: Which::Changes, error: Error::ReadOnly, ..Rule::dead(number) }
    }

    /// `count` writes find no space, from the `number`-th on.
    pub fn full(number: u64, count: u64) -> Rule {
        let when = When::Numbers { from: number, count };
        Rule { which: Which::Writes, when, error: Error::NoSpace, portion: Portion::Nothing }
    }

    /// Each of the requests fails with this probability.
    pub fn chance(which: Which, probability: f64) -> Rule {
        Rule { when: When::Chance(probability), ..Rule::once(which, 0) }
    }

    /// The same, with as much of a write done.
    pub fn doing(self, portion: Portion) -> Rule {
        Rule { portion, ..self }
    }
}

/// The rules of a device, shared with whoever wants to change them while it is in use.
#[derive(Clone, Debug)]
pub struct Rules {
    state: Rc<RefCell<State>>,
}

#[derive(Debug)]
struct State {
    /// With the number of requests that each has looked at.
    rules: Vec<(Rule, u64)>,
    rng: fastrand::Rng,
    seen: u64,
    struck: u64,
}

impl Rules {
    /// No rules. Chance grows from `seed`.
    pub fn new(seed: u64) -> Rules {
        let rng = fastrand::Rng::with_seed(seed);
        Rules { state: Rc::new(RefCell::new(State { rules: Vec::new(), rng, seen: 0, struck: 0 })) }
    }

    /// Adds a rule. A request on which several agree fails by the one that was added first.
    pub fn add(&self, rule: Rule) {
        self.state.borrow_mut().rules.push((rule, 0));
    }

    /// The same, for where there is no rule yet.
    pub fn with(self, rule: Rule) -> Rules {
        self.add(rule);
        self
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.state.borrow_mut().rules.clear();
    }

    /// How many requests there were.
    pub fn seen(&self) -> u64 {
        self.state.borrow().seen
    }

    /// How many of them were made to fail.
    pub fn struck(&self) -> u64 {
        self.state.borrow().struck
    }

    /// How the next request is to fail, if it is.
    pub(super) fn judge(&self, command: &Command) -> Option<(Error, Portion)> {
        let State { rules, rng, seen, struck } = &mut *self.state.borrow_mut();
        *seen += 1;
        let mut verdict = None;
        for (rule, number) in rules.iter_mut().filter(|(rule, _)| rule.which.includes(command)) {
            let strikes = match rule.when {
                When::Chance(probability) => rng.f64() < probability,
                When::Numbers { from, count } => (from..from.saturating_add(count)).contains(number),
            };
            *number += 1;
            if strikes && verdict.is_none() {
                verdict = Some((rule.error.clone(), rule.portion));
            }
        }
        *struck += u64::from(verdict.is_some());
        verdict
    }

    /// A number below `end`.
    pub(super) fn draw(&self, end: u64) -> u64 {
        self.state.borrow_mut().rng.u64(..end)
    }
}
