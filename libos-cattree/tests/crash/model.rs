//! What an application was told, and so what it may find again after a loss of power.
//!
//! Every fact bears two moments, counted in events of the device's trace: when it was asked for, and when its end was known.
//! A cut at or before the first leaves nothing of it, a cut at or after the second all of it if it succeeded, and one between
//! either. Control calls come one after the other, so at any cut one at most is in between, and there are two states
//! at most that a test may find, but for pushes that were under way. What has failed may be there or not, for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// The bytes of an element.
pub(crate) type Element = Rc<[u8]>;

/// What is in each log, by name.
pub(crate) type Found = BTreeMap<String, Vec<Element>>;

/// All that was asked for, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    facts: Vec<Fact>,
}

#[derive(Clone, Debug)]
struct Fact {
    log: String,
    what: What,
    asked: usize,
    end: End,
}

/// Something that was asked for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Creat,
    Push(Element),
    /// The elements before this one are discarded, counted from the making of the log.
    Discard(usize),
    /// The elements from this one on are cut off.
    Truncate(usize),
    Unlink,
}

/// An element that is in a log for certain.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) element: Element,
    /// When it was pushed.
    pub(crate) asked: usize,
    /// When it was known to be durable, if it was.
    pub(crate) done: usize,
}

/// What is known of its end, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Unknown,
    Done(usize),
    Failed(usize),
}

/// Names a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FactId(usize);

/// A log that may be found.
#[derive(Debug, Default)]
struct Expected<'a> {
    /// All pushes since the making of the log.
    pushes: Vec<&'a Fact>,
    /// Of these so many are discarded.
    head: usize,
}

impl Fact {
    fn is_done(&self, cut: usize) -> bool {
        matches!(self.end, End::Done(end) if end <= cut)
    }

    /// When it was known to have failed, if that was before the cut.
    fn failed(&self, cut: usize) -> Option<usize> {
        match self.end {
            End::Failed(end) if end <= cut => Some(end),
            _ => None,
        }
    }
}

impl Model {
    /// What is known after an opening that found this: it is there for good.
    pub(crate) fn of(found: &Found) -> Model {
        let mut model = Model::default();
        for (log, elements) in found {
            let pushes = elements.iter().map(|element| What::Push(element.clone()));
            for what in [What::Creat].into_iter().chain(pushes) {
                let id = model.ask(log, what, 0);
                model.done(id, 0);
            }
        }
        model
    }

    pub(crate) fn ask(&mut self, log: &str, what: What, now: usize) -> FactId {
        self.facts.push(Fact { log: log.to_owned(), what, asked: now, end: End::Unknown });
        FactId(self.facts.len() - 1)
    }

    /// What was asked for last was refused: nothing was begun.
    pub(crate) fn refused(&mut self) {
        self.facts.pop();
    }

    pub(crate) fn done(&mut self, id: FactId, now: usize) {
        self.facts[id.0].end = End::Done(now);
    }

    /// The same, of what may be known to be done already.
    pub(crate) fn done_before(&mut self, id: FactId, now: usize) {
        if self.facts[id.0].end == End::Unknown {
            self.done(id, now);
        }
    }

    pub(crate) fn failed(&mut self, id: FactId, now: usize) {
        self.facts[id.0].end = End::Failed(now);
    }

    /// What is in all logs when everything is complete, whether it is durable or not.
    pub(crate) fn logs(&self) -> BTreeMap<String, Vec<Pushed>> {
        let pushed = |fact: &&Fact| match (&fact.what, fact.end) {
            (What::Push(element), End::Done(done)) => {
                Some(Pushed { element: element.clone(), asked: fact.asked, done })
            }
            (What::Push(element), End::Unknown) => {
                Some(Pushed { element: element.clone(), asked: fact.asked, done: usize::MAX })
            }
            _ => None,
        };
        let content = |log: &Expected<'_>| log.pushes[log.head..].iter().filter_map(pushed).collect();
        self.expected(usize::MAX, false)
            .iter()
            .map(|(name, log)| ((*name).to_owned(), content(log)))
            .collect()
    }

    /// Whether this may be found after a cut behind `cut` events. Otherwise says why not.
    pub(crate) fn check(&self, cut: usize, found: &Found) -> Result<(), String> {
        let Err(first) = mismatch(&self.expected(cut, false), found, cut) else { return Ok(()) };
        let between =
            |fact: &Fact| !matches!(fact.what, What::Push(_)) && fact.asked < cut && !fact.is_done(cut);
        if !self.facts.iter().any(between) {
            return Err(first);
        }
        mismatch(&self.expected(cut, true), found, cut).map_err(|second| format!("{first}; or else {second}"))
    }

    /// The logs at a cut, with or without the control call that was under way or has failed.
    fn expected(&self, cut: usize, with: bool) -> BTreeMap<&str, Expected<'_>> {
        let mut logs: BTreeMap<&str, Expected<'_>> = BTreeMap::new();
        for fact in self.facts.iter().filter(|fact| fact.asked < cut || fact.is_done(cut)) {
            if let What::Push(_) = &fact.what {
                logs.entry(&fact.log).and_modify(|log| log.pushes.push(fact));
                continue;
            }
            if !fact.is_done(cut) && !with {
                continue;
            }
            match &fact.what {
                What::Push(_) => {}
                What::Creat => drop(logs.entry(&fact.log).or_default()),
                What::Unlink => drop(logs.remove(&*fact.log)),
                What::Discard(to) => {
                    logs.entry(&fact.log).and_modify(|log| log.head = log.head.max(*to));
                }
                What::Truncate(to) => {
                    logs.entry(&fact.log).and_modify(|log| log.pushes.truncate(*to));
                }
            }
        }
        logs
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fact { log, what, asked, end } in &self.facts {
            match what {
                What::Push(element) => {
                    writeln!(f, "{log}: push {}, asked at {asked}, {end:?}", Short(element))?
                }
                what => writeln!(f, "{log}: {what:?}, asked at {asked}, {end:?}")?,
            }
        }
        Ok(())
    }
}

