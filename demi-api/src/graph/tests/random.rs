//! Whatever is done in whatever order: every token completes once, and when everything is closed nothing is left.

use proptest::prelude::*;

use super::script::Host;
use crate::desc::QDesc;
use crate::error::Error;
use crate::graph::frame::{Codec, Endian};
use crate::op::Done;
use crate::sga::SgArray;
use crate::token::QToken;

#[derive(Debug, Clone)]
enum Act {
    Stream,
    Messages,
    Queue(usize),
    Merge(usize, usize),
    Filter(usize),
    Partition(usize),
    Map(usize),
    Sort(usize),
    Frame(usize),
    Connect(usize, usize),
    Push(usize, u8),
    Pop(usize),
    PopN(usize, usize),
    Feed(usize, u8),
    Fail(usize, bool),
    Hold(usize, bool),
    Refuse(usize, bool),
    End(usize),
    Cancel(usize),
    Close(usize),
    Poll,
    Reap,
}

fn act() -> impl Strategy<Value = Act> {
    let qd = || 0_usize..64;
    prop_oneof![
        1 => Just(Act::Stream),
        2 => Just(Act::Messages),
        2 => (1_usize..4).prop_map(Act::Queue),
        2 => (qd(), qd()).prop_map(|(a, b)| Act::Merge(a, b)),
        2 => qd().prop_map(Act::Filter),
        2 => qd().prop_map(Act::Partition),
        2 => qd().prop_map(Act::Map),
        2 => qd().prop_map(Act::Sort),
        1 => qd().prop_map(Act::Frame),
        2 => (qd(), qd()).prop_map(|(a, b)| Act::Connect(a, b)),
        8 => (qd(), any::<u8>()).prop_map(|(qd, byte)| Act::Push(qd, byte)),
        8 => qd().prop_map(Act::Pop),
        3 => (qd(), 1_usize..5).prop_map(|(qd, count)| Act::PopN(qd, count)),
        8 => (qd(), any::<u8>()).prop_map(|(qd, byte)| Act::Feed(qd, byte)),
        1 => (qd(), any::<bool>()).prop_map(|(qd, end)| Act::Fail(qd, end)),
        2 => (qd(), any::<bool>()).prop_map(|(qd, on)| Act::Hold(qd, on)),
        1 => (qd(), any::<bool>()).prop_map(|(qd, on)| Act::Refuse(qd, on)),
        1 => qd().prop_map(Act::End),
        3 => (0_usize..32).prop_map(Act::Cancel),
        2 => qd().prop_map(Act::Close),
        6 => Just(Act::Poll),
        3 => Just(Act::Reap),
    ]
}

#[derive(Default)]
struct World {
    bases: Vec<QDesc>,
    queues: Vec<QDesc>,
    tokens: Vec<QToken>,
}

fn first(sga: &SgArray) -> u8 {
    sga.segments().first().and_then(|segment| segment.first()).copied().unwrap_or(0)
}

fn same(_: &crate::Heap, sga: SgArray) -> Result<SgArray, Error> {
    if first(&sga) == 13 { Err(Error::Io) } else { Ok(sga) }
}

