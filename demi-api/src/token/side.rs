//! A table of values beside the slots, for what only some of them have.

/// Values by small index, without a hole's cost: freed indices are reused last-in first-out.
#[derive(Debug)]
pub(super) struct Side<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Side<T> {
    fn default() -> Side<T> {
        Side { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Side<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.values[index as usize] = Some(value);
            return index;
        }
        self.values.push(Some(value));
        (self.values.len() - 1) as u32
    }

    pub(super) fn take(&mut self, index: u32) -> T {
        self.free.push(index);
        self.values[index as usize].take().expect("a slot refers to a value it has put here")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        self.values[index as usize].as_mut().expect("a slot refers to a value it has put here")
    }
}
