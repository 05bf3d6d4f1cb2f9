//! Making an image, opening one, and closing it.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::Heap;
use demi_api::slab::Slab;
use demi_api::token::Completions;

use super::io::Io;
use super::recover::{self, Found};
use super::{Counters, Policy, Space, Store};
use crate::device::{BlockDevice, Command};
use crate::format::{Checkpoint, Damage, Geometry, GeometryError, SUPERBLOCK_LEN, Superblock};
use crate::log::Log;

/// How to make an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MakeOptions {
    /// Bytes of a block.
    pub block_size: usize,
    /// Bytes of a segment; `None`: about a thousandth of the device.
    pub segment_size: Option<usize>,
}

impl Default for MakeOptions {
    fn default() -> MakeOptions {
        MakeOptions { block_size: 4096, segment_size: None }
    }
}

/// Why an image cannot be opened or made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is none.
    #[error("there are no logs on the device yet: make them with `make = true`, or with `demi-fsck --make`")]
    Blank,
    /// There is something else.
    #[error("the device holds something, but no logs ({0}); `demi-fsck --make --force` would overwrite it")]
    Foreign(Damage),
    /// There are logs already.
    #[error("there are logs on the device already; `demi-fsck --make --force` would overwrite them")]
    Exists,
    /// A length is impossible.
    #[error("the image does not fit the device: {0}")]
    Geometry(#[from] GeometryError),
    /// The device takes too little at a time.
    #[error("the device takes {most} bytes at a time, but batches need {least}: choose a smaller block size")]
    Transfer {
        /// What it takes.
        most: usize,
        /// What is needed.
        least: usize,
    },
    /// The device writes more than a block at a time.
    #[error(
        "the image has blocks of {image} bytes and the device of {device}: it needs a device of smaller blocks"
    )]
    BlockSize {
        /// The image's.
        image: usize,
        /// The device's.
        device: usize,
    },
    /// No checkpoint can be read.
    #[error("checkpoint {number} is damaged ({damage}): `demi-fsck --repair` rebuilds it from the segments")]
    Checkpoint {
        /// The newest that was complete.
        number: u64,
        /// What is wrong with it.
        damage: Damage,
    },
    /// What was acknowledged is not there.
    #[error(
        "log {log:?} is damaged at position {position}: an acknowledged element is not as it was written; look at it with demi-fsck"
    )]
    Log {
        /// The log's name.
        log: String,
        /// Where.
        position: u64,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(#[from] Error),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Device(error) => error,
            other => Error::Config(other.to_string()),
        }
    }
}

/// Makes an image. What was on the device is lost, as far as it is overwritten.
pub(crate) fn make(
    device: Box<dyn BlockDevice>,
    heap: &Heap,
    options: MakeOptions,
    rng: &mut fastrand::Rng,
) -> Result<Box<dyn BlockDevice>, OpenError> {
    let caps = device.caps();
    if caps.read_only {
        return Err(OpenError::Device(Error::ReadOnly));
    }
    if options.block_size < caps.block_size {
        return Err(OpenError::BlockSize { image: options.block_size, device: caps.block_size });
    }
    check_transfer(caps.max_transfer, options.block_size)?;
    let geometry = Geometry::plan(caps.capacity, options.block_size, options.segment_size)?;
    let mut identity = [0; 16];
    rng.fill(&mut identity);
    let superblock = Superblock { geometry, identity, generation: 0, checkpoint: 0 };
    let checkpoint = Checkpoint {
        identity: superblock.identity_half(),
        epoch: 1,
        next_sequence: 1,
        set_aside: (0..geometry.reserve).collect(),
        ..Checkpoint::default()
    };
    let mut io = Io::new(device);
    io.write(heap, 0, &vec![0; 2 * geometry.block_size])?;
    let mut bytes = vec![0; geometry.block_up(checkpoint.len())];
    checkpoint.emit(&mut bytes, superblock.seed());
    io.write(heap, geometry.checkpoint_at(0), &bytes)?;
    // The other area may hold a checkpoint of an image that was here before.
    io.write(heap, geometry.checkpoint_at(1), &vec![0; geometry.block_size])?;
    let mut bytes = vec![0; geometry.block_size];
    superblock.emit(&mut bytes);
    io.write(heap, geometry.superblock_at(0), &bytes)?;
    Ok(io.device)
}

/// A batch has a head, a gap before a payload, and a payload.
fn check_transfer(most: usize, block_size: usize) -> Result<(), OpenError> {
    let least = 4 * block_size;
    if most < least { Err(OpenError::Transfer { most, least }) } else { Ok(()) }
}

/// Whether there is an image on a device, for one who has only the device.
pub(crate) fn look_at(
    device: Box<dyn BlockDevice>,
    heap: &Heap,
) -> (Box<dyn BlockDevice>, Result<Superblock, OpenError>) {
    let mut io = Io::new(device);
    let found = look(&mut io, heap);
    (io.device, found)
}

