//! Making an image.

use std::io::{self, Write};

use demi_api::Error;
use demi_libos_cattree::fsck::Image;
use demi_libos_cattree::{MakeOptions, OpenError};

use crate::args::Args;
use crate::{Outcome, device};

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    // Whatever can be seen to be wrong is seen before a file is made.
    if !args.block_size.is_power_of_two() || !(512..=65536).contains(&args.block_size) {
        return Err(Error::Invalid("--block-size must be a power of two from 512 to 65536").into());
    }
    let device = device::open(args, &heap, true)?;
    let options = MakeOptions { block_size: args.block_size, segment_size: args.segment_size };
    let superblock = Image::make(device, &heap, options, args.force, &mut fastrand::Rng::new())
        .map_err(|error| with_advice(&error))?;
    let geometry = superblock.geometry;
    writeln!(
        io::stdout().lock(),
        "made: {} segments of {} bytes, blocks of {} bytes, at most {} logs",
        geometry.segments,
        geometry.segment_size,
        geometry.block_size,
        geometry.max_logs
    )?;
    Ok(Outcome::Clean)
}

/// The library's advice is to use this program.
fn with_advice(error: &OpenError) -> anyhow::Error {
    match error {
        OpenError::Exists => anyhow::anyhow!("there are logs already; `--force` overwrites them"),
        OpenError::Foreign(_) => {
            anyhow::anyhow!("there is something else already; `--force` overwrites it")
        }
        other => anyhow::anyhow!("{other}"),
    }
}
