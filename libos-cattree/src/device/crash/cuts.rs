//! The images that a loss of power can leave at each point of a trace.
//!
//! Invariant: between calls the image holds what is certain at the cut, and nothing of what is in doubt. Images are made
//! by applying what is chosen of the writes in doubt and taking it back, so the cost is that of the bytes in doubt.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::mem::Image;
use super::choice::{self, Bound, Choice};
use super::trace::{Event, Outcome, Trace};

/// A walk along a trace, cut by cut.
#[derive(Debug)]
pub struct Cuts {
    image: Image,
    trace: Trace,
    unit: usize,
    /// How many events lie before the cut.
    at: usize,
    doubtful: Vec<Doubtful>,
    /// The flushes under way, and when they were submitted.
    flushes: BTreeMap<u64, usize>,
    rng: fastrand::Rng,
}

/// A write, or a discard under way, of which anything may be there.
#[derive(Debug)]
struct Doubtful {
    id: u64,
    offset: usize,
    bytes: Rc<[u8]>,
    durable: bool,
    discard: bool,
    submitted: usize,
    ended: Option<usize>,
    failed: bool,
    /// The units, by their numbers, that no later write has replaced for good.
    units: Vec<usize>,
}

impl Cuts {
    /// Before the first event of a trace that began when the device held what `image` holds. The image is changed.
    ///
    /// `unit` is the atomic unit; all offsets and lengths in the trace are multiples of it. Chance grows from `seed`.
    pub fn new(image: Image, trace: &Trace, unit: usize, seed: u64) -> Cuts {
        Cuts {
            image,
            trace: trace.clone(),
            unit,
            at: 0,
            doubtful: Vec::new(),
            flushes: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// How many events lie before the cut.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Whether cutting here leaves what cutting at the next event does not: the next event makes something certain, or there is none.
    pub fn is_last_doubt(&self) -> bool {
        self.trace.events().get(self.at).is_none_or(|event| matches!(event, Event::End { .. }))
    }

    /// Whether a write that has failed may be there in part.
    pub fn has_failed(&self) -> bool {
        self.doubtful.iter().any(|write| write.failed)
    }

    /// Moves the cut behind the next event. False: there is none.
    pub fn advance(&mut self) -> bool {
        let Some(event) = self.trace.events().get(self.at).cloned() else { return false };
        match event {
            Event::Write { id, offset, bytes, durable } => self.doubt(id, offset, bytes, durable, false),
            Event::Discard { id, offset, len } => self.doubt(id, offset, vec![0; len].into(), false, true),
            Event::Flush { id } => drop(self.flushes.insert(id, self.at)),
            Event::End { id, outcome } => self.end(id, outcome),
        }
        self.at += 1;
        true
    }

    /// Calls `test` with an image of each choice; what it does to the image is taken back.
    pub fn each(&mut self, bound: &Bound, mut test: impl FnMut(&Image, Choice)) -> usize {
        let units: Vec<usize> = self.doubtful.iter().map(|write| write.units.len()).collect();
        let choices = choice::choices(&units, self.overlap(), bound, &mut self.rng);
        for choice in &choices {
            self.with(*choice, |image| test(image, *choice));
        }
        choices.len()
    }

    /// Calls `test` with the image of one choice, as [`each`](Cuts::each) does. Says which it was if it panics.
    pub fn with(&mut self, choice: Choice, test: impl FnOnce(&Image)) {
        let units: Vec<usize> = self.doubtful.iter().map(|write| write.units.len()).collect();
        let there = choice.pattern.select(&units);
        let mark = self.image.mark();
        for place in self.order(choice.reversed) {
            let write = &self.doubtful[place];
            for (unit, _) in write.units.iter().zip(&there[place]).filter(|(_, there)| **there) {
                write.apply(*unit, self.unit, &self.image);
            }
        }
        let tell = Tell { at: self.at, choice };
        test(&self.image);
        drop(tell);
        self.image.rewind(mark);
    }

    fn doubt(&mut self, id: u64, offset: usize, bytes: Rc<[u8]>, durable: bool, discard: bool) {
        let units = (0..bytes.len() / self.unit).collect();
        let submitted = self.at;
        let write =
            Doubtful { id, offset, bytes, durable, discard, submitted, ended: None, failed: false, units };
        self.doubtful.push(write);
    }

    fn end(&mut self, id: u64, outcome: Outcome) {
        if let Some(submitted) = self.flushes.remove(&id) {
            let covered = |write: &Doubtful| !write.failed && write.ended.is_some_and(|end| end < submitted);
            while outcome == Outcome::Done
                && let Some(place) = self.doubtful.iter().position(covered)
            {
                self.settle(place);
            }
            return;
        }
        let Some(place) = self.doubtful.iter().position(|write| write.id == id) else { return };
        let write = &mut self.doubtful[place];
        write.ended = Some(self.at);
        write.failed = outcome == Outcome::Failed;
        if outcome == Outcome::Refused {
            self.doubtful.remove(place);
        } else if write.discard {
            let write = self.doubtful.remove(place);
            let (few, zeroed) = (self.rng.bool(), self.rng.bool());
            for unit in &write.units {
                if if few { self.rng.bool() } else { zeroed } {
                    write.apply(*unit, self.unit, &self.image);
                }
            }
        } else if write.durable && outcome == Outcome::Done {
            self.settle(place);
        }
    }

    /// From now on the write is there, and what completed before it is not to be seen through it.
    fn settle(&mut self, place: usize) {
        let write = self.doubtful.remove(place);
        for unit in &write.units {
            write.apply(*unit, self.unit, &self.image);
        }
        let (start, end) = (write.offset, write.offset + write.bytes.len());
        for other in &mut self.doubtful {
            if other.ended.is_some() && other.ended < write.ended {
                let first = other.offset;
                other.units.retain(|unit| !(start..end).contains(&(first + unit * self.unit)));
            }
        }
        self.doubtful.retain(|write| !write.units.is_empty());
    }

    fn overlap(&self) -> bool {
        let mut ranges: Vec<_> =
            self.doubtful.iter().map(|write| (write.offset, write.offset + write.bytes.len())).collect();
        ranges.sort_unstable();
        ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
    }

    /// The writes in doubt in an order in which they may have come.
    fn order(&self, reversed: bool) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.doubtful.len()).collect();
        if !reversed {
            return left;
        }
        let mut order = Vec::new();
        // The one that was submitted last of those before which none of the others must come.
        while let Some(next) = left.iter().rposition(|place| {
            let submitted = self.doubtful[*place].submitted;
            !left.iter().any(|other| self.doubtful[*other].ended.is_some_and(|end| end < submitted))
        }) {
            order.push(left.remove(next));
        }
        order
    }
}

impl Doubtful {
    fn apply(&self, number: usize, unit: usize, image: &Image) {
        let start = number * unit;
        image.write(self.offset + start, &self.bytes[start..start + unit]);
    }
}

/// Says on which image a test has failed.
struct Tell {
    at: usize,
    choice: Choice,
}

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("power lost after {} events, {:?}", self.at, self.choice);
        }
    }
}
