//! A DHCP client for IPv4: RFC 2131 §4.4.
//!
//! ```text
//!        discover          request            T1                T2
//! Init ───────────▶ Selecting ──▶ Requesting ──▶ Bound ──▶ Renewing ──▶ Rebinding ──▶ Init
//!                     offer         ack │ ▲         ack │        ack │      expiry, or a refusal
//!                                       └─┴─────────────┴────────────┘
//! ```
//!
//! Invariants: one lease at a time; its address and routes end with it. Messages are few, whatever servers say.

use std::net::Ipv4Addr;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::addr::{Cidr, is_unicast4};
use super::neighbours::Waiting;
use super::path::{addresses_sum, pseudo_sum};
use super::routes::Origin;
use super::send::{Header, Part, fill_v4};
use super::{ANY4, ETHERNET, IPV4, Ip, Packet, UDP, checksum};
use crate::device::Checksum;

/// Bytes of a UDP header.
const HEADER: usize = 8;
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Least time before a message is repeated, and most: RFC 2131 §4.1.
const SHORTEST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(64);
/// Requests for one offer.
const REQUESTS: u32 = 4;
/// Least time between attempts to renew: RFC 2131 §4.4.5.
const RENEW: Duration = Duration::from_secs(60);
/// A lease is not taken to be shorter, which bounds how often one asks.
const SHORTEST_LEASE: u32 = 60;
/// What servers are asked for: mask, router, lease time, server, T1, T2.
const WANTED: &[u8] = &[1, 3, 51, 54, 58, 59];

/// The client.
#[derive(Debug)]
pub(super) struct Dhcp {
    state: State,
    /// Names the exchange that is under way.
    exchange: u32,
    /// When it began.
    began: Instant,
    tries: u32,
    /// When to go on.
    next: Instant,
    lease: Option<Lease>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Init,
    Selecting,
    Requesting { addr: Ipv4Addr, server: Ipv4Addr },
    Bound,
    Renewing,
    Rebinding,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    addr: Ipv4Addr,
    server: Ipv4Addr,
    /// When to ask the server again, then any server, and when it ends; never, if it is `None`.
    times: Option<(Instant, Instant, Instant)>,
}

/// What is read from a server's message.
struct Told {
    kind: DhcpMessageType,
    addr: Ipv4Addr,
    server: Option<Ipv4Addr>,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    lease: Option<u32>,
    t1: Option<u32>,
    t2: Option<u32>,
}

impl Dhcp {
    pub(super) fn new() -> Dhcp {
        let now = Instant::default();
        Dhcp { state: State::Init, exchange: 0, began: now, tries: 0, next: now, lease: None }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let endless = self.lease.is_some_and(|lease| lease.times.is_none());
        (self.state != State::Bound || !endless).then_some(self.next)
    }

    fn restart(&mut self, at: Instant) {
        *self = Dhcp { next: at, ..Dhcp::new() };
    }

    /// Twice as long each time, give or take a second: RFC 2131 §4.1.
    fn back_off(&mut self, cx: &mut Cx<'_>) {
        let base = (SHORTEST * (1 << self.tries.min(4))).min(LONGEST);
        let jitter = Duration::from_millis(cx.rng.u64(0..2000));
        self.tries += 1;
        self.next = cx.now + (base + jitter - Duration::from_secs(1));
    }
}

impl Ip {
    /// Goes on with what is due.
    pub(super) fn poll_dhcp(&mut self, cx: &mut Cx<'_>) -> usize {
        let Some(dhcp) = &mut self.dhcp else { return 0 };
        if dhcp.deadline().is_none_or(|next| cx.now < next) {
            return 0;
        }
        match (dhcp.state, dhcp.lease.and_then(|lease| lease.times)) {
            (State::Init, _) => {
                dhcp.exchange = cx.rng.u32(..);
                dhcp.began = cx.now;
                dhcp.state = State::Selecting;
                dhcp.tries = 0;
                dhcp.back_off(cx);
            }
            (State::Requesting { .. }, _) if dhcp.tries >= REQUESTS => {
                dhcp.restart(cx.now);
                return 1;
            }
            (State::Selecting | State::Requesting { .. }, _) => dhcp.back_off(cx),
            (State::Bound | State::Renewing | State::Rebinding, Some((_, _, end))) if cx.now >= end => {
                self.end_lease(cx.now);
                return 1;
            }
            (State::Bound | State::Renewing | State::Rebinding, Some((_, t2, end))) => {
                if dhcp.state == State::Bound {
                    dhcp.exchange = cx.rng.u32(..);
                    dhcp.began = cx.now;
                }
                dhcp.state = if cx.now < t2 { State::Renewing } else { State::Rebinding };
                // RFC 2131 §4.4.5: after half of what is left.
                let limit = if cx.now < t2 { t2 } else { end };
                dhcp.next = (cx.now + (limit.since(cx.now) / 2).max(RENEW)).min(limit);
            }
            (State::Bound | State::Renewing | State::Rebinding, None) => return 0,
        }
        if self.send_dhcp(cx).is_err() {
            self.counters.no_memory += 1;
        }
        1
    }