/// Whether there is an image on a device, and which.
pub(crate) fn look(io: &mut Io, heap: &Heap) -> Result<Superblock, OpenError> {
    let least = io.caps().block_size.max(SUPERBLOCK_LEN);
    let unit = io.caps().block_size;
    let first = io.read(heap, 0, least.next_multiple_of(unit))?;
    let mut found = Superblock::parse(&first);
    // Where slot 1 is depends on the block size, which slot 0 would say.
    for shift in 9..=16 {
        let at = 1_u64 << shift;
        if at < unit as u64 || at + unit as u64 > io.caps().capacity {
            continue;
        }
        let Ok(slot) = Superblock::parse(&io.read(heap, at, unit)?) else { continue };
        let known = found.as_ref().ok();
        let agrees =
            known.is_none_or(|known| known.geometry == slot.geometry && known.identity == slot.identity);
        if slot.geometry.block_size as u64 == at
            && agrees
            && known.is_none_or(|known| known.generation < slot.generation)
        {
            found = Ok(slot);
        }
    }
    let superblock = found.map_err(|damage| match damage {
        Damage::Blank => OpenError::Blank,
        other => OpenError::Foreign(other),
    })?;
    superblock.geometry.check(io.caps().capacity)?;
    if superblock.geometry.block_size < unit {
        return Err(OpenError::BlockSize { image: superblock.geometry.block_size, device: unit });
    }
    check_transfer(io.caps().max_transfer, superblock.geometry.block_size)?;
    Ok(superblock)
}

impl Store {
    /// Opens the image on a device: finds out what was acknowledged, and makes it ready for more.
    pub(crate) fn open(
        device: Box<dyn BlockDevice>,
        heap: &Heap,
        policy: Policy,
    ) -> Result<Store, OpenError> {
        let began = std::time::Instant::now();
        let mut io = Io::new(device);
        let superblock = look(&mut io, heap)?;
        let Found { checkpoint, logs } = recover::find(&mut io, heap, &superblock)?;
        let (geometry, read_only) = (superblock.geometry, io.caps().read_only);
        let mut used = vec![false; geometry.segments as usize];
        for segment in logs.iter().flat_map(|log| &log.segments) {
            used[segment.index as usize] = true;
        }
        let allowed: VecDeque<u32> =
            checkpoint.set_aside.iter().copied().filter(|index| !used[*index as usize]).collect();
        allowed.iter().for_each(|index| used[*index as usize] = true);
        let free = (0..geometry.segments).filter(|index| !used[*index as usize]).collect();
        let taken =
            logs.iter().flat_map(|log| &log.segments).map(|segment| segment.sequence + 1).max().unwrap_or(0);
        let next_sequence = checkpoint.next_sequence.max(taken) + u64::from(geometry.reserve);
        let mut store = Store {
            io,
            heap: heap.clone(),
            geometry,
            superblock: Superblock { checkpoint: checkpoint.number, ..superblock },
            seed: superblock.seed(),
            policy,
            read_only,
            space: Space::new(allowed, free, next_sequence, geometry.reserve),
            logs: Slab::new(),
            names: Default::default(),
            next_log: checkpoint.next_log,
            epoch: checkpoint.epoch.checked_add(1).ok_or(OpenError::Device(Error::NoSpace))?,
            readers: Slab::new(),
            marked: Vec::new(),
            saving: None,
            save_failed: None,
            unnamed: false,
            held: false,
            calls: Vec::new(),
            counters: Counters::default(),
        };
        for entry in &logs {
            let log = Log::new(entry, store.epoch);
            let key = store.logs.insert(log);
            store.names.insert(entry.name.clone(), key);
        }
        if !read_only {
            // What was read may be in the device's memory only.
            store.io.run(heap, [Command::Flush])?;
            store.alone(|store, cx| store.save(cx, false))?;
        }
        store.counters.recovery_us = began.elapsed().as_micros() as u64;
        Ok(store)
    }

    /// Carries out a control call where there is no instance.
    fn alone<T>(&mut self, call: impl FnOnce(&mut Store, &mut Cx<'_>) -> T) -> T {
        let (heap, mut rng, mut done) = (self.heap.clone(), fastrand::Rng::with_seed(0), Completions::new(1));
        let mut cx = Cx { heap: &heap, now: Default::default(), rng: &mut rng, done: &mut done };
        call(self, &mut cx)
    }

    /// Writes what was pushed, and a checkpoint that says that nothing follows.
    fn shut(&mut self, cx: &mut Cx<'_>) -> Result<(), Error> {
        let keys: Vec<_> = self.names.values().copied().collect();
        self.readers = Slab::new();
        for key in &keys {
            let log = self.log(*key)?;
            log.is_orphan = true;
            log.at_end.clear();
        }
        for key in keys {
            self.quiet(cx, key)?;
        }
        self.save(cx, true)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.read_only {
            // Whoever wants to know of a failure waits for his pushes: nobody is left to be told now. What was acknowledged is
            // found by the next opening all the same.
            let _unheard = self.alone(Store::shut);
        }
    }
}
