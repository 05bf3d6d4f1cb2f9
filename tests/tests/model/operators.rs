//! In-memory queues and whatever is made of them, in any order of calls.
//!
//! The oracle knows nothing of operators. It keeps accounts: every token completes exactly once, once all queues are
//! closed; each element is popped at most as often as it was pushed, and only if its push did not fail; elements that
//! were pushed to one queue come to one queue in that order, unless sorted; and in the end, what was pushed was
//! popped, or dropped and counted.

use demi_api::{Config, Demikernel, Error, QDesc, QToken, SgArray, Shutdown};
use demi_tests::Loopback;
use proptest::prelude::*;

use super::world::{Issued, World};

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
pub(crate) struct Open {
    pub(crate) qd: QDesc,
    /// Told apart from others that had the number.
    pub(crate) serial: usize,
    /// The in-memory queues that a push reaches, by serial number.
    pub(crate) bases: Vec<usize>,
    /// It is behind one side of a partition: others of the same elements may come by the other.
    pub(crate) split: bool,
}

impl World<'_> {
    fn call(&mut self, call: &Call) {
        match call {
            Call::Queue(bound) => {
                let qd = self.demi.queue_with(*bound);
                self.opened(qd, |serial| vec![serial], false);
            }
            Call::Turn => self.demi.poll().unwrap(),
            Call::Reap(count) => self.reap(*count),
            Call::Cancel(choice) => self.cancel(*choice),
            Call::Filter(choice) => {
                self.derive(*choice, |demi, qd| demi.filter(qd, |sga| !id(sga).is_multiple_of(3)))
            }
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
        match self.demi.partition(source.qd, |sga| id(sga).is_multiple_of(2)) {
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
}

pub(crate) fn id(sga: &SgArray) -> u32 {
    u32::from_be_bytes(sga.to_vec().try_into().expect("every element has four bytes"))
}
