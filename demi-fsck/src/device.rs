//! The device that the image is on, and the heap for its buffers.

use demi_api::Error;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_libos_cattree::device::BlockDevice;
use demi_libos_cattree::device::nvme::{Nvme, NvmeConfig};
use demi_libos_cattree::device::uring::{Uring, UringConfig};
use demi_libos_cattree::fsck::Image;

use crate::args::Args;

/// Bytes for buffers of a check.
const HEAP: usize = 32 << 20;

/// A heap of its own: small, and not locked.
pub(crate) fn heap() -> anyhow::Result<Heap> {
    Ok(Heap::new(&HeapConfig { size: HEAP, huge_pages: HugePages::Never, lock: false })?)
}

/// The image, to be read or to be written as well.
pub(crate) fn image(args: &Args, heap: &Heap, writes: bool) -> anyhow::Result<Image> {
    Ok(Image::new(open(args, heap, writes)?, heap))
}

/// The device. Past the page cache if the file system can.
pub(crate) fn open(args: &Args, heap: &Heap, writes: bool) -> Result<Box<dyn BlockDevice>, Error> {
    if let Some(address) = &args.target.nvme {
        let config =
            NvmeConfig { address: address.clone(), namespace: args.namespace, ..NvmeConfig::default() };
        return Ok(Box::new(Nvme::open(heap, &config)?));
    }
    let path = args.target.image.clone().unwrap_or_default();
    if args.size.is_none() && matches!(path.try_exists(), Ok(false)) {
        return Err(Error::Config("there is no such file: `--make --size BYTES` makes one".into()));
    }
    let config = UringConfig { path, read_only: !writes, size: args.size, ..UringConfig::default() };
    let device = match Uring::open(heap, &config) {
        Ok(device) => device,
        Err(direct) => {
            let buffered = UringConfig { direct: false, ..config };
            Uring::open(heap, &buffered).map_err(|_| direct)?
        }
    };
    Ok(Box::new(device))
}
