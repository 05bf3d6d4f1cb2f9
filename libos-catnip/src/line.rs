//! A queue in which there is mostly one thing at a time, and in most of many queues none: the first lies in place, and only
//! those behind it take memory elsewhere.
//!
//! Invariant: nothing lies behind a place that is empty.

use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Line<T> {
    first: Option<T>,
    #[expect(clippy::box_collection, reason = "a pointer where there is mostly nothing")]
    others: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line { first: None, others: None }
    }
}

impl<T> Line<T> {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline]
    pub(crate) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    #[inline]
    pub(crate) fn push_back(&mut self, item: T) {
        match self.first {
            None => self.first = Some(item),
            Some(_) => self.push_other(item),
        }
    }

    #[inline(never)]
    fn push_other(&mut self, item: T) {
        self.others.get_or_insert_default().push_back(item);
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let first = self.first.take();
        if self.others.is_some() {
            self.move_up();
        }
        first
    }

    #[inline(never)]
    fn move_up(&mut self) {
        self.first = self.others.as_mut().and_then(|others| others.pop_front());
    }

    /// Takes out the first that `is_it` is true of.
    pub(crate) fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        if self.first.as_ref().is_some_and(&is_it) {
            return self.pop_front();
        }
        let others = self.others.as_mut()?;
        let place = others.iter().position(is_it)?;
        others.remove(place)
    }

    /// Takes all out, in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let others = self.others.take();
        self.first.take().into_iter().chain(others.into_iter().flat_map(|others| *others))
    }

    /// Keeps no more memory than it needs.
    pub(crate) fn rest(&mut self) {
        if self.others.as_ref().is_some_and(|others| others.is_empty()) {
            self.others = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The oracle is an ordinary queue.
        #[test]
        fn order_is_that_of_a_queue(steps in prop::collection::vec((0..6u8, 0..8u32), 0..100)) {
            let (mut line, mut queue) = (Line::default(), VecDeque::new());
            for (next, (step, which)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => {
                        line.push_back(next);
                        queue.push_back(next);
                    }
                    3 => prop_assert_eq!(line.pop_front(), queue.pop_front()),
                    4 => {
                        let wanted = queue.get(which as usize).copied();
                        prop_assert_eq!(line.remove(|item| Some(*item) == wanted), wanted);
                        queue.retain(|item| Some(*item) != wanted);
                    }
                    _ if which == 0 => prop_assert!(line.drain().eq(queue.drain(..))),
                    _ => line.rest(),
                }
                prop_assert_eq!((line.is_empty(), line.front()), (queue.is_empty(), queue.front()));
            }
        }
    }
}
