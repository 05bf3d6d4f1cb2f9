//! UDP: RFC 768, RFC 8200 §8.1, RFC 1122 §4.1.
//!
//! A datagram is one array, its sender with it. What no pop waits for is kept up to the receive buffer; beyond that it
//! is dropped and counted, as there is nobody who could be held up. A push is refused while the device does not keep up.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use demi_api::addr::{Addr, Domain};
use demi_api::error::Error;
use demi_api::libos::{Cx, OptionName, SocketOption};
use demi_api::memalloc::OutOfMemory;
use demi_api::op::{Done, Op, Position, Step};
use demi_api::sga::SgArray;
use demi_api::slab::{Key, Slab};
use demi_api::token::QToken;

use crate::device::{Checksum, DeviceCx, Frame, Queue as Device, transmit};
use crate::flow::{self, Flow, Flows, half, word};
use crate::ip::checksum::Raw;
use crate::ip::{
    About, Cast, ETHERNET, HEADERS, IPV4, Ip, Packet, Path, Problem, ProblemKind, behind_headers, checksum,
    pseudo_sum,
};
use crate::line::Line;
use crate::ports::{PortClass, Ports, share};

/// IP protocol number.
pub(crate) const PROTOCOL: u8 = 17;

const HEADER: usize = 8;

/// Where the UDP header begins in a frame, with IPv4, and where the payload does.
const DATAGRAM: usize = ETHERNET + IPV4;
const PAYLOAD: usize = DATAGRAM + HEADER;

/// Most bytes of a datagram's payload.
const MOST: usize = 65_507;

/// Payloads up to this many bytes are copied next to their header.
const COPY_THRESHOLD: usize = 512;

/// Segments of payload that a packet refers to, at the most.
const MAX_PIECES: usize = demi_api::sga::MAX_SEGMENTS - 1;

/// What a datagram costs of the receive buffer besides its bytes.
const OVERHEAD: usize = 128;

/// Bytes of the receive buffer that may be used however short memory is.
const LEAST_HELD: usize = 8 << 10;

/// Datagrams that wait in the frames that they came in.
const FEW: usize = 32;

const FIRST_PORT: u16 = 49152;

#[derive(Debug)]
struct Socket {
    domain: Domain,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// The way that the last datagram went,
    path: Option<Path>,
    /// and where to, if the next may go there without a question: there is a path, and no error to be told of.
    last: Option<Last>,
    pops: Line<QToken>,
    ready: VecDeque<SgArray>,
    /// Of `ready`, with what each costs besides.
    bytes: usize,
    recv_buffer: usize,
    broadcast: bool,
    /// Others that say so as well may have the same address.
    reuse_port: bool,
    /// What an ICMP error said, for the next operation.
    error: Option<Error>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    to: SocketAddr,
    /// The socket's own port.
    from: u16,
}

impl Socket {
    /// Sends a small datagram where the last one went. False: nothing was done.
    #[inline(always)]
    fn push_brief(
        &mut self,
        cx: &mut Cx<'_>,
        ip: &mut Ip,
        device: &mut dyn Device,
        sga: &mut SgArray,
        from: u16,
        to: u16,
    ) -> bool {
        let (Some(path), Some(text)) = (&mut self.path, sga.single()) else { return false };
        let len = HEADER + text.len();
        if len > HEADER + COPY_THRESHOLD {
            return false;
        }
        let header = u64::from(from) << 48 | u64::from(to) << 32 | (len as u64) << 16;
        if send_brief(cx, ip, device, path, text, header).is_none() {
            if path.headroom() - ETHERNET + len > path.mtu() {
                return false;
            }
            let Ok(frame) = frame_any(cx, ip, path, sga, header) else { return false };
            transmit(device, &DeviceCx { heap: cx.heap, now: cx.now }, &mut ip.outbox, frame);
        }
        // What was copied is not needed any more, and the caller asks whether there is anything left to let go of.
        drop(sga.take_single());
        true
    }
}

