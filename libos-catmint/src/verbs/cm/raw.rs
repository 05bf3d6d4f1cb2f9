//! The connection manager of librdmacm: its event channel, and identifiers, which own their queue pairs.
//!
//! Invariants: an event is copied and acknowledged at once, so no identifier waits for one when it is destroyed; an
//! identifier and its queue pair are destroyed once, in this order: queue pair, identifier, then what both hang on.

use std::ffi::{c_int, c_void};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::{Errno, Result};

use crate::verbs::completions::raw::CompletionQueue;
use crate::verbs::domain::raw::{Domain, Plain, last, set_nonblocking};
use crate::verbs::receives::raw::SharedQueue;

/// `RDMA_OPTION_ID` of `rdma_cma.h`, whose enumeration has no name.
const OPTION_ID: c_int = 0;
const OPTION_ID_AFONLY: c_int = 2;
const OPTION_ID_ACK_TIMEOUT: c_int = 3;

fn checked(code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(last()) }
}

/// Where all events of the connection manager come.
pub(in crate::verbs) struct Channel(NonNull<ib::rdma_event_channel>);

/// What has happened to an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::verbs) enum Kind {
    AddrResolved,
    RouteResolved,
    Request,
    Established,
    Disconnected,
    Rejected,
    /// It comes to nothing.
    Failed,
    Removed,
    Other,
}

/// An event.
pub(in crate::verbs) struct Event {
    pub(in crate::verbs) kind: Kind,
    /// The tag of the identifier; of a request, the listener's.
    pub(in crate::verbs) tag: u64,
    pub(in crate::verbs) status: i32,
    pub(in crate::verbs) private: Vec<u8>,
    /// Of a request, how many reads and atomic operations the peer will accept, and begin, at once.
    pub(in crate::verbs) reads: (u8, u8),
    /// Of a request.
    pub(in crate::verbs) id: Option<Id>,
}

impl Channel {
    pub(in crate::verbs) fn new() -> Result<Rc<Channel>> {
        // SAFETY: no argument.
        let channel = unsafe { ib::rdma_create_event_channel() };
        let channel = Channel(NonNull::new(channel).ok_or_else(last)?);
        set_nonblocking(channel.fd())?;
        Ok(Rc::new(channel))
    }

    pub(in crate::verbs) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the channel, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw((*self.0.as_ptr()).fd) }
    }

    /// The next event.
    pub(in crate::verbs) fn next(self: &Rc<Self>) -> Option<Event> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel lives and does not block; the place is written to.
        if unsafe { ib::rdma_get_cm_event(self.0.as_ptr(), &mut event) } != 0 {
            return None;
        }
        // SAFETY: after success the event is there until it is acknowledged, below, with its identifiers: they are destroyed
        // by nobody else meanwhile, as all of this is one thread's. The private data is as long as it says.
        let copy = unsafe {
            let from = &*event;
            let kind = kind(from.event);
            let owner = if kind == Kind::Request { from.listen_id } else { from.id };
            let param = &from.param.conn;
            let private = match param.private_data.cast::<u8>() {
                data if data.is_null() => Vec::new(),
                data => std::slice::from_raw_parts(data, usize::from(param.private_data_len)).to_vec(),
            };
            Event {
                kind,
                tag: if owner.is_null() { u64::MAX } else { (*owner).context.addr() as u64 },
                status: from.status,
                private,
                reads: (param.responder_resources, param.initiator_depth),
                id: (kind == Kind::Request).then(|| NonNull::new(from.id)).flatten().map(|id| Id {
                    id,
                    channel: Rc::clone(self),
                    parts: None,
                }),
            }
        };
        // SAFETY: acknowledged once, and not used afterwards.
        unsafe { ib::rdma_ack_cm_event(event) };
        Some(copy)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: all identifiers hold a count of it, so none is left; it is destroyed once.
        unsafe { ib::rdma_destroy_event_channel(self.0.as_ptr()) };
    }
}

