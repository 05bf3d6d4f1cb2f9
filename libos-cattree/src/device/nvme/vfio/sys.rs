//! Requests to VFIO (`linux/vfio.h`), which no safe wrapper offers.
//!
//! Invariant: whatever the kernel reads or writes through an address in an argument is alive and large enough for as
//! long as the call lasts. What it keeps is the promise of [`map_dma`], which its caller keeps.

use std::ffi::{CStr, c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use demi_api::fd::Fd;
use rustix::io::{Errno, Result};

/// `_IO(';', 100 + number)`.
const fn request(number: c_ulong) -> c_ulong {
    0x3b << 8 | (100 + number)
}

const GET_API_VERSION: c_ulong = request(0);
const CHECK_EXTENSION: c_ulong = request(1);
const SET_IOMMU: c_ulong = request(2);
const GROUP_GET_STATUS: c_ulong = request(3);
const GROUP_SET_CONTAINER: c_ulong = request(4);
const GROUP_GET_DEVICE_FD: c_ulong = request(6);
const DEVICE_GET_REGION_INFO: c_ulong = request(8);
const DEVICE_GET_IRQ_INFO: c_ulong = request(9);
const DEVICE_SET_IRQS: c_ulong = request(10);
const IOMMU_MAP_DMA: c_ulong = request(13);
const IOMMU_UNMAP_DMA: c_ulong = request(14);

const API_VERSION: c_long = 0;
const TYPE1_IOMMU: c_ulong = 1;
const TYPE1V2_IOMMU: c_ulong = 3;

const GROUP_VIABLE: u32 = 1;
const REGION_READ_WRITE_MMAP: u32 = 0b111;
const DMA_READ_WRITE: u32 = 0b11;
const IRQ_EVENTFD: u32 = 1;
const IRQ_DATA_EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;

#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

#[repr(C)]
struct IrqInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    count: u32,
}

#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    descriptor: i32,
}

#[repr(C)]
struct DmaMapping {
    argsz: u32,
    flags: u32,
    address: u64,
    iova: u64,
    size: u64,
}

#[repr(C)]
struct DmaUnmapping {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// A part of a device that can be read or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Where it is in the device's descriptor.
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Whether it can be read, written and mapped.
    pub(super) can_be_mapped: bool,
}

/// Whether the container speaks our version, and translates for devices.
pub(super) fn is_type1(container: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: these requests take numbers.
    let version = unsafe { ioctl(container, GET_API_VERSION, 0) }?;
    // SAFETY: as above.
    Ok(version == API_VERSION && unsafe { ioctl(container, CHECK_EXTENSION, TYPE1_IOMMU) }? == 1)
}

/// Whether all devices of the group are in user space's hands.
pub(super) fn is_viable(group: BorrowedFd<'_>) -> Result<bool> {
    let mut status = GroupStatus { argsz: size::<GroupStatus>(), flags: 0 };
    // SAFETY: the kernel reads and writes this live structure, `argsz` bytes at most.
    unsafe { ioctl(group, GROUP_GET_STATUS, address(&raw mut status)) }?;
    Ok(status.flags & GROUP_VIABLE != 0)
}

/// Puts the group's devices behind the container's translation.
pub(super) fn join(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let number = container.as_raw_fd();
    // SAFETY: the kernel reads a descriptor's number at this address.
    unsafe { ioctl(group, GROUP_SET_CONTAINER, address(&raw const number)) }.map(drop)
}

/// Switches the container's translation on, once a group has joined.
pub(super) fn set_type1(container: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: these requests take numbers.
    let second = unsafe { ioctl(container, CHECK_EXTENSION, TYPE1V2_IOMMU) } == Ok(1);
    let model = if second { TYPE1V2_IOMMU } else { TYPE1_IOMMU };
    // SAFETY: as above.
    unsafe { ioctl(container, SET_IOMMU, model) }.map(drop)
}

/// Opens a device of the group, which resets it.
pub(super) fn open_device(group: BorrowedFd<'_>, name: &CStr) -> Result<Fd> {
    // SAFETY: the kernel reads a string up to its zero.
    let number = unsafe { ioctl(group, GROUP_GET_DEVICE_FD, address(name.as_ptr())) }?;
    // SAFETY: the request has just opened this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) }.into())
}

/// Where a part of the device is.
pub(super) fn region(device: BorrowedFd<'_>, index: u32) -> Result<Region> {
    let argsz = size::<RegionInfo>();
    let mut info = RegionInfo { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
    // SAFETY: the kernel reads and writes this live structure, `argsz` bytes at most.
    unsafe { ioctl(device, DEVICE_GET_REGION_INFO, address(&raw mut info)) }?;
    let can_be_mapped = info.flags & REGION_READ_WRITE_MMAP == REGION_READ_WRITE_MMAP;
    Ok(Region { offset: info.offset, size: info.size, can_be_mapped })
}

/// How many interrupts of a kind the device has that can be had by an eventfd.
pub(super) fn interrupts(device: BorrowedFd<'_>, index: u32) -> Result<u32> {
    let mut info = IrqInfo { argsz: size::<IrqInfo>(), flags: 0, index, count: 0 };
    // SAFETY: as above.
    unsafe { ioctl(device, DEVICE_GET_IRQ_INFO, address(&raw mut info)) }?;
    Ok(if info.flags & IRQ_EVENTFD != 0 { info.count } else { 0 })
}

/// Has the first interrupt of a kind counted in an eventfd, or nowhere.
pub(super) fn set_interrupt(device: BorrowedFd<'_>, index: u32, event: Option<BorrowedFd<'_>>) -> Result<()> {
    let descriptor = event.map_or(-1, |event| event.as_raw_fd());
    let argsz = size::<IrqSet>();
    let set = IrqSet { argsz, flags: IRQ_DATA_EVENTFD_TRIGGER, index, start: 0, count: 1, descriptor };
    // SAFETY: the kernel reads this live structure, `argsz` bytes, the last of which are `count` descriptors.
    unsafe { ioctl(device, DEVICE_SET_IRQS, address(&raw const set)) }.map(drop)
}

/// Lets the container's devices reach `size` bytes at `memory`, as `iova`. The kernel holds the pages, whatever becomes
/// of their mapping, until they are unmapped or the container is closed: devices may write to them until then.
pub(super) fn map_dma(container: BorrowedFd<'_>, memory: u64, iova: u64, size_: u64) -> Result<()> {
    let argsz = size::<DmaMapping>();
    let mapping = DmaMapping { argsz, flags: DMA_READ_WRITE, address: memory, iova, size: size_ };
    // SAFETY: the kernel reads this live structure. It touches no memory at `memory`: it looks the pages up, and refuses
    // what is not mapped.
    unsafe { ioctl(container, IOMMU_MAP_DMA, address(&raw const mapping)) }.map(drop)
}

/// Takes memory from the container's devices.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size_: u64) -> Result<()> {
    let mut mapping = DmaUnmapping { argsz: size::<DmaUnmapping>(), flags: 0, iova, size: size_ };
    // SAFETY: the kernel reads this live structure, and writes the size back to it.
    unsafe { ioctl(container, IOMMU_UNMAP_DMA, address(&raw mut mapping)) }.map(drop)
}

/// # Safety
/// What the request wants as an argument: a number, or the address of live memory as large as it reads and writes.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: c_ulong, argument: u64) -> Result<c_long> {
    // SAFETY: the descriptor is open; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, argument) };
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
