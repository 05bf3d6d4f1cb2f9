//! What can go wrong, by when: making a heap, allocating from it, registering it with a device.

use std::io;

/// Why a heap could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    /// More than a slot index can address. Configure a smaller region, or several instances.
    #[error("a heap of {size} bytes is larger than the {max} bytes that can be addressed")]
    TooLarge {
        /// Bytes asked for.
        size: usize,
        /// Bytes at most.
        max: usize,
    },
    /// The address space could not be reserved.
    #[error("cannot map {size} bytes: {source}")]
    Map {
        /// Bytes asked for.
        size: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// Huge pages were required and there are too few of them: raise `vm.nr_hugepages`, or do not require them.
    #[error("cannot map {size} bytes of reserved huge pages: {source}")]
    HugePages {
        /// Bytes asked for.
        size: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// The pages could not be made resident: there is not that much memory.
    #[error("cannot make {size} bytes resident: {source}")]
    Populate {
        /// Bytes asked for.
        size: usize,
        /// The system's answer.
        source: io::Error,
    },
}

/// No free memory of the size asked for. Nothing has changed; it may succeed once buffers are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of buffer memory: {requested} bytes requested, {free} bytes not in use")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub requested: usize,
    /// Bytes of the region that no live object holds. When there are more of them than `requested`, they lie in
    /// superblocks of other classes or pools, or are not contiguous.
    pub free: usize,
}

/// Why a region could not be registered with a device.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    /// The heap is attached to as many devices as it can be; detach one.
    #[error("a heap can be registered with at most {0} devices")]
    TooMany(usize),
    /// The device, or its driver, refused.
    #[error("the device refused the region: {0}")]
    Refused(#[from] io::Error),
}