fn kind(event: ib::rdma_cm_event_type::Type) -> Kind {
    use ib::rdma_cm_event_type as is;
    match event {
        is::RDMA_CM_EVENT_ADDR_RESOLVED => Kind::AddrResolved,
        is::RDMA_CM_EVENT_ROUTE_RESOLVED => Kind::RouteResolved,
        is::RDMA_CM_EVENT_CONNECT_REQUEST => Kind::Request,
        is::RDMA_CM_EVENT_ESTABLISHED => Kind::Established,
        is::RDMA_CM_EVENT_DISCONNECTED => Kind::Disconnected,
        is::RDMA_CM_EVENT_REJECTED => Kind::Rejected,
        is::RDMA_CM_EVENT_ADDR_ERROR
        | is::RDMA_CM_EVENT_ROUTE_ERROR
        | is::RDMA_CM_EVENT_CONNECT_ERROR
        | is::RDMA_CM_EVENT_UNREACHABLE => Kind::Failed,
        is::RDMA_CM_EVENT_DEVICE_REMOVAL => Kind::Removed,
        _ => Kind::Other,
    }
}

/// What a queue pair hangs on, kept until it is destroyed.
struct Parts {
    _domain: Rc<Domain>,
    _completions: Rc<CompletionQueue>,
    _receives: Rc<SharedQueue>,
}

/// An end of a connection, or a listener.
pub(in crate::verbs) struct Id {
    id: NonNull<ib::rdma_cm_id>,
    channel: Rc<Channel>,
    /// There are some if there is a queue pair.
    parts: Option<Parts>,
}

/// How a queue pair is to be.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Shape {
    pub(in crate::verbs) depth: u32,
    pub(in crate::verbs) segments: u32,
    pub(in crate::verbs) inline: u32,
}

impl Shape {
    pub(in crate::verbs) fn attributes(
        self,
        completions: &CompletionQueue,
        receives: Option<&SharedQueue>,
    ) -> ib::ibv_qp_init_attr {
        let mut attributes = ib::ibv_qp_init_attr::zeroed();
        attributes.send_cq = completions.as_ptr();
        attributes.recv_cq = completions.as_ptr();
        attributes.srq = receives.map_or(ptr::null_mut(), SharedQueue::as_ptr);
        attributes.cap.max_send_wr = self.depth;
        attributes.cap.max_send_sge = self.segments;
        attributes.cap.max_inline_data = self.inline;
        attributes.qp_type = ib::ibv_qp_type::IBV_QPT_RC;
        attributes
    }
}

/// What each side promises the other when it connects.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Terms {
    /// Reads and atomic operations at once: how many this side answers, and begins.
    pub(in crate::verbs) reads: (u8, u8),
    /// How often a send is repeated that finds no receive.
    pub(in crate::verbs) not_ready_retries: u8,
}

/// How often a packet is repeated that is not answered: the most that there is room for in a request to connect.
pub(in crate::verbs) const RETRIES: u8 = 7;

impl Id {
    /// An identifier whose events carry `tag`.
    pub(in crate::verbs) fn new(channel: &Rc<Channel>, tag: u64) -> Result<Id> {
        let mut id = ptr::null_mut();
        let context = ptr::without_provenance_mut::<c_void>(tag as usize);
        // SAFETY: the channel lives; the place is written to. The context is a number.
        checked(unsafe {
            ib::rdma_create_id(channel.0.as_ptr(), &mut id, context, ib::rdma_port_space::RDMA_PS_TCP)
        })?;
        Ok(Id { id: NonNull::new(id).ok_or(Errno::IO)?, channel: Rc::clone(channel), parts: None })
    }

    pub(in crate::verbs) fn set_tag(&mut self, tag: u64) {
        // SAFETY: the identifier lives, and nobody holds a reference into it. The context is a number.
        unsafe { (*self.id.as_ptr()).context = ptr::without_provenance_mut(tag as usize) };
    }

    /// Whether it has come to lie on this device, as resolving or accepting decides.
    pub(in crate::verbs) fn is_on(&self, domain: &Domain) -> bool {
        // SAFETY: the identifier lives.
        unsafe { (*self.id.as_ptr()).verbs == domain.context.as_ptr() }
    }

    pub(in crate::verbs) fn bind(&self, addr: SocketAddr) -> Result<()> {
        let mut addr = RawAddr::from(addr);
        // SAFETY: identifier and address live through the call.
        checked(unsafe { ib::rdma_bind_addr(self.id.as_ptr(), addr.as_mut_ptr()) })
    }

    pub(in crate::verbs) fn listen(&self, addr: SocketAddr, backlog: c_int) -> Result<()> {
        if addr.is_ipv6() {
            self.set_option(OPTION_ID_AFONLY, 1_i32)?;
        }
        self.bind(addr)?;
        // SAFETY: the identifier lives.
        checked(unsafe { ib::rdma_listen(self.id.as_ptr(), backlog) })
    }

