//! The accounts of what was pushed, popped and dropped, and of who completed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use demi_api::{Completion, Demikernel, Done, Error, QToken, SgArray};
use demi_tests::Loopback;

use super::operators::{Open, id};

pub(crate) enum Issued {
    Push { id: u32, copies: usize },
    Pop { serial: usize },
    Connect,
}

pub(crate) struct World<'a> {
    pub(crate) demi: &'a Demikernel<Loopback>,
    pub(crate) open: Vec<Open>,
    pub(crate) issued: HashMap<QToken, Issued>,
    /// In order of issue, for cancelling.
    pub(crate) tokens: Vec<QToken>,
    pub(crate) serial: usize,
    pub(crate) next_id: u32,
    /// Of each element, the base it was pushed to, if it was one.
    pub(crate) origin: HashMap<u32, usize>,
    pub(crate) popped: HashMap<u32, usize>,
    pub(crate) failed: HashSet<u32>,
    /// Copies that were taken in: at least, and at most.
    pub(crate) accepted: (usize, usize),
    /// The last element that came from a base to a queue.
    pub(crate) last: HashMap<(usize, usize), u32>,
    /// Queues whose elements may come in another order: sorted, merged, or fed by one that is.
    pub(crate) unordered: HashSet<usize>,
    /// From these bases to this one, in order of the latter.
    pub(crate) connections: Vec<(Vec<usize>, usize)>,
    /// The bases of every queue that there ever was.
    pub(crate) bases: HashMap<usize, Vec<usize>>,
    pub(crate) dropped_before: u64,
    pub(crate) live_before: usize,
}

impl<'a> World<'a> {
    pub(crate) fn new(demi: &'a Demikernel<Loopback>) -> World<'a> {
        let counters = demi.counters().unwrap();
        World {
            demi,
            open: Vec::new(),
            issued: HashMap::new(),
            tokens: Vec::new(),
            serial: 0,
            next_id: 0,
            origin: HashMap::new(),
            popped: HashMap::new(),
            failed: HashSet::new(),
            accepted: (0, 0),
            last: HashMap::new(),
            unordered: HashSet::new(),
            connections: Vec::new(),
            bases: HashMap::new(),
            dropped_before: counters.elements_dropped,
            live_before: counters.heap.objects_live,
        }
    }

    pub(crate) fn issue(&mut self, token: QToken, issued: Issued) {
        assert!(self.issued.insert(token, issued).is_none(), "{token} is two operations'");
        self.tokens.push(token);
    }

    pub(crate) fn cancel(&mut self, choice: usize) {
        let Some(choice) = choice.checked_rem(self.tokens.len()) else { return };
        let token = self.tokens[choice];
        let known = self.issued.contains_key(&token);
        match self.demi.cancel(token) {
            Ok(()) | Err(Error::NotCancellable) => assert!(known),
            Err(error) => assert_eq!((error, known), (Error::BadToken, false)),
        }
    }

    pub(crate) fn reap(&mut self, count: usize) {
        let mut results = Vec::new();
        match self.demi.wait_next_n(&mut results, count, Some(Duration::ZERO)) {
            Ok(_) | Err(Error::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        for done in results {
            self.account(done);
        }
    }

    fn account(&mut self, done: Completion) {
        let issued = self.issued.remove(&done.token).expect("a token completes once");
        match (issued, done.result) {
            (Issued::Push { copies, .. }, Ok(Done::Pushed(_))) => {
                self.accepted.0 += copies;
                self.accepted.1 += copies;
            }
            (Issued::Push { copies, .. }, Err(Error::Branch { .. })) => self.accepted.1 += copies - 1,
            (Issued::Push { id, .. }, Err(_)) => {
                assert!(!self.popped.contains_key(&id), "{id} was popped, and its push failed");
                self.failed.insert(id);
            }
            (Issued::Pop { serial }, Ok(Done::Popped(sga))) => {
                let mut last = std::mem::take(&mut self.last);
                self.arrived(serial, &sga, &mut last);
                self.last = last;
            }
            // A batch keeps its elements for a moment while other pops overtake it.
            (Issued::Pop { serial }, Ok(Done::Batch(batch))) => {
                assert!(!batch.is_empty());
                let mut last = HashMap::new();
                batch.iter().for_each(|sga| self.arrived(serial, sga, &mut last));
            }
            (Issued::Pop { .. }, Err(Error::Cancelled | Error::EndOfStream)) => {}
            (Issued::Connect, Ok(Done::Moved(_)) | Err(Error::Cancelled | Error::Closed)) => {}
            (_, other) => panic!("{other:?}"),
        }
    }

    fn arrived(&mut self, serial: usize, sga: &SgArray, last: &mut HashMap<(usize, usize), u32>) {
        let id = id(sga);
        assert!(!self.failed.contains(&id), "{id} was popped, and its push failed");
        *self.popped.entry(id).or_default() += 1;
        let Some(base) = self.origin.get(&id).copied() else { return };
        assert_eq!(self.popped[&id], 1, "{id} came twice");
        let ordered = !self.unordered.contains(&serial) && !self.unordered.contains(&base);
        let ordered = ordered && !self.bases[&serial].iter().any(|base| self.unordered.contains(base));
        let last = last.insert((serial, base), id);
        assert!(!ordered || last < Some(id), "{id} came after {last:?}");
    }

    pub(crate) fn forget_closed(&mut self) {
        let demi = self.demi;
        self.open.retain(|open| demi.kind(open.qd) != Err(Error::BadDescriptor));
    }

    pub(crate) fn finish(mut self) {
        while let Some(queue) = self.open.pop() {
            self.demi.close(queue.qd).unwrap();
            self.forget_closed();
        }
        for _ in 0..1000 {
            self.demi.poll().unwrap();
            self.reap(64);
            if self.issued.is_empty() {
                break;
            }
        }
        assert!(self.issued.is_empty(), "{} operations never completed", self.issued.len());
        let counters = self.demi.counters().unwrap();
        assert_eq!((counters.operations_pending, counters.operations_unreaped), (0, 0));
        assert_eq!(counters.stale_posts, 0);
        assert_eq!(counters.heap.objects_live, self.live_before, "elements leaked");
        let dropped = (counters.elements_dropped - self.dropped_before) as usize;
        let popped: usize = self.popped.values().sum();
        let (least, most) = self.accepted;
        assert!(
            (least..=most).contains(&(popped + dropped)),
            "{least} to {most} were pushed, {popped} popped and {dropped} dropped"
        );
    }
}