/// Gives the device a frame with a small datagram, over IPv4, to a neighbour that is known. Its header is given but for the
/// checksum. `None`: it is not such a one, or there is no memory; nothing was done.
#[inline(never)]
fn send_brief(
    cx: &mut Cx<'_>,
    ip: &mut Ip,
    device: &mut dyn Device,
    path: &Path,
    text: &[u8],
    header: u64,
) -> Option<()> {
    let len = HEADER + text.len();
    let clear = ip.is_clear(cx.now, path, len)?;
    let (mut head, text) = behind_headers::<PAYLOAD>(cx.heap, text)?;
    let (headers, udp) = head.first_chunk_mut::<PAYLOAD>()?.split_first_chunk_mut()?;
    ip.fill_clear(clear, path, headers, len, PROTOCOL, false);
    let pseudo = path.pseudo_sum(PROTOCOL, len);
    *udp.first_chunk_mut()? = header.to_be_bytes();
    let (sum, checksum) = if ip.completes_checksums() {
        let checksum = Checksum::Partial { start: HEADERS as u16, at: HEADERS as u16 + 6 };
        (checksum::fold(pseudo).to_be_bytes(), checksum)
    } else {
        let words = u64::from_ne_bytes(header.to_be_bytes());
        (sum_of(text.and_word(words).and(pseudo)), Checksum::Unknown)
    };
    *udp.last_chunk_mut()? = sum;
    let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
    transmit(device, &device_cx, &mut ip.outbox, Some(Frame { data: head.into(), checksum }));
    Some(())
}

/// The frame for the device, whatever it is like, and whatever it goes over. `Ok(None)`: it has found its way to the outbox already.
#[cold]
#[inline(never)]
fn frame_any(
    cx: &mut Cx<'_>,
    ip: &mut Ip,
    path: &mut Path,
    sga: &SgArray,
    header: u64,
) -> Result<Option<Frame>, OutOfMemory> {
    let (headroom, len) = (path.headroom(), HEADER + sga.len());
    let mut head = cx.heap.alloc(headroom + len)?;
    let (udp, payload) = head[headroom..].split_at_mut(HEADER);
    udp.copy_from_slice(&header.to_be_bytes());
    sga.copy_to(payload);
    let pseudo = path.pseudo_sum(PROTOCOL, len);
    let (sum, checksum) = if ip.completes_checksums() {
        let at = headroom as u16 + 6;
        (checksum::fold(pseudo).to_be_bytes(), Checksum::Partial { start: headroom as u16, at })
    } else {
        (sum_of(Raw::of(&head[headroom..]).and(pseudo)), Checksum::Unknown)
    };
    head[headroom + 6..headroom + 8].copy_from_slice(&sum);
    Ok(ip.send_small(cx, path, head, PROTOCOL, 0, false, checksum))
}

/// The checksum for a sum: zero would mean that there is none.
#[inline(always)]
fn sum_of(sum: Raw) -> [u8; 2] {
    match !sum.fold() {
        0 => [0xff; 2],
        sum => sum.to_ne_bytes(),
    }
}

/// All of UDP.
#[derive(Debug)]
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    ports: Ports,
    class: PortClass,
    /// Whose datagrams came of late, until any socket's addresses change.
    flows: Flows,
    recv_buffer: usize,
    received: u64,
    sent: u64,
    dropped: u64,
    malformed: u64,
}

impl Udp {
    pub(crate) fn new(recv_buffer: usize) -> Udp {
        Udp {
            sockets: Slab::new(),
            ports: Ports::new(),
            class: PortClass::all(),
            flows: Flows::default(),
            recv_buffer,
            received: 0,
            sent: 0,
            dropped: 0,
            malformed: 0,
        }
    }

    /// From now on, ports that are chosen are of this class.
    pub(crate) fn choose_from(&mut self, class: PortClass) {
        self.class = class;
    }

    pub(crate) fn socket(&mut self, domain: Domain) -> Key {
        self.sockets.insert(Socket {
            domain,
            local: None,
            peer: None,
            path: None,
            last: None,
            pops: Line::default(),
            ready: VecDeque::new(),
            bytes: 0,
            recv_buffer: self.recv_buffer,
            broadcast: false,
            reuse_port: false,
            error: None,
        })
    }