    pub(in crate::verbs) fn resolve_addr(&self, to: SocketAddr, limit_ms: c_int) -> Result<()> {
        let mut to = RawAddr::from(to);
        // SAFETY: identifier and address live through the call.
        checked(unsafe {
            ib::rdma_resolve_addr(self.id.as_ptr(), ptr::null_mut(), to.as_mut_ptr(), limit_ms)
        })
    }

    pub(in crate::verbs) fn resolve_route(&self, limit_ms: c_int) -> Result<()> {
        // SAFETY: the identifier lives.
        checked(unsafe { ib::rdma_resolve_route(self.id.as_ptr(), limit_ms) })
    }

    /// How long the device waits for an answer before it repeats a packet: 4.096 µs × 2^`exponent`. Before connecting.
    pub(in crate::verbs) fn set_answer_limit(&self, exponent: u8) -> Result<()> {
        self.set_option(OPTION_ID_ACK_TIMEOUT, exponent)
    }

    fn set_option<T>(&self, name: c_int, mut value: T) -> Result<()> {
        let place = (&raw mut value).cast();
        // SAFETY: identifier and value live through the call, which reads as many bytes as the value has.
        checked(unsafe { ib::rdma_set_option(self.id.as_ptr(), OPTION_ID, name, place, size_of::<T>()) })
    }

    /// Makes the queue pair.
    pub(in crate::verbs) fn create_queue_pair(
        &mut self,
        domain: &Rc<Domain>,
        completions: &Rc<CompletionQueue>,
        receives: &Rc<SharedQueue>,
        shape: Shape,
    ) -> Result<()> {
        if self.parts.is_some() || !self.is_on(domain) {
            return Err(Errno::INVAL);
        }
        let mut attributes = shape.attributes(completions, Some(receives));
        // SAFETY: the identifier lives and is on the domain's device; the queues live, and are kept for as long as the queue
        // pair, below.
        checked(unsafe { ib::rdma_create_qp(self.id.as_ptr(), domain.pd.as_ptr(), &mut attributes) })?;
        self.parts = Some(Parts {
            _domain: Rc::clone(domain),
            _completions: Rc::clone(completions),
            _receives: Rc::clone(receives),
        });
        Ok(())
    }

    pub(in crate::verbs) fn connect(&self, hello: &[u8], terms: Terms) -> Result<()> {
        let mut param = terms.param(hello)?;
        // SAFETY: the identifier lives, and the hello through the call.
        checked(unsafe { ib::rdma_connect(self.id.as_ptr(), &mut param) })
    }

    pub(in crate::verbs) fn accept(&self, hello: &[u8], terms: Terms) -> Result<()> {
        let mut param = terms.param(hello)?;
        // SAFETY: as above.
        checked(unsafe { ib::rdma_accept(self.id.as_ptr(), &mut param) })
    }

    pub(in crate::verbs) fn reject(&self, hello: &[u8]) -> Result<()> {
        let len = u8::try_from(hello.len()).map_err(|_| Errno::INVAL)?;
        // SAFETY: as above.
        checked(unsafe { ib::rdma_reject(self.id.as_ptr(), hello.as_ptr().cast(), len) })
    }

    /// Tells the connection manager that something was received before the peer's last word of connecting.
    pub(in crate::verbs) fn notify_established(&self) -> Result<()> {
        // SAFETY: the identifier lives.
        checked(unsafe { ib::rdma_notify(self.id.as_ptr(), ib::ibv_event_type::IBV_EVENT_COMM_EST) })
    }

    /// Puts the queue pair into its error state, and tells the peer. The first also happens if the second fails.
    pub(in crate::verbs) fn disconnect(&self) -> Result<()> {
        // SAFETY: the identifier lives.
        let told = checked(unsafe { ib::rdma_disconnect(self.id.as_ptr()) });
        let mut attributes = ib::ibv_qp_attr::zeroed();
        attributes.qp_state = ib::ibv_qp_state::IBV_QPS_ERR;
        self.modify(attributes, ib::ibv_qp_attr_mask::IBV_QP_STATE)?;
        told
    }