    /// Takes a UDP datagram to the client's port.
    pub(super) fn receive_dhcp(
        &mut self,
        cx: &mut Cx<'_>,
        from: Ipv4Addr,
        to: Ipv4Addr,
        data: SgArray,
        sum: Checksum,
    ) {
        self.quiet = Default::default();
        let Ok(data) = data.into_contiguous(cx.heap) else {
            self.counters.no_memory += 1;
            return;
        };
        let told = udp_content(from, to, &data, sum).and_then(|content| self.read_dhcp(content));
        let Some(told) = told else {
            self.counters.dhcp_refused += 1;
            return;
        };
        let Some(dhcp) = &mut self.dhcp else { return };
        match (dhcp.state, told.kind, told.server) {
            (State::Selecting, DhcpMessageType::Offer, Some(server)) if is_unicast4(told.addr) => {
                dhcp.state = State::Requesting { addr: told.addr, server };
                dhcp.tries = 0;
                dhcp.back_off(cx);
                if self.send_dhcp(cx).is_err() {
                    self.counters.no_memory += 1;
                }
            }
            (State::Requesting { .. } | State::Renewing | State::Rebinding, DhcpMessageType::Ack, _) => {
                self.take_lease(cx.now, &told);
            }
            (State::Requesting { server, .. }, DhcpMessageType::Nak, Some(from)) if from == server => {
                dhcp.restart(cx.now + SHORTEST);
            }
            (State::Renewing | State::Rebinding, DhcpMessageType::Nak, _) => {
                self.end_lease(cx.now + SHORTEST)
            }
            _ => {}
        }
    }

    /// Reads a message that answers ours. None: it does not, or says too little.
    fn read_dhcp(&self, content: &[u8]) -> Option<Told> {
        let dhcp = self.dhcp.as_ref()?;
        let packet = DhcpPacket::new_checked(content).ok()?;
        let repr = DhcpRepr::parse(&packet).ok()?;
        if repr.transaction_id != dhcp.exchange
            || repr.client_hardware_address != EthernetAddress(self.mac)
            || dhcp.state == State::Init
        {
            return None;
        }
        // Of several routers, the first: RFC 2132 §3.5.
        let router = packet
            .options()
            .find(|option| option.kind == 3)
            .and_then(|option| option.data.first_chunk::<4>());
        Some(Told {
            kind: repr.message_type,
            addr: repr.your_ip,
            server: repr.server_identifier,
            mask: repr.subnet_mask,
            router: router.map(|octets| Ipv4Addr::from(*octets)),
            lease: repr.lease_duration,
            t1: repr.renew_duration,
            t2: repr.rebind_duration,
        })
    }

    fn take_lease(&mut self, now: Instant, told: &Told) {
        let Some(dhcp) = &mut self.dhcp else { return };
        let previous = dhcp.lease;
        let (expected, server) = match dhcp.state {
            State::Requesting { addr, server } => (addr, told.server.unwrap_or(server)),
            _ => match previous {
                Some(lease) => (lease.addr, told.server.unwrap_or(lease.server)),
                None => return,
            },
        };
        let Some(len) = prefix_len(told.addr, told.mask) else { return };
        let cidr = Cidr { addr: told.addr.into(), len };
        let Some(secs) = told.lease else { return };
        if told.addr != expected || !cidr.is_host() {
            return;
        }
        let times = (secs != u32::MAX).then(|| {
            let secs = secs.max(SHORTEST_LEASE);
            // RFC 2131 §4.4.5: half, and seven eighths, unless the server knows better.
            let t2 = told.t2.filter(|t2| *t2 < secs).unwrap_or(secs - secs / 8).max(2);
            let t1 = told.t1.filter(|t1| *t1 < t2).unwrap_or(t2.min(secs / 2)).max(1);
            let after = |secs: u32| now + Duration::from_secs(secs.into());
            (after(t1), after(t2), after(secs))
        });
        dhcp.state = State::Bound;
        dhcp.lease = Some(Lease { addr: told.addr, server, times });
        dhcp.next = times.map_or(now, |(t1, _, _)| t1);
        let end = times.map(|(_, _, end)| end);
        self.routes.remove_routes(Origin::Dhcp, |_, _| true);
        self.adopt(cidr, Origin::Dhcp, None, end);
        self.routes.add_route(cidr, None, Origin::Dhcp, end);
        let router = told.router.filter(|router| cidr.contains((*router).into()) && *router != told.addr);
        if let Some(router) = router {
            self.routes.add_route(Cidr { addr: ANY4, len: 0 }, Some(router.into()), Origin::Dhcp, end);
        }
    }

