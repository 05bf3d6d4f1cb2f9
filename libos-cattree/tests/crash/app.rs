//! An application that does what chance tells it, and notes in a model what it was told.

use std::collections::BTreeMap;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::OpenOptions;
use demi_api::op::Position;
use demi_api::token::QToken;

use crate::model::{Element, FactId, Found, Model, What};
use crate::world::World;

/// Turns after which whatever was asked of a device in memory is done.
const TURNS: usize = 2000;
/// Most pushes outstanding.
const OUTSTANDING: usize = 48;

pub(crate) struct App {
    pub(crate) world: World,
    pub(crate) model: Model,
    rng: fastrand::Rng,
    logs: BTreeMap<String, Open>,
    pushes: Vec<Push>,
    /// How many elements were made, which are all different.
    made: u32,
    habits: Habits,
    /// A control call or a push has failed.
    pub(crate) failures: usize,
}

/// How often it does what, of a hundred; otherwise it takes a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) push: u32,
    pub(crate) discard: u32,
    pub(crate) truncate: u32,
    pub(crate) unlink: u32,
    pub(crate) creat: u32,
    pub(crate) reopen: u32,
    pub(crate) flush: u32,
    /// Most bytes of most elements; a few are ten times as long.
    pub(crate) len: usize,
    /// Most logs.
    pub(crate) logs: usize,
}

impl Habits {
    pub(crate) const DEFAULT: Habits = Habits {
        push: 55,
        discard: 5,
        truncate: 3,
        unlink: 1,
        creat: 2,
        reopen: 2,
        flush: 3,
        len: 1500,
        logs: 4,
    };
}

/// A log that is open.
struct Open {
    qd: QDesc,
    /// Positions of all elements since the making of the log, as far as they are known; and whether they were cut off.
    elements: Vec<Option<Position>>,
    head: usize,
    /// Pushes that are known to be complete, but not to be durable. A log of even number is opened as durable.
    unflushed: Vec<FactId>,
}

fn options(name: &str) -> OpenOptions {
    OpenOptions { durable: is_durable(name), ..OpenOptions::default() }
}

fn is_durable(name: &str) -> bool {
    !name.ends_with(['1', '3', '5', '7'])
}

struct Push {
    token: QToken,
    fact: FactId,
    log: String,
    number: usize,
}

impl App {
    /// On an image without logs, or one of which `model` knows what is there.
    pub(crate) fn new(world: World, model: Model, habits: Habits, seed: u64) -> App {
        let rng = fastrand::Rng::with_seed(seed);
        App { world, model, rng, logs: BTreeMap::new(), pushes: Vec::new(), made: 0, habits, failures: 0 }
    }

