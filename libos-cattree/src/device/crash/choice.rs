//! Which of the writes in doubt are there, and in which order they came.

/// One of the images that a loss of power can leave. Printed when a test fails on it, and enough to make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is there.
    pub pattern: Pattern,
    /// Where writes overlap, the one that was submitted first comes last, if nothing forbids it.
    pub reversed: bool,
}

/// What is there of the writes in doubt. They are numbered from 0, in the order of submission; so are their units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// The units whose bits are set, counted over all writes.
    Units(u64),
    /// One write alone.
    Only(usize),
    /// All but one.
    Without(usize),
    /// Of one write the first half; of the others all or nothing.
    Front(usize, bool),
    /// Of one write the second half; of the others all or nothing.
    Back(usize, bool),
    /// Everything but one unit of one write.
    Hole(usize, usize),
    /// Something, by chance.
    Chance(u64),
}

/// How many images to make at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// If there are no more subsets than this, all of them. Default 64.
    pub exhaustive: usize,
    /// Otherwise as many by chance, besides the extremes. Default 16.
    pub samples: usize,
}

impl Default for Bound {
    fn default() -> Bound {
        Bound { exhaustive: 64, samples: 16 }
    }
}

/// The choices for writes of these numbers of units.
pub(super) fn choices(
    units: &[usize],
    overlapping: bool,
    bound: &Bound,
    rng: &mut fastrand::Rng,
) -> Vec<Choice> {
    let total: usize = units.iter().sum();
    let mut patterns = Vec::new();
    if total < 63 && 1usize << total <= bound.exhaustive {
        patterns.extend((0..1u64 << total).map(Pattern::Units));
    } else {
        patterns.extend([Pattern::None, Pattern::All]);
        for (write, count) in units.iter().copied().enumerate() {
            if units.len() > 1 {
                patterns.extend([Pattern::Only(write), Pattern::Without(write)]);
            }
            if count > 1 {
                for others in [false, true] {
                    patterns.extend([Pattern::Front(write, others), Pattern::Back(write, others)]);
                }
                let mut holes = vec![0, rng.usize(..count), count - 1];
                holes.dedup();
                patterns.extend(holes.into_iter().map(|unit| Pattern::Hole(write, unit)));
            }
        }
        patterns.extend((0..bound.samples).map(|_| Pattern::Chance(rng.u64(..))));
    }
    let orders: &[bool] = if overlapping { &[false, true] } else { &[false] };
    let ordered = |pattern| orders.iter().map(move |reversed| Choice { pattern, reversed: *reversed });
    patterns.into_iter().flat_map(ordered).collect()
}

impl Pattern {
    /// Which units are there, for each of the writes.
    pub(super) fn select(self, units: &[usize]) -> Vec<Vec<bool>> {
        let mut rng = fastrand::Rng::with_seed(if let Pattern::Chance(seed) = self { seed } else { 0 });
        let mut before = 0;
        let select = |(write, count): (usize, &usize)| {
            let (count, first) = (*count, before);
            before += count;
            let each = |there: &mut dyn FnMut(usize) -> bool| (0..count).map(there).collect::<Vec<bool>>();
            match self {
                Pattern::None => vec![false; count],
                Pattern::All => vec![true; count],
                Pattern::Units(bits) => each(&mut |unit| bits >> (first + unit) & 1 == 1),
                Pattern::Only(which) => vec![write == which; count],
                Pattern::Without(which) => vec![write != which; count],
                Pattern::Front(which, _) if write == which => each(&mut |unit| unit < count / 2),
                Pattern::Back(which, _) if write == which => each(&mut |unit| unit >= count / 2),
                Pattern::Front(_, others) | Pattern::Back(_, others) => vec![others; count],
                Pattern::Hole(which, hole) => each(&mut |unit| write != which || unit != hole),
                Pattern::Chance(_) => {
                    let edge = rng.usize(..=count);
                    match rng.u8(..6) {
                        0 => vec![false; count],
                        1 | 2 => vec![true; count],
                        3 => each(&mut |unit| unit < edge),
                        4 => each(&mut |unit| unit >= edge),
                        _ => each(&mut |_| rng.bool()),
                    }
                }
            }
        };
        units.iter().enumerate().map(select).collect()
    }
}