    pub(crate) fn bind(
        &mut self,
        rng: &mut fastrand::Rng,
        ip: &Ip,
        key: Key,
        addr: SocketAddr,
    ) -> Result<(), Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        if socket.local.is_some() {
            return Err(Error::Invalid("the socket is bound already"));
        }
        if addr.is_ipv4() != (socket.domain == Domain::Inet) {
            return Err(Error::BadAddress);
        }
        if !addr.ip().is_unspecified() && !ip.is_local(addr.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        let port = match addr.port() {
            0 => self.pick_port(rng, addr.ip()).ok_or(Error::AddressInUse)?,
            port if self.is_bound(addr.ip(), port, socket.reuse_port) => return Err(Error::AddressInUse),
            port => port,
        };
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.local = Some(SocketAddr::new(addr.ip(), port));
        }
        self.ports.add(port, key);
        self.flows = Flows::default();
        Ok(())
    }

    /// Sends a datagram at once, if it is small and goes where the last one went. False: nothing was done.
    #[inline(always)]
    pub(crate) fn push_brief(
        &mut self,
        cx: &mut Cx<'_>,
        ip: &mut Ip,
        device: &mut dyn Device,
        key: Key,
        sga: &mut SgArray,
        to: Option<&Addr>,
    ) -> bool {
        let Some(socket) = self.sockets.get_mut(key) else { return false };
        let to = match (to, &socket.peer) {
            (Some(Addr::Inet(to)), _) | (None, Some(to)) => to,
            (Some(Addr::Unix(_) | Addr::Unnamed), _) | (None, None) => return false,
        };
        let Some(last) = &socket.last else { return false };
        if !ip.keeps_up() {
            return false;
        }
        let again = match (to, &last.to) {
            (SocketAddr::V4(to), SocketAddr::V4(last)) => to == last,
            (SocketAddr::V6(to), SocketAddr::V6(last)) => to == last,
            _ => false,
        };
        let (from, to) = (last.from, to.port());
        let sent = again && socket.push_brief(cx, ip, device, sga, from, to);
        self.sent += u64::from(sent);
        sent
    }

    /// Begins a pop that has to wait. False: it is done, or there is a question about it; nothing was done.
    #[inline(always)]
    pub(crate) fn pop_later(&mut self, token: QToken, key: Key) -> bool {
        match self.sockets.get_mut(key) {
            Some(socket) if socket.error.is_none() && socket.ready.is_empty() => {
                socket.pops.push_back(token);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn start(
        &mut self,
        cx: &mut Cx<'_>,
        ip: &mut Ip,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match op {
            Op::Push { sga, to } => {
                let to = match to {
                    Some(to) => to.inet().ok_or(Error::BadAddress)?,
                    None => socket.peer.ok_or(Error::NotConnected)?,
                };
                if sga.len() > MOST {
                    return Err(Error::TooLarge { len: sga.len(), limit: MOST });
                }
                if to.is_ipv4() != (socket.domain == Domain::Inet) || to.port() == 0 {
                    return Err(Error::BadAddress);
                }
                if socket.local.is_none() {
                    self.bind_any(cx.rng, ip, key)?;
                }
                self.push(cx, ip, key, sga, to)
            }
            Op::Pop { .. } => {
                if let Some(error) = socket.error.take() {
                    return Ok(Step::Done(Err(error)));
                }
                if socket.pops.is_empty()
                    && let Some(sga) = socket.ready.pop_front()
                {
                    socket.bytes -= sga.len() + OVERHEAD;
                    return Ok(Step::Done(Ok(Done::Popped(sga))));
                }
                socket.pops.push_back(token);
                Ok(Step::Pending)
            }
            Op::Connect(peer) => {
                let peer = peer.inet().ok_or(Error::BadAddress)?;
                if peer.is_ipv4() != (socket.domain == Domain::Inet) || peer.port() == 0 {
                    return Err(Error::BadAddress);
                }
                let local = socket.local.map(|addr| addr.ip()).filter(|addr| !addr.is_unspecified());
                let path = ip.path(cx, local, peer.ip())?;
                (socket.peer, socket.path, socket.last) = (Some(peer), Some(path), None);
                self.flows = Flows::default();
                if socket.local.is_none() {
                    self.bind_any(cx.rng, ip, key)?;
                }
                Ok(Step::Done(Ok(Done::Connected)))
            }
            Op::Accept => Err(Error::Invalid("accept needs a listening socket")),
            Op::Flush => Err(Error::NotSupported("flush of a socket")),
            Op::Atomic { .. } => Err(Error::NotSupported("atomic operations on a socket")),
        }
    }

    #[inline]
    fn push(
        &mut self,
        cx: &mut Cx<'_>,
        ip: &mut Ip,
        key: Key,
        sga: &mut SgArray,
        to: SocketAddr,
    ) -> Result<Step, Error> {
        let Some(socket) = self.sockets.get_mut(key) else { return Err(Error::BadDescriptor) };
        if let Some(error) = socket.error.take() {
            return Ok(Step::Done(Err(error)));
        }
        if !ip.keeps_up() {
            return Err(Error::NoBuffers);
        }
        if to.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) && !socket.broadcast {
            return Err(Error::PermissionDenied);
        }
        let bound = socket.local.map(|addr| addr.ip()).filter(|addr| !addr.is_unspecified());
        // Until it is on its way: the path may become another's before that.
        socket.last = None;
        let fits = |path: &Path| path.remote() == to.ip() && bound.is_none_or(|local| path.local() == local);
        let path = match &mut socket.path {
            Some(path) if fits(path) => path,
            slot => slot.insert(ip.path(cx, bound, to.ip())?),
        };
        let len = HEADER + sga.len();
        let headroom = path.headroom();
        let copied = sga.len() <= COPY_THRESHOLD || sga.segments().len() > MAX_PIECES;
        let mut head = cx.heap.alloc(headroom + if copied { len } else { HEADER })?;
        let body = if copied {
            sga.copy_to(&mut head[headroom + HEADER..]);
            SgArray::new()
        } else {
            std::mem::take(sga)
        };
        let udp = &mut head[headroom..];
        let from = socket.local.map_or(0, |addr| addr.port());
        udp[0..2].copy_from_slice(&from.to_be_bytes());
        udp[2..4].copy_from_slice(&to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        udp[6..8].fill(0);
        let pseudo = path.pseudo_sum(PROTOCOL, len);
        // A fragment cannot be completed by a device.
        let whole = headroom - 14 + len <= path.mtu();
        let checksum = if ip.completes_checksums() && whole {
            udp[6..8].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
            Checksum::Partial { start: headroom as u16, at: headroom as u16 + 6 }
        } else {
            let sum = pseudo + checksum::sum(udp);
            let sum = if body.is_empty() { sum } else { sum + checksum::sum_array(&body) };
            // Zero would mean that there is none.
            let value = match !checksum::fold(sum) {
                0 => 0xffff,
                value => value,
            };
            udp[6..8].copy_from_slice(&value.to_be_bytes());
            Checksum::Unknown
        };
        self.sent += 1;
        socket.last = Some(Last { to, from });
        ip.send(cx, path, Packet { head, body, protocol: PROTOCOL, ecn: 0, dont_fragment: false, checksum });
        Ok(Step::Done(Ok(Done::Pushed(Position(0)))))
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        socket.pops.remove(|other| *other == token).ok_or(Error::NotCancellable)?;
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(mut socket) = self.sockets.remove(key) else { return };
        self.flows = Flows::default();
        for token in socket.pops.drain() {
            cx.done.post(token, Err(Error::Cancelled));
        }
        let Some(local) = socket.local else { return };
        self.ports.remove(local.port(), key);
    }

    pub(crate) fn local_addr(&self, key: Key) -> Result<Addr, Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        let any: IpAddr = match socket.domain {
            Domain::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Domain::Inet6 | Domain::Unix => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut local = socket.local.unwrap_or(SocketAddr::new(any, 0));
        if let (Some(_), Some(path)) = (socket.peer, &socket.path) {
            local.set_ip(path.local());
        }
        Ok(local.into())
    }

    pub(crate) fn peer_addr(&self, key: Key) -> Result<Addr, Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        Ok(socket.peer.ok_or(Error::NotConnected)?.into())
    }

    pub(crate) fn set_option(&mut self, key: Key, option: SocketOption) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match option {
            SocketOption::Broadcast(on) => (socket.broadcast, socket.last) = (on, None),
            SocketOption::ReusePort(on) => socket.reuse_port = on,
            SocketOption::RecvBuffer(bytes) => socket.recv_buffer = bytes.clamp(2048, 1 << 30),
            // What is pushed is with the device, or waits for a neighbour's address.
            SocketOption::SendBuffer(_) | SocketOption::ReuseAddr(_) | SocketOption::Linger(_) => {}
            _ => return Err(Error::NotSupported("this option on a datagram socket of catnip")),
        }
        Ok(())
    }

    pub(crate) fn option(&self, key: Key, name: OptionName) -> Result<SocketOption, Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        match name {
            OptionName::Broadcast => Ok(SocketOption::Broadcast(socket.broadcast)),
            OptionName::ReusePort => Ok(SocketOption::ReusePort(socket.reuse_port)),
            OptionName::RecvBuffer => Ok(SocketOption::RecvBuffer(socket.recv_buffer)),
            _ => Err(Error::NotSupported("this option on a datagram socket of catnip")),
        }
    }

    /// What the next operation will be told.
    pub(crate) fn error(&self, key: Key) -> Result<Option<Error>, Error> {
        Ok(self.sockets.get(key).ok_or(Error::BadDescriptor)?.error.clone())
    }

    // --- the network's side

    #[inline]
    pub(crate) fn receive(&mut self, cx: &mut Cx<'_>, ip: &mut Ip, about: About, data: &mut SgArray) {
        let header = data.segments().first().and_then(|head| head.first_chunk::<HEADER>().copied());
        let Some(header) = header else {
            self.malformed += 1;
            return;
        };
        let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (from, to, len, sum) = (half(0), half(2), usize::from(half(4)), half(6));
        if len < HEADER || len > data.len() {
            self.malformed += 1;
            return;
        }
        if len < data.len() {
            *data = data.split_to(len);
        }
        // RFC 768: zero means that there is none; RFC 8200 §8.1 does not allow that.
        let unsummed = sum == 0 && about.local.is_ipv4();
        if sum == 0 && !unsummed {
            self.malformed += 1;
            return;
        }
        if about.checksum == Checksum::Unknown && !unsummed {
            let pseudo = pseudo_sum(about.local, about.remote, PROTOCOL, len);
            if !checksum::verify(pseudo, data) {
                self.malformed += 1;
                return;
            }
        }
        let sender = SocketAddr::new(about.remote, from);
        let Some(key) = self.find(about.local, to, sender) else {
            if about.cast == Cast::Unicast {
                ip.reject_port(cx, &about.with(std::mem::take(data)));
            }
            return;
        };
        data.advance(HEADER);
        data.set_peer(Some(sender.into()));
        self.hand_over(cx, key, data);
    }

    /// Whether a datagram is for a socket of this instance; one that is malformed is for nobody else.
    pub(crate) fn has_use_for(&self, about: &About, data: &SgArray) -> bool {
        let Some(header) = data.segments().first().and_then(|head| head.first_chunk::<HEADER>()) else {
            return true;
        };
        let (from, to) =
            (u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]]));
        self.find(about.local, to, SocketAddr::new(about.remote, from)).is_some()
    }

    /// Takes a frame, if it is the next of a known flow. False: nothing was done.
    #[inline(always)]
    pub(crate) fn receive_known(
        &mut self,
        cx: &mut Cx<'_>,
        ip: &mut Ip,
        data: &mut SgArray,
        checksum: Checksum,
    ) -> bool {
        let Some(only) = data.single_mut() else { return false };
        let Some(head) = only.first_chunk::<PAYLOAD>() else { return false };
        let Some(key) = self.flows.find(head, ip.epoch()) else { return false };
        let Some(end) = flow::end_of(head, only.len(), PROTOCOL) else { return false };
        // Nothing behind it, and a checksum.
        let plain = end >= PAYLOAD
            && usize::from(half(head, PAYLOAD - 4)) == end - DATAGRAM
            && half(head, PAYLOAD - 2) != 0;
        if !plain || !flow::is_sound(&only[..end], PROTOCOL, checksum) {
            return false;
        }
        let sender = SocketAddrV4::new(Ipv4Addr::from_bits(word(head, 26)), half(head, DATAGRAM));
        only.keep(PAYLOAD..end);
        ip.count_delivered();
        data.set_peer_v4(sender);
        self.hand_over(cx, key, data);
        true
    }

    /// Notes a packet between these addresses that was of no known flow.
    pub(crate) fn note_flow(&mut self, flow: &Flow, local: IpAddr, remote: IpAddr) {
        if !self.flows.note(flow) {
            return;
        }
        let (from, to) = flow.ports();
        if let Some(key) = self.find(local, to, SocketAddr::new(remote, from)) {
            self.flows.learn(flow, key);
        }
    }

    /// Gives a datagram to its socket.
    #[inline(always)]
    fn hand_over(&mut self, cx: &mut Cx<'_>, key: Key, data: &mut SgArray) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        self.received += 1;
        if let Some(token) = socket.pops.pop_front() {
            return cx.done.post_popped(token, data);
        }
        let mut sga = std::mem::take(data);
        let cost = sga.len() + OVERHEAD;
        let short = socket.bytes >= LEAST_HELD && cx.heap.is_short();
        if short || socket.bytes + cost > socket.recv_buffer {
            self.dropped += 1;
            return;
        }
        socket.bytes += cost;
        if socket.ready.len() >= FEW && sga.len() <= COPY_THRESHOLD {
            sga = copied(cx, sga);
        }
        socket.ready.push_back(sga);
    }

    /// An ICMP error about a datagram of ours: RFC 1122 §4.1.3.3.
    pub(crate) fn problem(&mut self, cx: &mut Cx<'_>, ip: &mut Ip, problem: &Problem) {
        let port = u16::from_be_bytes([problem.quoted[0], problem.quoted[1]]);
        let to = u16::from_be_bytes([problem.quoted[2], problem.quoted[3]]);
        let peer = SocketAddr::new(problem.remote, to);
        let Some(key) = self
            .ports
            .get(port)
            .iter()
            .find(|key| self.sockets.get(**key).is_some_and(|s| s.peer == Some(peer)))
        else {
            return;
        };
        let Some(socket) = self.sockets.get_mut(*key) else { return };
        let error = match problem.kind {
            ProblemKind::TooBig(_) => return ip.learn_mtu(cx.now, problem),
            ProblemKind::Unreachable(_) if problem.is_refusal() => Error::ConnectionRefused,
            ProblemKind::Unreachable(_) | ProblemKind::TimeExceeded => Error::Unreachable,
        };
        match socket.pops.pop_front() {
            Some(token) => cx.done.post(token, Err(error)),
            None => (socket.error, socket.last) = (Some(error), None),
        }
    }

    /// The socket that a datagram is for: the one that is closest to it.
    #[inline]
    fn find(&self, local: IpAddr, port: u16, sender: SocketAddr) -> Option<Key> {
        let rank = |socket: &Socket| {
            let bound = socket.local?;
            if bound.is_ipv4() != local.is_ipv4() {
                return None;
            }
            let named = match bound.ip() {
                ip if ip.is_unspecified() => 0,
                ip if ip == local => 1,
                // A broadcast comes for whoever has the port.
                _ if !sender.ip().is_multicast() && is_group(local) => 0,
                _ => return None,
            };
            match socket.peer {
                None => Some(named),
                Some(peer) if peer == sender => Some(named + 2),
                Some(_) => None,
            }
        };
        let keys = self.ports.get(port);
        // Nearly every port has one socket.
        if let [only] = keys {
            return rank(self.sockets.get(*only)?).map(|_| *only);
        }
        let ranked = || keys.iter().filter_map(|key| Some((rank(self.sockets.get(*key)?)?, *key)));
        let best = ranked().map(|(rank, _)| rank).max()?;
        let closest = || ranked().filter(|(rank, _)| *rank == best);
        closest().nth(share(sender, closest().count())).map(|(_, key)| key)
    }

    fn bind_any(&mut self, rng: &mut fastrand::Rng, ip: &Ip, key: Key) -> Result<(), Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        let any: IpAddr = match socket.domain {
            Domain::Inet => Ipv4Addr::UNSPECIFIED.into(),
            Domain::Inet6 | Domain::Unix => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.bind(rng, ip, key, SocketAddr::new(any, 0))
    }

    /// Whether another socket has the port at an overlapping address, and does not share it.
    fn is_bound(&self, addr: IpAddr, port: u16, shares: bool) -> bool {
        self.ports.get(port).iter().filter_map(|key| self.sockets.get(*key)).any(|other| {
            other.local.is_some_and(|local| {
                local.is_ipv4() == addr.is_ipv4()
                    && (local.ip() == addr || local.ip().is_unspecified() || addr.is_unspecified())
            }) && !(shares && other.reuse_port)
        })
    }

    /// RFC 6056 §3.3.1: the first free one from a random one on.
    fn pick_port(&self, rng: &mut fastrand::Rng, addr: IpAddr) -> Option<u16> {
        let count = u32::from(u16::MAX - FIRST_PORT) + 1;
        let begin = rng.u32(..count);
        (0..count)
            .map(|step| FIRST_PORT + ((begin + step) % count) as u16)
            .find(|port| self.class.has(*port) && !self.is_bound(addr, *port, false))
    }

    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("udp_received", self.received);
        visit("udp_sent", self.sent);
        visit("udp_dropped", self.dropped);
        visit("udp_malformed", self.malformed);
    }
}

/// The same in a buffer of its own size, so that a datagram of a few bytes does not pin the frame that it came in.
fn copied(cx: &Cx<'_>, sga: SgArray) -> SgArray {
    let mut copy = SgArray::new();
    if !sga.is_empty() {
        let Ok(mut buf) = cx.heap.alloc(sga.len()) else { return sga };
        sga.copy_to(&mut buf);
        copy = buf.freeze().into();
    }
    copy.set_peer(sga.peer());
    copy
}

fn is_group(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_broadcast() || addr.is_multicast() || addr.octets()[3] == 255,
        IpAddr::V6(addr) => addr.is_multicast(),
    }
}
