//! The common pool: which superblocks have no purpose at present. One bit each, so that neighbours coalesce by lying
//! next to each other.
//!
//! Invariant: no word before `hint` has a bit set. Single superblocks are taken from the low end and runs from the
//! high end, which keeps the middle contiguous.

use super::{BlockIx, Run};
use std::cell::Cell;

const BITS: u32 = u64::BITS;

pub(crate) struct Vacant {
    words: Box<[Cell<u64>]>,
    /// The first word that may have a bit set.
    hint: Cell<usize>,
    count: Cell<u32>,
}

impl Vacant {
    /// All of `count` superblocks, vacant.
    pub(crate) fn new(count: u32) -> Self {
        let words = (0..count.div_ceil(BITS)).map(|_| Cell::new(0)).collect();
        let vacant = Self { words, hint: Cell::new(0), count: Cell::new(0) };
        vacant.put(Run { head: BlockIx(0), len: count });
        vacant
    }

    /// How many superblocks are vacant.
    pub(crate) fn count(&self) -> u32 {
        self.count.get()
    }

    pub(crate) fn put(&self, run: Run) {
        for BlockIx(at) in run.blocks() {
            let word = &self.words[(at / BITS) as usize];
            debug_assert_eq!(word.get() & bit(at), 0, "superblock {at} is vacant already");
            word.set(word.get() | bit(at));
        }
        self.hint.set(self.hint.get().min((run.head.0 / BITS) as usize));
        self.count.set(self.count.get() + run.len);
    }

    /// The lowest vacant superblock. Cost: amortised O(1), at worst a look at each 64 superblocks.
    pub(crate) fn take_one(&self) -> Option<Run> {
        let words = &self.words[self.hint.get()..];
        let skipped = words.iter().position(|word| word.get() != 0);
        self.hint.set(self.hint.get() + skipped.unwrap_or(words.len()));
        let word = &words[skipped?];
        let at = self.hint.get() as u32 * BITS + word.get().trailing_zeros();
        Some(self.take(at, 1))
    }

    /// The highest run of `len` vacant superblocks. Cost: a look at each run that there is.
    pub(crate) fn take_run(&self, len: u32) -> Option<Run> {
        let mut end = self.words.len() as u32 * BITS;
        loop {
            end = self.last_below(end, 0)? + 1;
            let start = self.last_below(end, u64::MAX).map_or(0, |at| at + 1);
            if end - start >= len {
                return Some(self.take(end - len, len));
            }
            end = start;
        }
    }

    fn take(&self, head: u32, len: u32) -> Run {
        let run = Run { head: BlockIx(head), len };
        for BlockIx(at) in run.blocks() {
            let word = &self.words[(at / BITS) as usize];
            word.set(word.get() & !bit(at));
        }
        self.count.set(self.count.get() - len);
        run
    }

    /// The last superblock below `end` that is vacant (`flip` is zero) or taken (`flip` is all ones).
    fn last_below(&self, end: u32, flip: u64) -> Option<u32> {
        let mut end = end;
        while end > 0 {
            let at = (end - 1) / BITS;
            let below = u64::MAX >> (BITS - (end - at * BITS));
            let word = (self.words[at as usize].get() ^ flip) & below;
            if word != 0 {
                return Some(at * BITS + word.ilog2());
            }
            end = at * BITS;
        }
        None
    }
}

fn bit(at: u32) -> u64 {
    1 << (at % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(head: u32, len: u32) -> Run {
        Run { head: BlockIx(head), len }
    }

    #[test]
    fn singles_come_from_below_and_runs_from_above() {
        let vacant = Vacant::new(130);
        assert_eq!(vacant.take_one(), Some(run(0, 1)));
        assert_eq!(vacant.take_run(70), Some(run(60, 70)));
        assert_eq!(vacant.take_run(60), None);
        assert_eq!(vacant.take_run(59), Some(run(1, 59)));
        assert_eq!((vacant.take_one(), vacant.take_run(1), vacant.count()), (None, None, 0));
    }

    #[test]
    fn neighbours_coalesce() {
        let vacant = Vacant::new(200);
        while vacant.take_one().is_some() {}
        for at in (0..200).rev().step_by(2).chain((0..200).step_by(2)) {
            vacant.put(run(at, 1));
        }
        assert_eq!(vacant.take_run(200), Some(run(0, 200)));
    }

    #[test]
    fn agrees_with_a_list_of_flags() {
        let mut rng = fastrand::Rng::with_seed(7);
        let vacant = Vacant::new(150);
        let mut flags = [true; 150];
        for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
            let len = rng.u32(1..20);
            if rng.bool() {
                let expected =
                    (0..=150 - len).rev().find(|&at| flags[at as usize..][..len as usize].iter().all(|&f| f));
                assert_eq!(vacant.take_run(len), expected.map(|at| run(at, len)));
                expected.into_iter().for_each(|at| flags[at as usize..][..len as usize].fill(false));
            } else if rng.bool() {
                let expected = flags.iter().position(|&flag| flag);
                assert_eq!(vacant.take_one(), expected.map(|at| run(at as u32, 1)));
                expected.into_iter().for_each(|at| flags[at] = false);
            } else {
                for (at, flag) in (0..).zip(&mut flags).skip(rng.usize(0..130)) {
                    if !*flag && rng.bool() {
                        vacant.put(run(at, 1));
                        *flag = true;
                    }
                }
            }
            assert_eq!(vacant.count() as usize, flags.iter().filter(|&&flag| flag).count());
        }
    }
}
