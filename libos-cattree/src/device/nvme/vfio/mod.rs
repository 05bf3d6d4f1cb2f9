//! A controller in user space's hands, by the kernel's VFIO (`Documentation/driver-api/vfio.rst`).
//!
//! Invariants: the device reaches what is mapped in its container, and nothing else. Memory is mapped at most until its
//! mapping in this process ends. A process that dies leaves the device reset and without memory, which the kernel
//! sees to.

mod find;
mod sys;

use std::cell::RefCell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{DmaError, DmaKey, DmaMap, RegionInfo};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread, pwrite};

use super::config::NvmeConfig;
use super::raw::Window;
use super::regs::{CAP, Capabilities, Hardware};

/// Regions and kinds of interrupts of PCI devices (`linux/vfio.h`).
const BAR0: u32 = 0;
const CONFIGURATION: u32 = 7;
const MSI: u32 = 1;
const MSIX: u32 = 2;

/// The command register of PCI devices, with its bits.
const PCI_COMMAND: u64 = 4;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// Registers that are mapped at least: those before the doorbells, and two queues' doorbells.
const REGISTERS: usize = 0x2000;

/// Where a heap is, as the device sees it: behind all that it could be told of otherwise.
pub(super) const HEAP_IOVA: u64 = 1 << 32;

/// A translation of its own.
#[derive(Debug)]
struct Container {
    fd: Fd,
    /// Without a group there is no translation, and nothing to unmap.
    _group: Fd,
    /// What is mapped: where, and how much.
    mapped: RefCell<Vec<(u64, u64)>>,
}

impl Container {
    fn map(&self, memory: u64, iova: u64, len: u64) -> rustix::io::Result<()> {
        sys::map_dma(self.fd.as_fd(), memory, iova, len)?;
        self.mapped.borrow_mut().push((iova, len));
        Ok(())
    }

    fn unmap(&self, iova: u64) -> rustix::io::Result<()> {
        let mut mapped = self.mapped.borrow_mut();
        let Some(at) = mapped.iter().position(|(at, _)| *at == iova) else { return Ok(()) };
        sys::unmap_dma(self.fd.as_fd(), iova, mapped[at].1)?;
        mapped.swap_remove(at);
        Ok(())
    }

    fn unmap_all(&self) -> rustix::io::Result<()> {
        while let Some((iova, _)) = self.mapped.borrow().last().copied() {
            self.unmap(iova)?;
        }
        Ok(())
    }
}

/// An opened controller.
#[derive(Debug)]
pub(super) struct Vfio {
    // In the order in which they must go.
    device: Fd,
    registers: Window,
    container: Rc<Container>,
    shared: Vec<(u64, Rc<Window>)>,
    configuration: u64,
    /// Which kind of interrupts it has, if any.
    interrupts: Option<u32>,
}

impl Vfio {
    /// Opens the controller, which resets it.
    ///
    /// # Errors
    /// [`Error::Config`], with what to do.
    pub(super) fn open(config: &NvmeConfig) -> Result<Vfio, Error> {
        let group_number = find::group(config)?;
        let access = OFlags::RDWR | OFlags::CLOEXEC;
        let container = open("/dev/vfio/vfio", access, Mode::empty()).map_err(|errno| {
            config.failed(format_args!("/dev/vfio/vfio cannot be opened: {errno}; load vfio-pci"))
        })?;
        let container = Fd::from(container);
        let path = format!("/dev/vfio/{group_number}");
        let group = open(&path, access, Mode::empty()).map_err(|errno| {
            config.failed(match errno {
                Errno::BUSY => format!("{path} is in use: another process or instance has the device"),
                Errno::ACCESS | Errno::PERM => {
                    format!("{path} may not be opened: run as root, or `chown` it")
                }
                errno => format!("{path} cannot be opened: {errno}"),
            })
        })?;
        let group = Fd::from(group);
        let failed = |what: &str, errno: Errno| config.failed(format_args!("{what}: {errno}"));
        if !sys::is_type1(container.as_fd()).map_err(|errno| failed("VFIO does not answer", errno))? {
            return Err(config.failed("VFIO has no type 1 IOMMU: `modprobe vfio_iommu_type1`"));
        }
        if !sys::is_viable(group.as_fd()).map_err(|errno| failed("VFIO does not answer", errno))? {
            return Err(config.failed(find::not_viable(group_number)));
        }
        sys::join(group.as_fd(), container.as_fd())
            .and_then(|()| sys::set_type1(container.as_fd()))
            .map_err(|errno| match errno {
                Errno::PERM => config.failed(
                    "the IOMMU does not remap interrupts, so that a device could send any; if it is trusted, \
                     `modprobe vfio_iommu_type1 allow_unsafe_interrupts=1`",
                ),
                errno => failed("the IOMMU cannot be set up", errno),
            })?;
        let name = CString::new(config.address.as_str())
            .map_err(|_| config.failed("`address` holds a zero byte"))?;
        let device = sys::open_device(group.as_fd(), &name)
            .map_err(|errno| failed("the device cannot be opened", errno))?;
        let registers = map_registers(device.as_fd())
            .map_err(|error| config.failed(format_args!("its registers cannot be mapped: {error}")))?;
        let configuration = sys::region(device.as_fd(), CONFIGURATION)
            .map_err(|errno| failed("it has no configuration space", errno))?
            .offset;
        let has = |kind: &u32| sys::interrupts(device.as_fd(), *kind).is_ok_and(|count| count > 0);
        let interrupts = [MSIX, MSI].into_iter().find(has);
        let container = Rc::new(Container { fd: container, _group: group, mapped: RefCell::default() });
        Ok(Vfio { device, registers, container, shared: Vec::new(), configuration, interrupts })
    }