fn mismatch(expected: &BTreeMap<&str, Expected<'_>>, found: &Found, cut: usize) -> Result<(), String> {
    if !expected.keys().copied().eq(found.keys().map(String::as_str)) {
        return Err(format!("logs {:?} in place of {:?}", found.keys(), expected.keys()));
    }
    for (name, log) in expected {
        log.check(&found[*name], cut).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

impl Expected<'_> {
    /// What was acknowledged is there, and what is there is what was pushed, without gaps.
    fn check(&self, found: &[Element], cut: usize) -> Result<(), String> {
        let mut place = 0;
        // What was asked for before this must not be there any more: an older push is missing. After it, it may.
        let mut gap = None;
        for (number, push) in self.pushes.iter().enumerate().skip(self.head) {
            let What::Push(element) = &push.what else { continue };
            if found.get(place) == Some(element) {
                if gap.is_some_and(|gap| push.asked < gap) {
                    return Err(format!("element {number} is there, but not one before it"));
                }
                place += 1;
            } else if push.is_done(cut) {
                let found = found.get(place).map_or("nothing".to_owned(), |found| Short(found).to_string());
                return Err(format!("{found} in place of element {number}, {}", Short(element)));
            } else {
                gap = gap.max(Some(push.failed(cut).unwrap_or(usize::MAX)));
            }
        }
        match found.get(place) {
            Some(found) => Err(format!("{} in place of the end", Short(found))),
            None => Ok(()),
        }
    }
}

/// An element, shown by its length and its first bytes.
struct Short<'a>(&'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:?}", self.0.len(), &self.0[..self.0.len().min(12)])
    }
}

fn found(log: &str, bytes: &[u8]) -> Found {
    [(log.to_owned(), bytes.iter().map(|byte| [*byte].into()).collect())].into()
}

/// Everything that the model allows, of a few candidates.
fn allowed(model: &Model, cut: usize) -> Vec<&'static [u8]> {
    let candidates: [&[u8]; 14] = [
        &[],
        &[0],
        &[1],
        &[2],
        &[3],
        &[0, 1],
        &[0, 2],
        &[1, 2],
        &[1, 0],
        &[0, 1, 2],
        &[0, 1, 2, 2],
        &[0, 3],
        &[0, 1, 3],
        &[0, 1, 2, 3],
    ];
    candidates.into_iter().filter(|bytes| model.check(cut, &found("a", bytes)).is_ok()).collect()
}

#[test]
fn the_model_allows_what_it_should_and_nothing_else() {
    let mut model = Model::default();
    let creat = model.ask("a", What::Creat, 0);
    model.done(creat, 4);
    let pushes: Vec<FactId> = (0..3).map(|byte| model.ask("a", What::Push([byte].into()), 4)).collect();
    model.done(pushes[0], 8);
    model.done(pushes[1], 9);
    let discard = model.ask("a", What::Discard(1), 10);
    model.done(discard, 12);
    let truncate = model.ask("a", What::Truncate(2), 13);
    model.done(truncate, 14);
    let unlink = model.ask("a", What::Unlink, 14);
    model.done(unlink, 16);
    let expected: [(usize, bool, &[&[u8]]); 10] = [
        (0, true, &[]),
        (2, true, &[&[]]),
        (4, false, &[&[]]),
        (6, false, &[&[], &[0], &[0, 1], &[0, 1, 2]]),
        (8, false, &[&[0], &[0, 1], &[0, 1, 2]]),
        (10, false, &[&[0, 1], &[0, 1, 2]]),
        (11, false, &[&[1], &[0, 1], &[1, 2], &[0, 1, 2]]),
        (14, false, &[&[1]]),
        (15, true, &[&[1]]),
        (16, true, &[]),
    ];
    for (cut, none, some) in expected {
        assert_eq!(model.check(cut, &Found::new()).is_ok(), none, "{cut}");
        assert_eq!(allowed(&model, cut), some, "{cut}");
        assert!(model.check(cut, &found("b", &[])).is_err());
    }
    assert_eq!(allowed(&Model::of(&found("a", &[1, 2])), 0), [&[1, 2]]);
}

#[test]
fn what_has_failed_may_be_there_until_something_follows_it() {
    let mut model = Model::of(&found("a", &[0]));
    let lost: Vec<FactId> = (1..3).map(|byte| model.ask("a", What::Push([byte].into()), 4)).collect();
    lost.iter().for_each(|id| model.failed(*id, 6));
    let after = model.ask("a", What::Push([3].into()), 7);
    let open: [&[u8]; 3] = [&[0], &[0, 1], &[0, 1, 2]];
    assert_eq!(allowed(&model, 5), open);
    assert_eq!(allowed(&model, 7), open);
    let later: [&[u8]; 6] = [&[0], &[0, 1], &[0, 1, 2], &[0, 3], &[0, 1, 3], &[0, 1, 2, 3]];
    assert_eq!(allowed(&model, 8), later);
    model.done(after, 9);
    assert_eq!(allowed(&model, 9), later[3..]);
}
