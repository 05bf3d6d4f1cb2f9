//! Tokens: the names of operations that are outstanding or unreaped.

mod side;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::table::Completions;
pub(crate) use self::table::Owner;

/// Names one operation of one instance: slot and 32-bit generation. Zero is never a token. It has the representation of
/// the number, so that an array of numbers from C is one of tokens.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QToken(u64);

impl QToken {
    fn new(slot: u32, generation: u32) -> QToken {
        QToken(u64::from(generation) << 32 | u64::from(slot))
    }

    /// The number behind the token.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// A token from any number: an allegation, checked at its first use.
    pub fn from_raw(raw: u64) -> QToken {
        QToken(raw)
    }

    /// Names no operation, and is the name of none.
    const NONE: QToken = QToken(0);

    /// The token of the same slot under its next generation; [`QToken::NONE`], if it has had its last.
    #[inline]
    fn following(self) -> QToken {
        self.0.checked_add(1 << 32).map_or(QToken::NONE, QToken)
    }

    /// Where its operation stands in the instance's table: a small number, which no other token has while this one
    /// is valid. For those who keep something beside each operation.
    #[inline]
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for QToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.slot(), self.generation())
    }
}

impl fmt::Debug for QToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {self}")
    }
}