    /// What registers a heap with the device.
    pub(super) fn heap_map(&self) -> Box<dyn DmaMap> {
        Box::new(HeapMap(Rc::clone(&self.container)))
    }

    /// Whether it can interrupt.
    pub(super) fn has_interrupts(&self) -> bool {
        self.interrupts.is_some()
    }

    /// Has its interrupts counted in an eventfd, or nowhere.
    pub(super) fn set_interrupt(&self, event: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        let kind = self.interrupts.ok_or(Errno::NODEV)?;
        sys::set_interrupt(self.device.as_fd(), kind, event)
    }

    fn set_bus_master(&self, on: bool) -> rustix::io::Result<()> {
        let at = self.configuration + PCI_COMMAND;
        let mut bytes = [0; 2];
        exactly(pread(&self.device, &mut bytes, at)?)?;
        let before = u16::from_le_bytes(bytes);
        let after = if on { before | MEMORY | BUS_MASTER } else { before & !BUS_MASTER };
        exactly(pwrite(&self.device, &after.to_le_bytes(), at)?)
    }
}

/// The registers and the first doorbells, as far as the device says that they go.
fn map_registers(device: BorrowedFd<'_>) -> io::Result<Window> {
    let region = sys::region(device, BAR0)?;
    if !region.can_be_mapped || region.size < REGISTERS as u64 {
        return Err(io::Error::other("BAR 0 is no region of registers"));
    }
    let window = Window::of_device(device, region.offset, REGISTERS)?;
    let low = u64::from(window.read32(CAP));
    let capabilities = Capabilities::parse(low | u64::from(window.read32(CAP + 4)) << 32);
    // With doorbells far apart, the ones of the first queue lie behind.
    let end = (capabilities.head_doorbell(1) + 4).next_multiple_of(REGISTERS);
    if end <= REGISTERS || end as u64 > region.size {
        return Ok(window);
    }
    Ok(Window::of_device(device, region.offset, end)?)
}

fn exactly(count: usize) -> rustix::io::Result<()> {
    if count == 2 { Ok(()) } else { Err(Errno::IO) }
}

impl Hardware for Vfio {
    #[inline]
    fn read(&self, at: usize) -> u32 {
        self.registers.read32(at)
    }

    #[inline]
    fn write(&self, at: usize, value: u32) {
        self.registers.write32(at, value);
    }

    fn len(&self) -> usize {
        self.registers.len()
    }

    fn share(&mut self, memory: &Rc<Window>, iova: u64) -> io::Result<()> {
        self.container.map(memory.address(), iova, memory.len() as u64)?;
        self.shared.push((iova, Rc::clone(memory)));
        Ok(())
    }

    fn set_dma(&self, allowed: bool) -> io::Result<()> {
        match self.set_bus_master(allowed) {
            // A device that cannot be asked is kept from memory by the IOMMU.
            Err(_) if !allowed => Ok(self.container.unmap_all()?),
            result => Ok(result?),
        }
    }
}

impl Drop for Vfio {
    fn drop(&mut self) {
        for (iova, memory) in self.shared.drain(..) {
            if self.container.unmap(iova).is_err() {
                // The device may still write there.
                std::mem::forget(memory);
            }
        }
    }
}

/// A heap's registration with the device.
struct HeapMap(Rc<Container>);

impl DmaMap for HeapMap {
    fn register(&mut self, region: &RegionInfo) -> Result<DmaKey, DmaError> {
        let memory = region.base.expose_provenance() as u64;
        self.0.map(memory, HEAP_IOVA, region.len as u64).map_err(io::Error::from)?;
        Ok(DmaKey(HEAP_IOVA))
    }

    fn unregister(&mut self, key: DmaKey) {
        // The kernel holds the pages until the container is closed, so that no one else's can be written to.
        if let Err(errno) = self.0.unmap(key.0) {
            tracing::warn!(%errno, "a heap cannot be taken from an NVMe controller");
        }
    }
}
