//! Whether a request is one that a device allows.

use demi_api::error::Error;

use super::{Caps, Command};

impl Caps {
    /// Refuses what goes beyond these: ranges, sizes, segments and alignment. Whether the device may be written to is
    /// not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the first rule that is broken.
    pub fn check(&self, command: &Command) -> Result<(), Error> {
        match command {
            Command::Read { offset, into } => {
                self.check_range(*offset, into.len() as u64)?;
                self.check_transfer(into.len())?;
                self.check_address(into)
            }
            Command::Write { offset, data, .. } => {
                self.check_range(*offset, data.len() as u64)?;
                self.check_transfer(data.len())?;
                if data.segments().len() > self.max_segments {
                    return Err(Error::Invalid("a write has more segments than the device takes"));
                }
                for segment in data.segments() {
                    if segment.len() % self.block_size != 0 {
                        return Err(Error::Invalid("a segment of a write is not whole blocks"));
                    }
                    self.check_address(segment)?;
                }
                Ok(())
            }
            Command::Flush => Ok(()),
            Command::Discard { offset, len } => self.check_range(*offset, *len),
        }
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), Error> {
        let block = self.block_size as u64;
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(Error::Invalid("a request is not for whole blocks"));
        }
        if len == 0 {
            return Err(Error::Invalid("a request is for no block"));
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(Error::Invalid("a request goes beyond the end of the device")),
        }
    }

    fn check_transfer(&self, len: usize) -> Result<(), Error> {
        if len > self.max_transfer {
            return Err(Error::Invalid("a request is for more than the device transfers at once"));
        }
        Ok(())
    }

    fn check_address(&self, bytes: &[u8]) -> Result<(), Error> {
        if !bytes.as_ptr().addr().is_multiple_of(self.memory_align) {
            return Err(Error::Invalid("a buffer's address is not a multiple of the device's alignment"));
        }
        Ok(())
    }
}
