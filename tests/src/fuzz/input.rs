//! Bytes as a source of decisions. When they are used up, everything is zero.

/// What is left of an input.
#[derive(Clone, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn half(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(super) fn word(&mut self) -> u32 {
        u32::from(self.half()) << 16 | u32::from(self.half())
    }

    /// A number of a few bytes that is small more often than not, and may be any.
    pub(super) fn offset(&mut self) -> u32 {
        match self.byte() {
            small @ 0..128 => small.into(),
            small @ 128..224 => (i32::from(small) - 224).cast_unsigned(),
            scale @ 224..248 => {
                let value = i32::from(self.byte().cast_signed());
                (value << (scale - 224)).cast_unsigned()
            }
            _ => self.word(),
        }
    }

    /// At most `most` bytes.
    pub(super) fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes whose number stands before them.
    pub(super) fn run(&mut self) -> &'a [u8] {
        let len = self.byte().into();
        self.take(len)
    }
}
