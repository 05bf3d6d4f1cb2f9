//! A device's way to the heap, which goes by no buffer.

use demi_api::memalloc::RegionInfo;

/// Copies from the heap.
pub(super) fn read(region: &RegionInfo, offset: usize, into: &mut [u8]) {
    assert!(offset + into.len() <= region.len, "a device reads beyond the heap");
    // SAFETY: the bytes lie in the region, which is mapped and initialised for as long as the test's heap lives. The test
    // has one thread, and holds no reference to buffers that are the device's.
    unsafe { region.base.add(offset).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
}

/// Copies to the heap.
pub(super) fn write(region: &RegionInfo, offset: usize, from: &[u8]) {
    assert!(offset + from.len() <= region.len, "a device writes beyond the heap");
    // SAFETY: as above.
    unsafe { region.base.cast_mut().add(offset).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
}
