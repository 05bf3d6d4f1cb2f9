//! Things by key: index and generation, so that an event for one that has gone finds nothing. For libOSes.

/// Names an entry of one [`Slab`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Never the key of an entry.
    pub const NONE: Key = Key { index: u32::MAX, generation: u32::MAX };

    /// The number behind the key, to be given back by a kernel or a device.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// A key from any number: an allegation, checked at its use.
    pub fn from_u64(raw: u64) -> Key {
        Key { index: raw as u32, generation: (raw >> 32) as u32 }
    }
}

/// Entries by [`Key`]. A place is used again under its next generation.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty slab.
    pub const fn new() -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new() }
    }

    /// Takes a value in and names it.
    pub fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            (self.entries.len() - 1) as u32
        });
        let (generation, entry) = &mut self.entries[index as usize];
        *entry = Some(value);
        Key { index, generation: *generation }
    }

    /// Takes the value out, if it is still there.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, entry) = self.entries.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = entry.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// The value, if it is still there.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let (generation, entry) = self.entries.get(key.index as usize)?;
        if *generation == key.generation { entry.as_ref() } else { None }
    }

    /// The value, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, entry) = self.entries.get_mut(key.index as usize)?;
        if *generation == key.generation { entry.as_mut() } else { None }
    }

    /// Every value with its key, to be changed.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.entries.iter_mut().enumerate().filter_map(|(index, (generation, entry))| {
            let key = Key { index: index as u32, generation: *generation };
            Some((key, entry.as_mut()?))
        })
    }

    /// Takes all values out, for good: keys of before may then name others.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.free.clear();
        self.entries.drain(..).filter_map(|(_, entry)| entry)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(Key::from_u64(second.to_u64()), second);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.get(Key::NONE), None);
        assert_eq!(slab.entries_mut().collect::<Vec<_>>(), [(second, &mut 'b')]);
    }
}
