//! Random operations against a trivial oracle: a list of who holds which bytes of which object.

use demi_memalloc::{Buf, BufMut, Heap, Pool, RemoteBuf};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::thread;

const REGION: usize = 4 << 20;
const STRIDE: usize = 1600;

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize),
    Take,
    Write(usize, u8),
    Freeze(usize),
    Clone(usize),
    Slice(usize, usize, usize),
    Split(usize, usize),
    Thaw(usize),
    Send(usize),
    Return(usize),
    DropElsewhere(usize),
    Drain,
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![
        6 => 0..300usize,
        3 => 0..10_000usize,
        1 => 0..140_000usize,
        1 => 200_000..1_200_000usize,
    ];
    let at = 0..1000usize;
    prop_oneof![
        8 => len.prop_map(Step::Alloc),
        2 => Just(Step::Take),
        2 => (at.clone(), any::<u8>()).prop_map(|(at, value)| Step::Write(at, value)),
        4 => at.clone().prop_map(Step::Freeze),
        3 => at.clone().prop_map(Step::Clone),
        3 => (at.clone(), at.clone(), at.clone()).prop_map(|(at, start, end)| Step::Slice(at, start, end)),
        2 => (at.clone(), at.clone()).prop_map(|(at, count)| Step::Split(at, count)),
        1 => at.clone().prop_map(Step::Thaw),
        2 => at.clone().prop_map(Step::Send),
        1 => at.clone().prop_map(Step::Return),
        1 => at.clone().prop_map(Step::DropElsewhere),
        1 => Just(Step::Drain),
        8 => at.prop_map(Step::Drop),
    ]
}

enum Held {
    Unique(BufMut),
    Shared(Buf),
    Away(RemoteBuf),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Unique(buf) => buf,
            Self::Shared(buf) => buf,
            Self::Away(buf) => buf,
        }
    }
}

/// A buffer, what it should hold, and the object it is of: its number, which is never used again.
struct Entry {
    held: Held,
    expected: Vec<u8>,
    object: usize,
}

struct World {
    heap: Heap,
    pool: Pool,
    entries: Vec<Entry>,
    /// Where each object that should be live lies, and how long it is.
    objects: BTreeMap<usize, (usize, usize)>,
    /// Objects that were dropped as remote buffers and are not known to be home yet.
    returning: Vec<usize>,
    /// How many are.
    drained: u64,
    high_water: usize,
    next: usize,
}

impl World {
    fn new() -> Self {
        let heap = crate::heap(REGION);
        let pool = heap.pool(STRIDE, 20).unwrap();
        let (entries, objects, returning) = Default::default();
        Self { heap, pool, entries, objects, returning, drained: 0, high_water: 0, next: 0 }
    }

    fn adopt(&mut self, mut buf: BufMut) {
        let object = self.next;
        self.next += 1;
        self.note_returns();
        buf.fill(object as u8);
        self.objects.insert(object, (buf.offset(), buf.capacity()));
        let expected = vec![object as u8; buf.len()];
        self.entries.push(Entry { held: Held::Unique(buf), expected, object });
        self.high_water = self.high_water.max(self.bytes());
    }

    fn bytes(&self) -> usize {
        self.objects.values().map(|&(_, len)| len).sum()
    }

    /// A drain takes all that is on its way home, and may happen in any allocation.
    fn note_returns(&mut self) {
        let came_home = self.heap.stats().remote_frees - self.drained;
        if came_home > 0 {
            assert_eq!(came_home, self.returning.len() as u64);
            self.drained += came_home;
            for object in self.returning.drain(..) {
                self.objects.remove(&object);
            }
        }
    }

    fn forget(&mut self, object: usize) {
        if self.entries.iter().all(|entry| entry.object != object) {
            self.objects.remove(&object);
        }
    }

