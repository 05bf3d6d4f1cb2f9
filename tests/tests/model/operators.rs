//! In-memory queues and whatever is made of them, in any order of calls.
//!
//! The oracle knows nothing of operators. It keeps accounts: every token completes exactly once, once all queues are
//! closed; each element is popped at most as often as it was pushed, and only if its push did not fail; elements that
//! were pushed to one queue come to one queue in that order, unless sorted; and in the end, what was pushed was
//! popped, or dropped and counted.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use demi_api::{Completion, Config, Demikernel, Done, Error, QDesc, QToken, SgArray, Shutdown};
use demi_tests::Loopback;
use proptest::prelude::*;

/// A call; numbers choose among what is open, or alive.
#[derive(Clone, Debug)]
enum Call {
    Queue(usize),
    Filter(usize),
    Map(usize),
    Sort(usize),
    Partition(usize),
    Merge(usize, usize),
    Connect(usize, usize),
    Push(usize),
    Pop(usize),
    PopN(usize, usize),
    Cancel(usize),
    End(usize),
    Close(usize),
    Turn,
    Reap(usize),
}

fn call() -> impl Strategy<Value = Call> {
    let any = || 0..100_usize;
    prop_oneof![
        2 => (1..5_usize).prop_map(Call::Queue),
        1 => any().prop_map(Call::Filter),
        1 => any().prop_map(Call::Map),
        1 => any().prop_map(Call::Sort),
        1 => any().prop_map(Call::Partition),
        1 => (any(), any()).prop_map(|(a, b)| Call::Merge(a, b)),
        2 => (any(), any()).prop_map(|(from, to)| Call::Connect(from, to)),
        12 => any().prop_map(Call::Push),
        8 => any().prop_map(Call::Pop),
        3 => (any(), 1..4_usize).prop_map(|(queue, count)| Call::PopN(queue, count)),
        3 => any().prop_map(Call::Cancel),
        1 => any().prop_map(Call::End),
        1 => any().prop_map(Call::Close),
        3 => Just(Call::Turn),
        3 => (1..10_usize).prop_map(Call::Reap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_accounts_of_operators_balance(calls in prop::collection::vec(call(), 1..120)) {
        let text = "[heap]\nsize_mib = 2\nhuge_pages = \"never\"\nlock = false\n\
            [queues]\nmemory_elements = 3\nsort_lookahead = 3\n[tasks]\nmax = 1\n";
        let demi = Demikernel::new(&Config::parse(text, "model").unwrap()).unwrap();
        let mut world = World::new(&demi);
        for call in &calls {
            world.call(call);
        }
        world.finish();
    }
}

/// An open queue, as the oracle sees it.
#[derive(Clone)]
struct Open {
    qd: QDesc,
    /// Told apart from others that had the number.
    serial: usize,
    /// The in-memory queues that a push reaches, by serial number.
    bases: Vec<usize>,
    /// It is behind one side of a partition: others of the same elements may come by the other.
    split: bool,
}

enum Issued {
    Push { id: u32, copies: usize },
    Pop { serial: usize },
    Connect,
}

struct World<'a> {
    demi: &'a Demikernel<Loopback>,
    open: Vec<Open>,
    issued: HashMap<QToken, Issued>,
    /// In order of issue, for cancelling.
    tokens: Vec<QToken>,
    serial: usize,
    next_id: u32,
    /// Of each element, the base it was pushed to, if it was one.
    origin: HashMap<u32, usize>,
    popped: HashMap<u32, usize>,
    failed: HashSet<u32>,
    /// Copies that were taken in: at least, and at most.
    accepted: (usize, usize),
    /// The last element that came from a base to a queue.
    last: HashMap<(usize, usize), u32>,
    /// Queues whose elements may come in another order: sorted, merged, or fed by one that is.
    unordered: HashSet<usize>,
    /// From these bases to this one, in order of the latter.
    connections: Vec<(Vec<usize>, usize)>,
    /// The bases of every queue that there ever was.
    bases: HashMap<usize, Vec<usize>>,
    dropped_before: u64,
    live_before: usize,
}

impl<'a> World<'a> {
    fn new(demi: &'a Demikernel<Loopback>) -> World<'a> {
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

    fn call(&mut self, call: &Call) {
        match call {
            Call::Queue(bound) => {
                let qd = self.demi.queue_with(*bound);
                self.opened(qd, |serial| vec![serial], false);
            }
            Call::Turn => self.demi.poll().unwrap(),
            Call::Reap(count) => self.reap(*count),
            Call::Cancel(choice) => self.cancel(*choice),
            Call::Filter(choice) => self.derive(*choice, |demi, qd| demi.filter(qd, |sga| id(sga) % 3 != 0)),
            Call::Map(choice) => {
                self.derive(*choice, |demi, qd| demi.map(qd, |_, sga| Ok(sga), |_, sga| Ok(sga)))
            }
            Call::Sort(choice) => self.derive_sorted(*choice),
            Call::Partition(choice) => self.partition(*choice),
            Call::Merge(a, b) => self.merge(*a, *b),
            Call::Connect(from, to) => self.connect(*from, *to),
            Call::Push(choice) => self.push(*choice),
            Call::Pop(choice) => self.pop(*choice, |demi, qd| demi.pop(qd)),
            Call::PopN(choice, count) => self.pop(*choice, |demi, qd| demi.pop_n(qd, *count)),
            Call::End(choice) => {
                if let Some(queue) = self.choose(*choice) {
                    // Refused where a source is closed already.
                    let _ = self.demi.shutdown(queue.qd, Shutdown::Write);
                }
            }
            Call::Close(choice) => {
                if let Some(queue) = self.choose(*choice) {
                    self.demi.close(queue.qd).unwrap();
                    self.forget_closed();
                }
            }
        }
    }

    fn choose(&self, choice: usize) -> Option<Open> {
        self.open.get(choice.checked_rem(self.open.len())?).cloned()
    }

    fn opened(&mut self, qd: Result<QDesc, Error>, bases: impl FnOnce(usize) -> Vec<usize>, unordered: bool) {
        match qd {
            Ok(qd) => {
                self.serial += 1;
                assert!(self.open.iter().all(|open| open.qd != qd), "{qd:?} was given out twice");
                let bases = bases(self.serial);
                self.bases.insert(self.serial, bases.clone());
                self.open.push(Open { qd, serial: self.serial, bases, split: false });
                if unordered {
                    self.unordered.insert(self.serial);
                }
            }
            Err(error) => assert!(matches!(error, Error::Claimed | Error::TooDeep(_)), "{error}"),
        }
    }

    fn is_unordered(&self, queue: &Open) -> bool {
        self.unordered.contains(&queue.serial) || queue.bases.iter().any(|base| self.unordered.contains(base))
    }

    fn derive(
        &mut self,
        choice: usize,
        derive: impl FnOnce(&Demikernel<Loopback>, QDesc) -> Result<QDesc, Error>,
    ) {
        let Some(source) = self.choose(choice) else { return };
        let unordered = self.is_unordered(&source);
        let derived = derive(self.demi, source.qd);
        self.opened(derived.clone(), |_| source.bases, unordered);
        if source.split {
            self.split(derived);
        }
    }

    fn split(&mut self, qd: Result<QDesc, Error>) {
        for open in self.open.iter_mut().filter(|open| qd == Ok(open.qd)) {
            open.split = true;
        }
    }

    fn derive_sorted(&mut self, choice: usize) {
        let Some(source) = self.choose(choice) else { return };
        let sorted = self.demi.sort(source.qd, |a, b| (id(a) % 7).cmp(&(id(b) % 7)));
        self.opened(sorted, |_| source.bases, true);
    }

    fn partition(&mut self, choice: usize) {
        let Some(source) = self.choose(choice) else { return };
        let unordered = self.is_unordered(&source);
        match self.demi.partition(source.qd, |sga| id(sga) % 2 == 0) {
            Ok((yes, no)) => {
                self.opened(Ok(yes), |_| source.bases.clone(), unordered);
                self.opened(Ok(no), |_| source.bases, unordered);
                self.split(Ok(yes));
                self.split(Ok(no));
            }
            Err(error) => self.opened(Err(error), |_| Vec::new(), unordered),
        }
    }

    fn merge(&mut self, a: usize, b: usize) {
        let (Some(a), Some(b)) = (self.choose(a), self.choose(b)) else { return };
        if a.qd == b.qd {
            return;
        }
        // Elements of one base may come by both.
        self.opened(self.demi.merge(a.qd, b.qd), |_| [a.bases, b.bases].concat(), true);
    }

    /// Only to where an element has one copy, and never in a circle.
    fn connect(&mut self, from: usize, to: usize) {
        let (Some(from), Some(to)) = (self.choose(from), self.choose(to)) else { return };
        if to.bases.len() != 1 || from.bases.iter().any(|base| *base >= to.bases[0]) {
            return;
        }
        match self.demi.qconnect(from.qd, to.qd) {
            Ok(token) => {
                if self.is_unordered(&from) || from.split {
                    self.unordered.insert(to.bases[0]);
                }
                self.connections.push((from.bases, to.bases[0]));
                self.spread_disorder();
                self.issue(token, Issued::Connect);
            }
            Err(error) => assert_eq!(error, Error::Claimed),
        }
    }

    /// What is fed by a base out of order is out of order; connections lead to later bases only.
    fn spread_disorder(&mut self) {
        self.connections.sort_by_key(|(_, to)| *to);
        for (from, to) in &self.connections {
            if from.iter().any(|base| self.unordered.contains(base)) {
                self.unordered.insert(*to);
            }
        }
    }

    fn push(&mut self, choice: usize) {
        let Some(queue) = self.choose(choice) else { return };
        self.next_id += 1;
        let id = self.next_id;
        let sga = self.demi.copy_from(&id.to_be_bytes()).unwrap();
        if let [base] = queue.bases[..] {
            self.origin.insert(id, base);
        }
        match self.demi.push(queue.qd, sga) {
            Ok(token) => self.issue(token, Issued::Push { id, copies: queue.bases.len() }),
            Err(refused) => {
                assert_eq!(refused.sga.to_vec(), id.to_be_bytes());
                assert!(
                    matches!(refused.error, Error::Cancelled | Error::Closed | Error::Branch { .. }),
                    "{refused}"
                );
                self.failed.insert(id);
            }
        }
    }

    fn pop(
        &mut self,
        choice: usize,
        pop: impl FnOnce(&Demikernel<Loopback>, QDesc) -> Result<QToken, Error>,
    ) {
        let Some(queue) = self.choose(choice) else { return };
        match pop(self.demi, queue.qd) {
            Ok(token) => self.issue(token, Issued::Pop { serial: queue.serial }),
            Err(error) => assert_eq!(error, Error::Claimed),
        }
    }

    fn issue(&mut self, token: QToken, issued: Issued) {
        assert!(self.issued.insert(token, issued).is_none(), "{token} is two operations'");
        self.tokens.push(token);
    }

    fn cancel(&mut self, choice: usize) {
        let Some(choice) = choice.checked_rem(self.tokens.len()) else { return };
        let token = self.tokens[choice];
        let known = self.issued.contains_key(&token);
        match self.demi.cancel(token) {
            Ok(()) | Err(Error::NotCancellable) => assert!(known),
            Err(error) => assert_eq!((error, known), (Error::BadToken, false)),
        }
    }

    fn reap(&mut self, count: usize) {
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

    fn forget_closed(&mut self) {
        let demi = self.demi;
        self.open.retain(|open| demi.kind(open.qd) != Err(Error::BadDescriptor));
    }

    fn finish(mut self) {
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

fn id(sga: &SgArray) -> u32 {
    u32::from_be_bytes(sga.to_vec().try_into().expect("every element has four bytes"))
}
