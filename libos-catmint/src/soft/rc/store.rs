//! The bytes that were copied when work was posted: heads, and what goes inline. A ring, as work ends in the order in
//! which it was posted.
//!
//! Invariant: what a [`Piece`] names lies still and in one piece until the piece is released, and pieces are released in the
//! order in which they were stored.

/// The ring.
#[derive(Debug)]
pub(super) struct Store {
    bytes: Box<[u8]>,
    /// Where the next piece goes.
    head: usize,
    /// Bytes in use, those included that were left at the end because a piece did not fit there.
    used: usize,
}

/// Names stored bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece {
    at: u32,
    len: u32,
    /// Bytes that were left before it.
    skipped: u32,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Store {
        Store { bytes: vec![0; capacity].into_boxed_slice(), head: 0, used: 0 }
    }

    /// Room for `len` bytes, to be filled. `None` if there is none.
    #[inline]
    pub(super) fn put(&mut self, len: usize) -> Option<(Piece, &mut [u8])> {
        let fits = self.head + len <= self.bytes.len();
        let (at, skipped) = if fits { (self.head, 0) } else { (0, self.bytes.len() - self.head) };
        if self.used + skipped + len > self.bytes.len() {
            return None;
        }
        self.head = at + len;
        self.used += skipped + len;
        let piece = Piece { at: at as u32, len: len as u32, skipped: skipped as u32 };
        Some((piece, &mut self.bytes[at..at + len]))
    }

    /// The bytes of the oldest piece are needed no more.
    #[inline]
    pub(super) fn release(&mut self, piece: Piece) {
        self.used -= (piece.len + piece.skipped) as usize;
        if self.used == 0 {
            self.head = 0;
        }
    }

    #[inline]
    pub(super) fn get(&self, piece: Piece) -> &[u8] {
        &self.bytes[piece.at as usize..(piece.at + piece.len) as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn pieces_lie_still_until_they_are_released() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut store = Store::new(300);
        let mut pieces: VecDeque<(Piece, u8)> = VecDeque::new();
        let mut refused = 0;
        for number in 0..100_000_u32 {
            if rng.u8(..5) < 2 {
                if let Some((piece, _)) = pieces.pop_front() {
                    store.release(piece);
                }
            } else {
                match store.put(rng.usize(..100)) {
                    Some((piece, bytes)) => {
                        bytes.fill(number as u8);
                        pieces.push_back((piece, number as u8));
                    }
                    None => {
                        let held: usize = pieces.iter().map(|(piece, _)| store.get(*piece).len()).sum();
                        assert!(held > 300 - 2 * 99, "{held} bytes are held");
                        refused += 1;
                    }
                }
            }
            assert!(pieces.iter().all(|(piece, byte)| store.get(*piece).iter().all(|have| have == byte)));
        }
        assert!(refused > 1000);
        while let Some((piece, _)) = pieces.pop_front() {
            store.release(piece);
        }
        assert_eq!(store.put(300).unwrap().1.len(), 300);
    }
}