impl World {
    fn act(&mut self, host: &Host, act: &Act) {
        let demi = &host.demi;
        let all: Vec<QDesc> = self.bases.iter().chain(&self.queues).copied().collect();
        let at = |index: &usize| all.get(index % all.len().max(1)).copied().unwrap_or(QDesc::from_raw(0));
        let base = |index: &usize| {
            let qd = *self.bases.get(index % self.bases.len().max(1))?;
            demi.kind(qd).is_ok().then_some(qd)
        };
        match act {
            Act::Stream => self.bases.push(host.stream()),
            Act::Messages => self.bases.push(host.messages()),
            Act::Queue(bound) => self.queues.extend(demi.queue_with(*bound)),
            Act::Merge(a, b) => self.queues.extend(demi.merge(at(a), at(b))),
            Act::Filter(qd) => self.queues.extend(demi.filter(at(qd), |sga| !first(sga).is_multiple_of(3))),
            Act::Partition(qd) => {
                let sides = demi.partition(at(qd), |sga| first(sga).is_multiple_of(2));
                self.queues.extend(sides.into_iter().flat_map(|(yes, no)| [yes, no]));
            }
            Act::Map(qd) => self.queues.extend(demi.map(at(qd), same, same)),
            Act::Sort(qd) => self.queues.extend(demi.sort_with(at(qd), 3, |a, b| first(a).cmp(&first(b)))),
            Act::Frame(qd) => {
                let codec = Codec::LengthPrefix { bytes: 1, endian: Endian::Big };
                self.queues.extend(demi.frame(at(qd), codec));
            }
            Act::Connect(from, to) => self.tokens.extend(demi.qconnect(at(from), at(to))),
            Act::Push(qd, byte) => self.tokens.extend(demi.push(at(qd), host.array(&[*byte]))),
            Act::Pop(qd) => self.tokens.extend(demi.pop(at(qd))),
            Act::PopN(qd, count) => self.tokens.extend(demi.pop_n(at(qd), *count)),
            Act::Feed(qd, byte) => {
                if let Some(qd) = base(qd) {
                    host.feed(qd, &[*byte]);
                }
            }
            Act::Fail(qd, end) => {
                if let Some(qd) = base(qd) {
                    host.fail(qd, if *end { Error::EndOfStream } else { Error::ConnectionReset });
                }
            }
            Act::Hold(qd, on) => {
                if let Some(qd) = base(qd) {
                    host.base(qd, |queue| (queue.holds, queue.uncancellable) = (*on, *on));
                }
            }
            Act::Refuse(qd, on) => {
                if let Some(qd) = base(qd) {
                    host.base(qd, |queue| queue.refuses = on.then_some(Error::NotConnected));
                }
            }
            Act::End(qd) => drop(demi.shutdown(at(qd), crate::Shutdown::Write)),
            Act::Cancel(token) => {
                if let Some(token) = self.tokens.get(token % self.tokens.len().max(1)) {
                    let _ = demi.cancel(*token);
                }
            }
            Act::Close(qd) => drop(demi.close(at(qd))),
            Act::Poll => demi.poll().unwrap(),
            Act::Reap => self.reap(host),
        }
    }

    fn reap(&mut self, host: &Host) {
        self.tokens.retain(|token| host.result(*token).is_none());
    }
}

#[test]
fn nothing_is_left_over() {
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(acts in prop::collection::vec(act(), 1..150))| {
        let host = Host::new();
        let mut world = World::default();
        for act in &acts {
            world.act(&host, act);
        }
        for base in &world.bases {
            if host.demi.kind(*base).is_ok() {
                host.base(*base, |queue| queue.holds = false);
            }
        }
        for qd in world.queues.iter().rev().chain(&world.bases) {
            let _ = host.demi.close(*qd);
        }
        for _ in 0..50 {
            world.reap(&host);
        }
        prop_assert!(world.tokens.is_empty(), "{} tokens never completed", world.tokens.len());
        host.assert_clean();
    });
}

/// Elements numbered at the source come out once, and but for concurrent batches in order, whatever is cancelled
/// on the way.
#[test]
fn nothing_is_lost_or_doubled() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(acts in prop::collection::vec(0_u8..8, 1..200))| {
        let host = Host::new();
        let base = host.messages();
        let f = host.demi.filter(base, |_| true).unwrap();
        let m = host.demi.map(f, |_, sga| Ok(sga), |_, sga| Ok(sga)).unwrap();
        let (yes, no) = host.demi.partition(m, |_| true).unwrap();
        let (mut fed, mut seen) = (0_u8, Vec::new());
        let mut tokens: Vec<QToken> = Vec::new();
        for act in acts.iter().chain(&[7; 300]) {
            match act {
                0 | 1 => {
                    host.feed(base, &[fed]);
                    fed += 1;
                }
                2 | 3 => tokens.push(host.demi.pop(yes).unwrap()),
                4 => tokens.push(host.demi.pop_n(yes, 3).unwrap()),
                5 => {
                    if let Some(token) = tokens.last() {
                        let _ = host.demi.cancel(*token);
                    }
                }
                6 => host.demi.poll().unwrap(),
                _ => {
                    if tokens.is_empty() {
                        tokens.push(host.demi.pop(yes).unwrap());
                    }
                    while let Some(token) = tokens.first()
                        && let Some(result) = host.result(*token)
                    {
                        match result {
                            Ok(Done::Popped(sga)) => seen.push(first(&sga)),
                            Ok(Done::Batch(batch)) => seen.extend(batch.iter().map(first)),
                            other => prop_assert_eq!(other.unwrap_err(), Error::Cancelled),
                        }
                        tokens.remove(0);
                    }
                }
            }
        }
        if !acts.contains(&4) {
            prop_assert!(seen.is_sorted(), "out of order: {seen:?}");
        }
        seen.sort();
        prop_assert_eq!(seen, (0..fed).collect::<Vec<_>>());
        host.demi.close(yes).unwrap();
        host.demi.close(no).unwrap();
        for token in tokens {
            prop_assert!(host.result(token).unwrap().is_err());
        }
        host.assert_clean();
    });
}