    /// How long the peer is to wait before it repeats a send that found no receive, as the InfiniBand specification numbers
    /// the times. When connected.
    pub(in crate::verbs) fn set_not_ready_time(&self, number: u8) -> Result<()> {
        let mut attributes = ib::ibv_qp_attr::zeroed();
        attributes.min_rnr_timer = number;
        self.modify(attributes, ib::ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER)
    }

    fn modify(&self, mut attributes: ib::ibv_qp_attr, which: ib::ibv_qp_attr_mask) -> Result<()> {
        let Some(qp) = self.queue_pair() else { return Err(Errno::INVAL) };
        // SAFETY: the queue pair lives; the attributes are read during the call.
        match unsafe { ib::ibv_modify_qp(qp.as_ptr(), &mut attributes, which.0 as c_int) } {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(code.abs())),
        }
    }

    /// There is one from [`create_queue_pair`](Id::create_queue_pair) on.
    #[inline]
    pub(in crate::verbs) fn queue_pair(&self) -> Option<NonNull<ib::ibv_qp>> {
        self.parts.as_ref()?;
        // SAFETY: the identifier lives.
        NonNull::new(unsafe { (*self.id.as_ptr()).qp })
    }

    /// The queue pair's number on the device.
    pub(in crate::verbs) fn number(&self) -> Option<u32> {
        // SAFETY: the queue pair lives as long as `self`.
        self.queue_pair().map(|qp| unsafe { (*qp.as_ptr()).qp_num })
    }

    /// The local and the remote address.
    pub(in crate::verbs) fn addrs(&self) -> Option<(SocketAddr, SocketAddr)> {
        // SAFETY: the identifier lives; both unions are address storage, zeroed at first, and plain numbers.
        unsafe {
            let addr = &(*self.id.as_ptr()).route.addr;
            Some((
                socket_addr(&addr.src_addr_union.src_storage)?,
                socket_addr(&addr.dst_addr_union.dst_storage)?,
            ))
        }
    }

    /// The local address.
    pub(in crate::verbs) fn local(&self) -> Option<SocketAddr> {
        // SAFETY: as above.
        unsafe { socket_addr(&(*self.id.as_ptr()).route.addr.src_addr_union.src_storage) }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: each is destroyed once. The queue pair was made by librdmacm for this identifier, if there is one; all
        // events were acknowledged where they were copied, so this waits for none. What both hang on goes later, as fields of
        // `self`.
        unsafe {
            if self.parts.is_some() {
                ib::rdma_destroy_qp(self.id.as_ptr());
            }
            ib::rdma_destroy_id(self.id.as_ptr());
        }
        let _ = &self.channel;
    }
}

impl Terms {
    fn param(&self, hello: &[u8]) -> Result<ib::rdma_conn_param> {
        let mut param = ib::rdma_conn_param::zeroed();
        param.private_data = hello.as_ptr().cast();
        param.private_data_len = u8::try_from(hello.len()).map_err(|_| Errno::INVAL)?;
        (param.responder_resources, param.initiator_depth) = self.reads;
        param.retry_count = RETRIES;
        param.rnr_retry_count = self.not_ready_retries;
        param.srq = 1;
        Ok(param)
    }
}

/// A socket address as the kernel reads it.
union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddr {
    fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut *self).cast()
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> RawAddr {
        // SAFETY: zeroes are a value of either, as both are plain numbers.
        let mut raw: RawAddr = unsafe { mem::zeroed() };
        match addr {
            SocketAddr::V4(addr) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(addr) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
            }
        }
        raw
    }
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place = ptr::from_ref(storage);
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: storage is large and aligned enough for every kind of address; of this one only numbers are read.
            let addr = unsafe { place.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(addr.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let addr = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(addr.sin6_addr.s6_addr);
            let port = u16::from_be(addr.sin6_port);
            Some(SocketAddrV6::new(ip, port, addr.sin6_flowinfo, addr.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["10.0.0.1:7000", "[fd00::1]:9", "[fe80::1%3]:65535", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().expect("it is one");
            // SAFETY: zeroes are a value of it; the raw address fits into it.
            let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
            let raw = RawAddr::from(addr);
            let len = size_of::<RawAddr>();
            // SAFETY: as above.
            unsafe {
                ptr::copy_nonoverlapping((&raw const raw).cast::<u8>(), (&raw mut storage).cast(), len)
            };
            assert_eq!(socket_addr(&storage), Some(addr));
        }
    }
}
