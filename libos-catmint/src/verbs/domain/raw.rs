//! The objects of libibverbs that all others hang on: context, protection domain, memory regions and windows.
//!
//! Invariants: each is made once and destroyed once, after whatever hangs on it, which the counts see to. What a device
//! may reach lies still for as long as its registration lives: the promise of whoever registers it.

use std::ffi::{CStr, c_int};
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::{Errno, Result};

use crate::verbs::cm::raw::Shape;
use crate::verbs::completions::raw::CompletionQueue;
use crate::verbs::receives::raw::SharedQueue;

/// The only port that is used.
pub(in crate::verbs) const PORT: u8 = 1;

/// What went wrong in the call before, of those that say so by `errno`.
pub(in crate::verbs) fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Of those that return it.
pub(in crate::verbs) fn checked(code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.abs())) }
}

/// A device as librdmacm has opened it for this process, with a protection domain on it.
pub(in crate::verbs) struct Domain {
    all: *mut *mut ib::ibv_context,
    pub(in crate::verbs) context: NonNull<ib::ibv_context>,
    pub(in crate::verbs) pd: NonNull<ib::ibv_pd>,
    /// The same device, opened for its events alone: those of the other are shared by all of the process.
    watch: NonNull<ib::ibv_context>,
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Limits {
    pub(in crate::verbs) completions: u32,
    pub(in crate::verbs) receives: u32,
    pub(in crate::verbs) send_depth: u32,
    pub(in crate::verbs) queue_pairs: u32,
    pub(in crate::verbs) reads: u8,
    pub(in crate::verbs) message: usize,
    pub(in crate::verbs) windows: bool,
    /// Whether it has atomic operations, and whether they are also atomic towards the processor's.
    pub(in crate::verbs) atomics: (bool, bool),
}

/// What its port has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::verbs) enum PortEvent {
    Down,
    Up,
    Fatal,
    Other,
}