    fn end_lease(&mut self, again: Instant) {
        let Some(dhcp) = &mut self.dhcp else { return };
        if let Some(lease) = dhcp.lease {
            self.routes.remove_address(lease.addr.into());
            self.routes.remove_routes(Origin::Dhcp, |_, _| true);
        }
        dhcp.restart(again);
    }

    fn send_dhcp(&mut self, cx: &mut Cx<'_>) -> Result<(), Error> {
        let Some(dhcp) = &self.dhcp else { return Ok(()) };
        let mac = EthernetAddress(self.mac);
        let own = dhcp.lease.map_or(Ipv4Addr::UNSPECIFIED, |lease| lease.addr);
        let (message_type, requested_ip, server_identifier, client_ip) = match dhcp.state {
            State::Init | State::Selecting => (DhcpMessageType::Discover, None, None, Ipv4Addr::UNSPECIFIED),
            State::Requesting { addr, server } => {
                (DhcpMessageType::Request, Some(addr), Some(server), Ipv4Addr::UNSPECIFIED)
            }
            State::Bound | State::Renewing | State::Rebinding => (DhcpMessageType::Request, None, None, own),
        };
        let repr = DhcpRepr {
            message_type,
            transaction_id: dhcp.exchange,
            secs: cx.now.since(dhcp.began).as_secs().min(u16::MAX.into()) as u16,
            client_hardware_address: mac,
            client_ip,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // What comes to an address that is not ours yet is not received.
            broadcast: client_ip.is_unspecified(),
            requested_ip,
            client_identifier: Some(mac),
            server_identifier,
            parameter_request_list: Some(WANTED),
            dns_servers: None,
            max_size: Some(1500.min(self.mtu) as u16),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let server = dhcp.lease.map(|lease| lease.server).filter(|_| dhcp.state == State::Renewing);
        let to = server.unwrap_or(Ipv4Addr::BROADCAST);
        let content = repr.buffer_len();
        let mut head = cx.heap.alloc(ETHERNET + IPV4 + HEADER + content)?;
        head.fill(0);
        let message = &mut head[ETHERNET + IPV4..];
        let len = HEADER + content;
        message[..2].copy_from_slice(&CLIENT.to_be_bytes());
        message[2..4].copy_from_slice(&SERVER.to_be_bytes());
        message[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        let written = repr.emit(&mut DhcpPacket::new_unchecked(&mut message[HEADER..]));
        written.map_err(|_| Error::BadFrame("a DHCP message of our own"))?;
        let sum = pseudo_sum(client_ip.into(), to.into(), UDP, len) + checksum::sum(message);
        let sum = match !checksum::fold(sum) {
            0 => 0xffff,
            sum => sum,
        };
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        if server.is_some() {
            let mut path = self.path(cx, Some(client_ip.into()), to.into())?;
            let packet = Packet {
                head,
                body: SgArray::new(),
                protocol: UDP,
                ecn: 0,
                dont_fragment: false,
                checksum: Checksum::Unknown,
            };
            self.send(cx, &mut path, packet);
            return Ok(());
        }
        let header = Header { protocol: UDP, ecn: 0, dont_fragment: false, hop_limit: self.hop_limit, len };
        let part = Part { ident: cx.rng.u16(..).into(), offset: 0, more: false };
        let sum = addresses_sum(client_ip.into(), to.into());
        fill_v4(&self.mac, &mut head, client_ip, to, sum, header, part);
        self.put(cx, [0xff; 6], Waiting { head, body: SgArray::new(), checksum: Checksum::Unknown });
        Ok(())
    }
}

/// Whether the first bytes of a UDP datagram are of one from a server to a client.
pub(super) fn is_dhcp(ports: Option<&[u8; 4]>) -> bool {
    let Some(&[a, b, c, d]) = ports else { return false };
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])) == (SERVER, CLIENT)
}

/// What is in a UDP datagram, if its length and its checksum are right.
fn udp_content(from: Ipv4Addr, to: Ipv4Addr, data: &[u8], sum: Checksum) -> Option<&[u8]> {
    let &[_, _, _, _, high, low, sum_high, sum_low] = data.first_chunk::<HEADER>()?;
    let datagram = data.get(..u16::from_be_bytes([high, low]).into())?;
    let pseudo = pseudo_sum(from.into(), to.into(), UDP, datagram.len());
    let right = sum != Checksum::Unknown
        || (sum_high, sum_low) == (0, 0)
        || checksum::fold(pseudo + checksum::sum(datagram)) == 0xffff;
    datagram.get(HEADER..).filter(|_| right)
}

/// The length of a prefix by its mask, or by the address's class where there is none. None: no mask.
fn prefix_len(addr: Ipv4Addr, mask: Option<Ipv4Addr>) -> Option<u8> {
    match mask {
        Some(mask) => {
            let ones = mask.to_bits().leading_ones();
            (mask.to_bits().count_ones() == ones).then_some(ones as u8)
        }
        None => Some(match addr.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        }),
    }
}
