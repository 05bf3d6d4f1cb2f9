//! Checking and mending images that no instance has open.
//!
//! Invariants: checking writes nothing. Whatever an image holds, memory is bounded by a segment and by what its checkpoint may list, and
//! time by its size. Mending writes a new checkpoint, and copies of parts of segments in free ones: no block that holds an
//! acknowledged record is written to, so a mending that is broken off can be done again.
//!
//! | file | what it holds |
//! |---|---|
//! | `survey` | which checkpoint counts, and which logs there are |
//! | `rebuild` | the same without a checkpoint, from the heads of segments |
//! | `walk` | along one log, over what is damaged |
//! | `check` | all of it, as a report |
//! | `report` | [`Report`] |
//! | `mend` | what is written |

mod check;
mod mend;
mod rebuild;
mod report;
mod survey;
mod walk;

use std::ops::ControlFlow;

use demi_api::error::Error;
use demi_api::memalloc::Heap;

pub use self::check::Checked;
pub use self::mend::Ends;
pub use self::report::{Finding, LogReport, Report, Run, Severity, Summary};
pub use self::walk::Piece;
use crate::device::BlockDevice;
use crate::format::{Checkpoint, Damage, Header, Superblock};
use crate::store::io::Io;
use crate::store::recover::checkpoint_in;
pub use crate::store::scan::Fault;
use crate::store::{MakeOptions, OpenError, Policy, Store, open};

/// An image on a device that nobody else has open.
pub struct Image {
    io: Io,
    heap: Heap,
}

impl Image {
    /// The image on a device. Nothing is read yet. Buffers come from `heap`, 8 MiB of it at the most.
    pub fn new(device: Box<dyn BlockDevice>, heap: &Heap) -> Image {
        Image { io: Io::new(device), heap: heap.clone() }
    }

    /// Gives the device back.
    pub fn into_device(self) -> Box<dyn BlockDevice> {
        self.io.device
    }

    /// The superblock that counts.
    pub fn superblock(&mut self) -> Result<Superblock, OpenError> {
        open::look(&mut self.io, &self.heap)
    }

    /// What is in a slot of the superblock.
    pub fn slot(&mut self, superblock: &Superblock, slot: u64) -> Result<Result<Superblock, Damage>, Error> {
        let geometry = &superblock.geometry;
        let bytes = self.io.read(&self.heap, geometry.superblock_at(slot), geometry.block_size)?;
        Ok(Superblock::parse(&bytes))
    }

    /// What is in a checkpoint area.
    pub fn area(
        &mut self,
        superblock: &Superblock,
        area: u64,
    ) -> Result<Result<Checkpoint, Damage>, OpenError> {
        checkpoint_in(&mut self.io, &self.heap, superblock, area)
    }

    /// Reads whole blocks.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.io.read(&self.heap, offset, len)
    }

    /// Makes an image: what was on the device is lost. `force`: also if there is an image, or anything else.
    ///
    /// # Errors
    /// [`OpenError::Exists`] or [`OpenError::Foreign`] if there is something, and what is wrong with the sizes.
    pub fn make(
        device: Box<dyn BlockDevice>,
        heap: &Heap,
        options: MakeOptions,
        force: bool,
        rng: &mut fastrand::Rng,
    ) -> Result<Superblock, OpenError> {
        let (device, found) = open::look_at(device, heap);
        match found {
            Err(error @ OpenError::Device(_)) => return Err(error),
            Err(OpenError::Blank) => {}
            _ if force => {}
            Ok(_) => return Err(OpenError::Exists),
            Err(error) => return Err(error),
        }
        let mut image = Image::new(device, heap);
        if !force && !image.begins_blank()? {
            return Err(OpenError::Foreign(Damage::Magic));
        }
        let device = open::make(image.into_device(), heap, options, rng)?;
        Image::new(device, heap).superblock()
    }

    /// Whether the first bytes are zero, up to where file systems have their superblocks.
    fn begins_blank(&mut self) -> Result<bool, Error> {
        let unit = self.io.caps().block_size;
        let len = usize::try_from(self.io.caps().capacity).unwrap_or(usize::MAX).min(1 << 20);
        let bytes = self.read(0, len / unit * unit)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    /// Opens the image as an instance does, and closes it in order, which writes both slots and both checkpoint areas anew.
    pub fn open_and_close(self) -> Result<(), OpenError> {
        let policy = Policy { refer_from: usize::MAX, copy_up_to: 0 };
        Store::open(self.io.device, &self.heap, policy).map(drop)
    }

    /// Shows the elements of a log from a position on, piece by piece, with what is damaged between them.
    pub fn elements(
        &mut self,
        checked: &Checked,
        log: usize,
        from: u64,
        visit: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        checked.elements(&mut self.io, &self.heap, log, from, visit)
    }

    /// Shows the headers of all records of a log, with their positions and where they are on the device.
    pub fn headers(
        &mut self,
        checked: &Checked,
        log: usize,
        visit: &mut dyn FnMut(u64, u64, &Header) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        checked.headers(&mut self.io, &self.heap, log, visit)
    }
}