impl Domain {
    /// Opens the device of that name, or the first with an active port.
    pub(in crate::verbs) fn open(wanted: &str) -> Result<Rc<Domain>> {
        // SAFETY: no argument. Before anything is registered, as it demands; where the kernel copies registered pages for a
        // child, which it has done since 5.12, this does nothing.
        checked(unsafe { ib::ibv_fork_init() })?;
        let mut count = 0;
        // SAFETY: the count is written to a place that lives.
        let all = unsafe { ib::rdma_get_devices(&mut count) };
        if all.is_null() {
            return Err(last());
        }
        let mut found = None;
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the list has `count` entries.
            let Some(context) = NonNull::new(unsafe { *all.add(at) }) else { continue };
            // SAFETY: librdmacm keeps each context open while the list is held; the name is a string in its device.
            let name = unsafe { CStr::from_ptr(ib::ibv_get_device_name((*context.as_ptr()).device)) };
            let suits = if wanted.is_empty() {
                has_active_port(context)
            } else {
                name.to_bytes() == wanted.as_bytes()
            };
            if suits {
                found = Some(context);
                break;
            }
        }
        let Some(context) = found else {
            // SAFETY: the list is given back once, and nothing of it is kept.
            unsafe { ib::rdma_free_devices(all) };
            return Err(Errno::NODEV);
        };
        // SAFETY: the context is open, as above.
        let opened =
            unsafe { (ib::ibv_alloc_pd(context.as_ptr()), ib::ibv_open_device((*context.as_ptr()).device)) };
        let (Some(pd), Some(watch)) = (NonNull::new(opened.0), NonNull::new(opened.1)) else {
            let errno = last();
            // SAFETY: what was made is undone, each once, and is not used any more.
            unsafe {
                if !opened.0.is_null() {
                    ib::ibv_dealloc_pd(opened.0);
                }
                if !opened.1.is_null() {
                    ib::ibv_close_device(opened.1);
                }
                ib::rdma_free_devices(all);
            }
            return Err(errno);
        };
        let domain = Domain { all, context, pd, watch };
        set_nonblocking(domain.watch_fd())?;
        Ok(Rc::new(domain))
    }

    pub(in crate::verbs) fn name(&self) -> String {
        // SAFETY: the context is open for as long as `self`, and the name lies in its device.
        let name = unsafe { CStr::from_ptr(ib::ibv_get_device_name((*self.context.as_ptr()).device)) };
        name.to_string_lossy().into_owned()
    }

    pub(in crate::verbs) fn limits(&self) -> Result<Limits> {
        let mut device = MaybeUninit::<ib::ibv_device_attr>::zeroed();
        // SAFETY: the context is open; all of the attributes are numbers, for which zeroes will do.
        let device = unsafe {
            checked(ib::ibv_query_device(self.context.as_ptr(), device.as_mut_ptr()))?;
            device.assume_init()
        };
        let port = port(self.context)?;
        let flags = ib::ibv_device_cap_flags(device.device_cap_flags);
        let windows = ib::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A
            | ib::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B;
        let number = |number: c_int| u32::try_from(number).unwrap_or(0);
        Ok(Limits {
            completions: number(device.max_cqe),
            receives: number(device.max_srq_wr),
            send_depth: number(device.max_qp_wr),
            queue_pairs: number(device.max_qp),
            reads: device.max_qp_init_rd_atom.min(device.max_qp_rd_atom).clamp(1, 16) as u8,
            message: port.max_msg_sz as usize,
            windows: flags & windows != ib::ibv_device_cap_flags(0) && device.max_mw > 0,
            atomics: (
                device.atomic_cap != ib::ibv_atomic_cap::IBV_ATOMIC_NONE,
                device.atomic_cap == ib::ibv_atomic_cap::IBV_ATOMIC_GLOB,
            ),
        })
    }

    /// The addresses of its port: of RoCE, those of its network interface.
    pub(in crate::verbs) fn addresses(&self) -> Vec<IpAddr> {
        let count = port(self.context).map_or(0, |port| port.gid_tbl_len).min(255);
        let gids = (0..count).filter_map(|index| self.gid(index));
        // SAFETY: an address is sixteen bytes, whichever view of it is taken.
        let mut all: Vec<_> = gids
            .map(|gid| IpAddr::from(Ipv6Addr::from(unsafe { gid.raw })).to_canonical())
            .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .collect();
        all.dedup();
        all
    }

    /// An entry of the port's address table, if there is one.
    pub(in crate::verbs) fn gid(&self, index: c_int) -> Option<ib::ibv_gid> {
        let mut gid = MaybeUninit::<ib::ibv_gid>::zeroed();
        // SAFETY: the context is open; an address is sixteen bytes, for which zeroes will do.
        unsafe {
            if ib::ibv_query_gid(self.context.as_ptr(), PORT, index, gid.as_mut_ptr()) != 0 {
                return None;
            }
            let gid = gid.assume_init();
            (gid.raw != [0; 16]).then_some(gid)
        }
    }

    /// Whether queue pairs of that shape can be made.
    pub(in crate::verbs) fn can_make(
        &self,
        completions: &CompletionQueue,
        receives: &SharedQueue,
        shape: Shape,
    ) -> bool {
        let mut attributes = shape.attributes(completions, Some(receives));
        // SAFETY: domain and queues live; the queue pair is destroyed at once.
        unsafe {
            let qp = ib::ibv_create_qp(self.pd.as_ptr(), &mut attributes);
            !qp.is_null() && ib::ibv_destroy_qp(qp) == 0
        }
    }

    pub(in crate::verbs) fn is_active(&self) -> bool {
        has_active_port(self.context)
    }

    /// Readable when [`port_event`](Domain::port_event) has something.
    pub(in crate::verbs) fn watch_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the context, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw((*self.watch.as_ptr()).async_fd) }
    }

    /// The next event of the device or its port.
    pub(in crate::verbs) fn port_event(&self) -> Option<PortEvent> {
        let mut event = MaybeUninit::<ib::ibv_async_event>::zeroed();
        // SAFETY: the context is open, and the descriptor does not block. The event is only looked at if there is one, and
        // acknowledged once; its type is read as a number, for a newer library may have more of them than are known here.
        let kind = unsafe {
            if ib::ibv_get_async_event(self.watch.as_ptr(), event.as_mut_ptr()) != 0 {
                return None;
            }
            let kind = (&raw const (*event.as_ptr()).event_type).cast::<u32>().read();
            ib::ibv_ack_async_event(event.as_mut_ptr());
            kind
        };
        const DOWN: u32 = ib::ibv_event_type::IBV_EVENT_PORT_ERR as u32;
        const UP: u32 = ib::ibv_event_type::IBV_EVENT_PORT_ACTIVE as u32;
        const FATAL: u32 = ib::ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32;
        Some(match kind {
            DOWN => PortEvent::Down,
            UP => PortEvent::Up,
            FATAL => PortEvent::Fatal,
            _ => PortEvent::Other,
        })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: everything on the domain holds a count of it, so nothing is left; each is given back once.
        unsafe {
            ib::ibv_dealloc_pd(self.pd.as_ptr());
            ib::ibv_close_device(self.watch.as_ptr());
            ib::rdma_free_devices(self.all);
        }
    }
}

pub(in crate::verbs) fn port(context: NonNull<ib::ibv_context>) -> Result<ib::ibv_port_attr> {
    let mut port = MaybeUninit::<ib::ibv_port_attr>::zeroed();
    // SAFETY: the context is open; all of the attributes are numbers, for which zeroes will do.
    unsafe {
        checked(ib::___ibv_query_port(context.as_ptr(), PORT, port.as_mut_ptr()))?;
        Ok(port.assume_init())
    }
}