    /// Does `steps` things, or stops after a control call has failed.
    pub(crate) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if let Err(error) = self.step() {
                self.failures += 1;
                println!("stopped by: {error}");
                return;
            }
        }
    }

    fn now(&self) -> usize {
        self.world.trace.len()
    }

    fn step(&mut self) -> Result<(), Error> {
        let Habits { push, discard, truncate, unlink, creat, reopen, flush, logs, .. } = self.habits;
        let mut dice = self.rng.u32(..100);
        let mut hit = |part| {
            let hit = dice < part;
            dice = dice.saturating_sub(part) | if hit { 1 << 31 } else { 0 };
            hit
        };
        if hit(push) {
            return self.push();
        }
        if hit(creat) || self.logs.is_empty() {
            return if self.logs.len() < logs { self.creat() } else { Ok(()) };
        }
        let name = self.some_log();
        if hit(discard) {
            self.discard(&name)
        } else if hit(truncate) {
            self.truncate(&name)
        } else if hit(unlink) {
            self.unlink(&name)
        } else if hit(reopen) {
            self.reopen(&name)
        } else if hit(flush) {
            self.flush(&name)
        } else {
            self.turn();
            Ok(())
        }
    }

    fn some_log(&mut self) -> String {
        self.rng.choice(self.logs.keys()).expect("there is a log").clone()
    }

    /// Lets the instance work, and notes what it says.
    pub(crate) fn turn(&mut self) {
        self.world.turn();
        let mut waiting = Vec::new();
        for push in self.pushes.drain(..) {
            let completion = self.world.take(push.token);
            // Looking for it is a turn of its own.
            let now = self.world.trace.len();
            match completion.map(|completion| completion.pushed()) {
                Some(Ok(position)) => {
                    if is_durable(&push.log) {
                        self.model.done(push.fact, now);
                    }
                    if let Some(log) = self.logs.get_mut(&push.log) {
                        log.elements[push.number] = Some(position);
                        log.unflushed.push(push.fact);
                    }
                }
                Some(Err(error)) => {
                    println!("push {} to {}: {error}", push.number, push.log);
                    self.failures += 1;
                    self.model.failed(push.fact, now);
                }
                None => waiting.push(push),
            }
        }
        self.pushes = waiting;
    }

    /// Waits for all pushes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..TURNS {
            if self.pushes.is_empty() {
                return;
            }
            self.turn();
        }
        panic!("{} pushes never complete", self.pushes.len());
    }

    fn push(&mut self) -> Result<(), Error> {
        if self.logs.is_empty() || self.pushes.len() >= OUTSTANDING {
            self.turn();
            return Ok(());
        }
        let name = self.some_log();
        let element = self.element();
        self.push_to(&name, element)
    }

    fn push_to(&mut self, name: &str, element: Element) -> Result<(), Error> {
        let sga = self.world.demi.copy_from(&element)?;
        let fact = self.model.ask(name, What::Push(element), self.world.trace.len());
        let log = self.logs.get_mut(name).expect("the log is open");
        match self.world.demi.push(log.qd, sga) {
            Ok(token) => {
                self.pushes.push(Push { token, fact, log: name.to_owned(), number: log.elements.len() });
                log.elements.push(None);
                Ok(())
            }
            Err(refused) => {
                self.model.refused();
                self.refused(name, refused.error)
            }
        }
    }

    /// A push was refused: for want of space, or because an earlier one failed.
    fn refused(&mut self, name: &str, error: Error) -> Result<(), Error> {
        self.failures += 1;
        match error {
            Error::NoSpace => {
                self.settle();
                self.discard(name)
            }
            _ => self.reopen(name),
        }
    }

    fn element(&mut self) -> Element {
        self.made += 1;
        let longest = if self.rng.u8(..20) == 0 { 10 * self.habits.len } else { self.habits.len };
        let mut element = self.made.to_le_bytes().to_vec();
        element.resize(4 + self.rng.usize(..=longest), 0);
        self.rng.fill(&mut element[4..]);
        element.into()
    }

    fn creat(&mut self) -> Result<(), Error> {
        let name = format!("log{}", self.rng.u8(..8));
        if self.logs.contains_key(&name) {
            return Ok(());
        }
        let options = OpenOptions { create: true, exclusive: true, ..options(&name) };
        let fact = self.model.ask(&name, What::Creat, self.now());
        let opened = self.world.demi.open(&name, &options);
        let qd = self.ended(fact, opened)?;
        self.logs.insert(name, Open { qd, elements: Vec::new(), head: 0, unflushed: Vec::new() });
        Ok(())
    }

    /// Notes how a control call has ended.
    fn ended<T>(&mut self, fact: FactId, result: Result<T, Error>) -> Result<T, Error> {
        let now = self.now();
        match &result {
            Ok(_) => self.model.done(fact, now),
            Err(_) => self.model.failed(fact, now),
        }
        result
    }

    /// An element that is there and whose position is known.
    fn some_element(&mut self, name: &str) -> Option<(usize, Position)> {
        let log = &self.logs[name];
        let known: Vec<_> = (log.head..log.elements.len())
            .filter_map(|number| log.elements[number].map(|position| (number, position)))
            .collect();
        self.rng.choice(known)
    }

    fn discard(&mut self, name: &str) -> Result<(), Error> {
        let Some((number, position)) = self.some_element(name) else { return Ok(()) };
        let fact = self.model.ask(name, What::Discard(number), self.now());
        let discarded = self.world.demi.discard(self.logs[name].qd, position);
        self.ended(fact, discarded)?;
        self.logs.get_mut(name).expect("the log is open").head = number;
        Ok(())
    }

    fn truncate(&mut self, name: &str) -> Result<(), Error> {
        self.settle();
        let Some((number, position)) = self.some_element(name) else { return Ok(()) };
        let fact = self.model.ask(name, What::Truncate(number), self.now());
        let truncated = self.world.demi.truncate(self.logs[name].qd, position);
        self.ended(fact, truncated)?;
        let log = self.logs.get_mut(name).expect("the log is open");
        log.elements.truncate(number);
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> Result<(), Error> {
        self.settle();
        let log = self.logs.remove(name).expect("the log is open");
        self.world.demi.close(log.qd)?;
        let fact = self.model.ask(name, What::Unlink, self.now());
        let unlinked = self.world.demi.unlink(name);
        self.ended(fact, unlinked)
    }

    /// Closes a log and opens it again.
    fn reopen(&mut self, name: &str) -> Result<(), Error> {
        self.settle();
        let log = self.logs.get_mut(name).expect("the log is open");
        self.world.demi.close(log.qd)?;
        log.qd = self.world.demi.open(name, &options(name))?;
        Ok(())
    }

    /// Makes durable what was pushed to a log, whether it is complete or not.
    fn flush(&mut self, name: &str) -> Result<(), Error> {
        let log = self.logs.get_mut(name).expect("the log is open");
        let mut facts = std::mem::take(&mut log.unflushed);
        facts.extend(self.pushes.iter().filter(|push| push.log == name).map(|push| push.fact));
        let token = self.world.demi.flush(log.qd)?;
        for _ in 0..TURNS {
            self.turn();
            if let Some(completion) = self.world.take(token) {
                completion.result?;
                let now = self.now();
                facts.into_iter().for_each(|fact| self.model.done_before(fact, now));
                return Ok(());
            }
        }
        panic!("a flush never completes");
    }

    /// Opens all logs that there are, and appends an element to each; and makes another.
    pub(crate) fn append_to_all(&mut self, found: &Found) -> Result<(), Error> {
        for path in self.world.demi.list()? {
            let name = path.to_string_lossy().into_owned();
            let qd = self.world.demi.open(&path, &options(&name))?;
            let elements = vec![None; found[&name].len()];
            self.logs.insert(name.clone(), Open { qd, elements, head: 0, unflushed: Vec::new() });
            let element = self.element();
            self.push_to(&name, element)?;
        }
        self.creat()?;
        self.settle();
        Ok(())
    }
}