    fn apply(&mut self, step: Step) {
        let count = self.entries.len();
        let index = |at: usize| (count > 0).then(|| at % count.max(1));
        match step {
            Step::Alloc(len) => match self.heap.alloc(len) {
                Ok(buf) => {
                    assert_eq!(buf.len(), len);
                    self.adopt(buf);
                }
                Err(error) => assert_eq!(error.requested, len),
            },
            Step::Take => match self.pool.take() {
                Some(buf) => self.adopt(buf),
                None => assert_eq!(self.pool.available(), 0),
            },
            Step::Write(at, value) => {
                let Some(entry) = index(at).map(|at| &mut self.entries[at]) else { return };
                if let Held::Unique(buf) = &mut entry.held {
                    buf.fill(value);
                    entry.expected.fill(value);
                }
            }
            Step::Freeze(at) => self.replace(index(at), |held| match held {
                Held::Unique(buf) => Held::Shared(buf.freeze()),
                other => other,
            }),
            Step::Thaw(at) => self.replace(index(at), |held| match held {
                Held::Shared(buf) => buf.try_into_mut().map_or_else(Held::Shared, Held::Unique),
                other => other,
            }),
            Step::Send(at) => self.replace(index(at), |held| match held {
                Held::Shared(buf) => buf.into_remote().map_or_else(Held::Shared, Held::Away),
                other => other,
            }),
            Step::Return(at) => {
                let heap = self.heap.clone();
                self.replace(index(at), |held| match held {
                    Held::Away(buf) => Held::Shared(buf.into_local(&heap).unwrap()),
                    other => other,
                });
            }
            Step::Clone(at) => self.derive(index(at), |bytes| 0..bytes),
            Step::Slice(at, start, end) => self.derive(index(at), |bytes| {
                let end = end % (bytes + 1);
                start % (end + 1)..end
            }),
            Step::Split(at, count) => {
                let Some(entry) = index(at).map(|at| &mut self.entries[at]) else { return };
                let count = count % (entry.expected.len() + 1);
                let held = match &mut entry.held {
                    Held::Unique(buf) => Held::Unique(buf.split_to(count)),
                    Held::Shared(buf) => Held::Shared(buf.split_to(count)),
                    Held::Away(_) => return,
                };
                let object = entry.object;
                let expected = entry.expected.drain(..count).collect();
                self.entries.push(Entry { held, expected, object });
            }
            Step::DropElsewhere(at) => {
                let away = |at: &usize| matches!(self.entries[*at].held, Held::Away(_));
                let Some(at) = index(at).filter(away) else { return };
                let Entry { held: Held::Away(buf), object, .. } = self.entries.swap_remove(at) else {
                    return;
                };
                thread::spawn(move || drop(buf)).join().unwrap();
                self.returning.push(object);
            }
            Step::Drain => {
                assert_eq!(self.heap.drain_remote(), self.returning.len());
                self.note_returns();
            }
            Step::Drop(at) => {
                let Some(at) = index(at) else { return };
                let Entry { held, object, .. } = self.entries.swap_remove(at);
                if let Held::Away(buf) = held {
                    drop(buf);
                    self.returning.push(object);
                } else {
                    drop(held);
                    self.forget(object);
                }
            }
        }
    }

    fn replace(&mut self, at: Option<usize>, change: impl FnOnce(Held) -> Held) {
        let Some(at) = at else { return };
        let Entry { held, expected, object } = self.entries.swap_remove(at);
        self.entries.push(Entry { held: change(held), expected, object });
    }

    fn derive(&mut self, at: Option<usize>, range: impl FnOnce(usize) -> std::ops::Range<usize>) {
        let Some(entry) = at.map(|at| &self.entries[at]) else { return };
        let Held::Shared(buf) = &entry.held else { return };
        let range = range(buf.len());
        let (held, object) = (Held::Shared(buf.slice(range.clone())), entry.object);
        self.entries.push(Entry { held, expected: entry.expected[range].to_vec(), object });
    }

    /// Everything that can be known from outside.
    fn check(&mut self) {
        self.note_returns();
        for Entry { held, expected, object } in &self.entries {
            assert!(held.bytes() == expected, "object {object} holds what it should");
            let (offset, len) = self.objects[object];
            let ptr = held.bytes().as_ptr();
            match held {
                // An empty range may lie at the end of its object, where another begins.
                _ if expected.is_empty() => {}
                Held::Away(_) => assert_eq!(self.heap.find(ptr), None),
                Held::Unique(_) | Held::Shared(_) => {
                    let found = self.heap.find(ptr.wrapping_add(expected.len() - 1)).expect("it is live");
                    assert_eq!((found.offset, found.capacity), (offset, len));
                }
            }
        }
        let mut ranges: Vec<_> = self.objects.values().collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "objects do not overlap");
        assert!(ranges.last().is_none_or(|last| last.0 + last.1 <= REGION));

        let stats = self.heap.stats();
        assert_eq!((stats.objects_live, stats.bytes_live), (self.objects.len(), self.bytes()));
        assert_eq!(stats.bytes_high_water, self.high_water);
        let used: usize =
            stats.classes.iter().chain([&stats.large, &stats.pools]).map(|bin| bin.superblocks).sum();
        assert_eq!(used + stats.superblocks_free, stats.superblocks);
    }

    fn finish(mut self) {
        self.entries.clear();
        self.heap.drain_remote();
        let stats = self.heap.stats();
        assert_eq!((stats.objects_live, stats.bytes_live, self.pool.available()), (0, 0, 20));
        drop(self.pool);
        assert_eq!(self.heap.alloc(REGION).expect("all of it is free again").capacity(), REGION);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 96 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_the_oracle(steps in prop::collection::vec(step(), 1..if cfg!(miri) { 60 } else { 250 })) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
            world.check();
        }
        world.finish();
    }
}