fn has_active_port(context: NonNull<ib::ibv_context>) -> bool {
    port(context).is_ok_and(|port| port.state == ib::ibv_port_state::IBV_PORT_ACTIVE)
}

pub(in crate::verbs) fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)
}

/// Memory that the device may reach.
pub(in crate::verbs) struct Registration {
    mr: NonNull<ib::ibv_mr>,
    _domain: Rc<Domain>,
}

/// How memory may be reached.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::verbs) struct Rights {
    pub(in crate::verbs) window: bool,
    pub(in crate::verbs) remote_read: bool,
    pub(in crate::verbs) remote_write: bool,
    pub(in crate::verbs) remote_atomic: bool,
}

impl Registration {
    /// Lets the device read and write `len` bytes from `base` for as long as this lives; peers as the rights say. They must
    /// stay mapped meanwhile.
    pub(in crate::verbs) fn new(
        domain: &Rc<Domain>,
        base: *const u8,
        len: usize,
        rights: Rights,
    ) -> Result<Registration> {
        let mut access = ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        for (wanted, right) in [
            (rights.window, ib::ibv_access_flags::IBV_ACCESS_MW_BIND),
            (rights.remote_read, ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ),
            (rights.remote_write, ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE),
            (rights.remote_atomic, ib::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC),
        ] {
            if wanted {
                access |= right;
            }
        }
        // SAFETY: the domain lives; the kernel checks the range, and pins what is mapped there.
        let mr =
            unsafe { ib::ibv_reg_mr(domain.pd.as_ptr(), base.cast_mut().cast(), len, access.0 as c_int) };
        Ok(Registration { mr: NonNull::new(mr).ok_or_else(last)?, _domain: Rc::clone(domain) })
    }

    /// The key for this side.
    pub(in crate::verbs) fn local(&self) -> u32 {
        // SAFETY: the region lives as long as `self`.
        unsafe { (*self.mr.as_ptr()).lkey }
    }

    /// The key for peers, if they have rights.
    pub(in crate::verbs) fn remote(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.mr.as_ptr()).rkey }
    }

    pub(in crate::verbs) fn as_ptr(&self) -> *mut ib::ibv_mr {
        self.mr.as_ptr()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: given back once. If the device does not let go of it, it stays registered, and pinned by the kernel.
        let code = unsafe { ib::ibv_dereg_mr(self.mr.as_ptr()) };
        if code != 0 {
            tracing::warn!(code, "a device keeps memory that was registered with it");
        }
    }
}

/// A memory window of type 2: it is bound to a part of a registration by work on a queue pair, for whose peer alone it then
/// is.
pub(in crate::verbs) struct Window {
    mw: NonNull<ib::ibv_mw>,
    _domain: Rc<Domain>,
}

impl Window {
    pub(in crate::verbs) fn new(domain: &Rc<Domain>) -> Result<Rc<Window>> {
        // SAFETY: the domain lives.
        let mw = unsafe { ib::ibv_alloc_mw(domain.pd.as_ptr(), ib::ibv_mw_type::IBV_MW_TYPE_2) };
        let mw = mw.and_then(NonNull::new).ok_or_else(last)?;
        Ok(Rc::new(Window { mw, _domain: Rc::clone(domain) }))
    }

    /// The key that the next binding is to have: of its 32 bits the last eight are the user's.
    pub(in crate::verbs) fn next_key(&self) -> u32 {
        // SAFETY: the window lives as long as `self`.
        let key = unsafe { (*self.mw.as_ptr()).rkey };
        key & !0xff | key.wrapping_add(1) & 0xff
    }

    /// Notes the key of a binding that was posted, by which the device finds the window the next time.
    pub(in crate::verbs) fn set_key(&self, key: u32) {
        // SAFETY: the window lives as long as `self`, and nobody holds a reference into it.
        unsafe { (*self.mw.as_ptr()).rkey = key };
    }

    pub(in crate::verbs) fn as_ptr(&self) -> *mut ib::ibv_mw {
        self.mw.as_ptr()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: given back once.
        let code = unsafe { ib::ibv_dealloc_mw(self.mw.as_ptr()) };
        if code != 0 {
            tracing::warn!(code, "a device keeps a memory window");
        }
    }
}

/// Whether all bytes of a C type being zero is a value of it, as it is of those here: numbers and raw pointers.
pub(in crate::verbs) trait Plain: Sized {
    /// That value.
    fn zeroed() -> Self {
        // SAFETY: the implementors below consist of numbers and raw pointers only.
        unsafe { mem::zeroed() }
    }
}

impl Plain for ib::ibv_qp_attr {}
impl Plain for ib::ibv_qp_init_attr {}
impl Plain for ib::ibv_srq_init_attr {}
impl Plain for ib::ibv_recv_wr {}
impl Plain for ib::ibv_sge {}
impl Plain for ib::rdma_conn_param {}
