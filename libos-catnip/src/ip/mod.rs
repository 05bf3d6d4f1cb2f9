//! Ethernet, ARP and NDP, IPv4 and IPv6, ICMP, fragments, routes, address configuration.
//!
//! [`Ip`] takes received frames and gives what is for a transport protocol, and takes that protocol's packets and appends
//! frames to its outbox. What a connection needs to send without a search is its [`Path`]. ARP, NDP, ICMP and DHCP are
//! answered and asked in here.
//!
//! Invariants: all tables and queues are bounded, and what arrives can at the most replace what arrived. Time and
//! randomness come in with each call. A packet to a neighbour that is known, and one that is received whole, cost no
//! allocation but the caller's own and no search that grows with the number of connections.
//!
//! | file | what it holds |
//! |---|---|
//! | `addr`, `routes` | kinds of addresses; own ones, and the way to others |
//! | `path`, `send` | what a connection keeps; headers, fragments, loop-back |
//! | `quick` | the short way for ordinary packets |
//! | `v4`, `v6` | received packets, down to the transport header |
//! | `neighbours`, `arp`, `ndp`, `mld` | who has which Ethernet address; groups |
//! | `icmp4`, `icmp6`, `limiter`, `mtu` | errors both ways, echo, path MTUs |
//! | `fragments` | putting fragments together |
//! | `dhcp`, `autoconf` | addresses that a server or a router gives |
//! | `checksum`, `segments` | sums, and work on scatter-gather arrays |

mod addr;
mod arp;
mod autoconf;
mod brief;
pub(crate) mod checksum;
mod config;
mod counters;
mod dhcp;
mod face;
mod fragments;
mod icmp4;
mod icmp6;
mod limiter;
mod mld;
mod mtu;
mod ndp;
mod neighbours;
mod path;
mod quick;
mod routes;
mod segments;
mod send;
mod v4;
mod v6;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

pub(crate) use self::addr::Cast;
pub(crate) use self::brief::{Clear, HEADERS, behind_headers};
pub use self::config::{IpConfig, RouteConfig};
pub(crate) use self::path::{Path, pseudo_sum};

use self::addr::Cidr;
use self::autoconf::Autoconf;
use self::counters::Counters;
use self::dhcp::Dhcp;
use self::fragments::Fragments;
use self::limiter::Limiter;
use self::mld::Why;
use self::mtu::PathMtus;
use self::neighbours::{Due, Neighbours, RETRY};
use self::routes::{Origin, Own, Routes};
use self::send::Idents;
use crate::device::{Caps, Checksum, Frame};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub(crate) const IPV6: usize = 40;
/// The largest packet through loop-back.
const LOOP_MTU: usize = 65535;
/// Packets to ourselves, and problems, that wait at the most.
const QUEUE: usize = 1024;
/// With more frames than these to be transmitted, strangers get no answers, and datagrams are not taken.
const CONGESTED: usize = 4096;
/// Things of one kind that are done in one turn.
const TURN: usize = 64;
const NEVER: Instant = Instant::from_nanos(u64::MAX);
/// Bytes from the transport header on that are contiguous in a [`Datagram`].
const CONTIGUOUS: usize = 60;
/// RFC 5227 §1.1.
const DEFENCE: Duration = Duration::from_secs(10);
/// Time between two announcements of an address: RFC 5227 §1.1.
const ANNOUNCE: Duration = Duration::from_secs(2);

/// Protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// The Internet layer of one interface, and of loop-back.
#[derive(Debug)]
pub(crate) struct Ip {
    /// Frames to be transmitted, in order.
    pub(crate) outbox: VecDeque<Frame>,
    mac: [u8; 6],
    /// What frames with IPv4 begin with, but for the receiver's address.
    front: [u8; 16],
    mtu: usize,
    /// The same for IPv6, which a router may make smaller.
    mtu_v6: usize,
    max_segs: usize,
    max_seg_len: usize,
    tx_checksum: bool,
    hop_limit: u8,
    hop_limit_v6: u8,
    routes: Routes,
    neighbours: Neighbours,
    autoconf: Autoconf,
    dhcp: Option<Dhcp>,
    fragments: Fragments,
    mtus: PathMtus,
    errors: Limiter,
    /// Announcements against those who take an address of ours.
    defences: Limiter,
    /// Answers to who asks for listeners.
    reports: Limiter,
    idents: Idents,
    /// Packets to ourselves.
    looped: VecDeque<Frame>,
    problems: VecDeque<Problem>,
    /// No timer is due before; zero: to be found out.
    quiet: Instant,
    counters: Counters,
}

/// A packet to be sent.
#[derive(Debug)]
pub(crate) struct Packet {
    /// [`Path::headroom`] bytes to be filled in, then the transport header, then perhaps payload. Alone in its object, or
    /// else it must be sent before anybody looks at the rest of it.
    pub(crate) head: BufMut,
    /// The rest of the payload, sent where it lies; may be empty.
    pub(crate) body: SgArray,
    /// The transport protocol's number.
    pub(crate) protocol: u8,
    /// The two bits of explicit congestion notification: RFC 3168.
    pub(crate) ecn: u8,
    /// No fragments, neither here nor on the way. What is too large comes back as a [`Problem`].
    pub(crate) dont_fragment: bool,
    /// The state of the transport checksum; offsets count from the beginning of `head`.
    pub(crate) checksum: Checksum,
}

/// What a frame turned out to be.
#[derive(Debug)]
pub(crate) enum Received {
    /// Nothing that concerns a transport protocol.
    Nothing,
    /// A datagram for one.
    Transport(Datagram),
    /// Bad news for one.
    Problem(Problem),
}

/// What is known of a received packet besides its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    /// The transport protocol's number.
    pub(crate) protocol: u8,
    /// The two bits of explicit congestion notification.
    pub(crate) ecn: u8,
    /// Whether the transport checksum is still to be verified.
    pub(crate) checksum: Checksum,
    pub(crate) cast: Cast,
}

impl About {
    /// With its content.
    pub(crate) fn with(self, data: SgArray) -> Datagram {
        let About { local, remote, protocol, ecn, checksum, cast } = self;
        Datagram { local, remote, protocol, ecn, checksum, cast, data }
    }
}

impl Datagram {
    pub(crate) fn about(&self) -> About {
        let Datagram { local, remote, protocol, ecn, checksum, cast, .. } = *self;
        About { local, remote, protocol, ecn, checksum, cast }
    }
}

/// A received packet without its headers.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    /// The transport protocol's number.
    pub(crate) protocol: u8,
    /// The two bits of explicit congestion notification.
    pub(crate) ecn: u8,
    /// Whether the transport checksum is still to be verified.
    pub(crate) checksum: Checksum,
    pub(crate) cast: Cast,
    /// From the transport header on, of which at least 60 bytes or all are in the first segment, to the packet's end.
    pub(crate) data: SgArray,
}

/// An ICMP error about a packet of ours, or what could not be sent. From the network it is an allegation: whoever owns
/// the connection checks that `quoted` fits it (RFC 5927), and then, for [`ProblemKind::TooBig`], hands the problem to
/// [`Ip::learn_mtu`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    /// The transport protocol's number.
    pub(crate) protocol: u8,
    /// The first bytes of our transport header.
    pub(crate) quoted: [u8; 8],
    pub(crate) kind: ProblemKind,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    Unreachable(Unreachable),
    /// The packet is larger than what the path carries, which is so many bytes from the IP header on.
    TooBig(usize),
    /// It took too many hops, or its fragments too long.
    TimeExceeded,
}

/// What cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Net,
    Host,
    Protocol,
    Port,
    Prohibited,
}

/// What the sender of a packet is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Port,
    Protocol,
    /// Fragments of it were missing for too long.
    Reassembly,
    /// A field of an IPv6 header, so many bytes from its beginning.
    Parameter {
        code: u8,
        pointer: u32,
    },
}

impl Ip {
    /// Sets up. Fails with a text that names the key of the configuration that does not fit.
    pub(crate) fn new(config: &IpConfig, caps: &Caps, rng: &mut fastrand::Rng) -> Result<Ip, Error> {
        config.check()?;
        let cidrs = config.cidrs()?;
        let v6 = config.slaac || cidrs.iter().any(|cidr| cidr.addr.is_ipv6());
        let least = if v6 { mtu::LEAST_V6 } else { 68 };
        if !(least..=usize::from(u16::MAX)).contains(&caps.mtu) {
            return Err(Error::Config(format!(
                "the device's MTU of {} is not within {least} to 65535",
                caps.mtu
            )));
        }
        let mut ip = Ip {
            outbox: VecDeque::with_capacity(256),
            mac: caps.mac,
            front: brief::front(caps.mac),
            mtu: caps.mtu,
            mtu_v6: caps.mtu,
            max_segs: caps.max_segs.clamp(1, demi_api::sga::MAX_SEGMENTS),
            max_seg_len: caps.max_seg_len.max(1),
            tx_checksum: caps.tx_checksum,
            hop_limit: config.hop_limit,
            hop_limit_v6: config.hop_limit,
            routes: Routes::default(),
            neighbours: Neighbours::new(config, rng),
            autoconf: Autoconf::new(config.slaac, &config.slaac_secret, caps.mac),
            dhcp: config.dhcp.then(Dhcp::new),
            fragments: Fragments::new(config),
            mtus: PathMtus::new(config.path_mtus_max, rng),
            errors: Limiter::new(config.icmp_errors_per_s),
            defences: Limiter::every(DEFENCE),
            reports: Limiter::every(RETRY),
            idents: Idents::new(rng),
            looped: VecDeque::new(),
            problems: VecDeque::new(),
            quiet: Instant::default(),
            counters: Counters::default(),
        };
        for cidr in cidrs {
            ip.adopt(cidr, Origin::Configured, None, None);
            ip.routes.add_route(cidr, None, Origin::Configured, None);
        }
        if v6 {
            let addr = ip.autoconf.address(autoconf::LINK_LOCAL).into();
            ip.adopt(Cidr { addr, len: 64 }, Origin::Configured, None, None);
        }
        ip.configure_routes(config)?;
        Ok(ip)
    }

    fn configure_routes(&mut self, config: &IpConfig) -> Result<(), Error> {
        let mut routes = Vec::new();
        for route in &config.routes {
            let to = route.to.parse::<Cidr>();
            let to = to.map_err(|why| Error::Config(format!("routes: to = {:?} {why}", route.to)))?;
            routes.push((to, route.via));
        }
        let default = |via: IpAddr| (Cidr { addr: if via.is_ipv4() { ANY4 } else { ANY6 }, len: 0 }, via);
        routes.extend(config.gateway4.map(|via| default(via.into())));
        routes.extend(config.gateway6.map(|via| default(via.into())));
        for (to, via) in routes {
            if to.addr.is_ipv4() != via.is_ipv4() || !self.routes.on_link(via) || self.routes.is_own(via) {
                let text = format!(
                    "the router {via} is not a neighbour: it must lie in the prefix of one of `addresses`"
                );
                return Err(Error::Config(text));
            }
            self.routes.add_route(to, Some(via), Origin::Configured, None);
        }
        Ok(())
    }

    /// Takes an address for our own, and makes it known.
    fn adopt(
        &mut self,
        cidr: Cidr,
        origin: Origin,
        preferred: Option<Instant>,
        valid: Option<Instant>,
    ) -> bool {
        // RFC 5227 §2.3 has two announcements; RFC 4862 §5.1 one question.
        let (optimistic, announce) = if cidr.addr.is_ipv4() { (false, 2) } else { (true, 1) };
        let own = Own { cidr, origin, optimistic, preferred, valid, announce, next: Instant::default() };
        self.quiet = Instant::default();
        self.routes.add_address(own)
    }

    /// One bounded turn: timers, questions, announcements; of each kind 64 at the most. Returns how much there was to
    /// do, what waits for [`next`](Ip::next) included.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let waiting = self.looped.len() + self.problems.len();
        if cx.now < self.quiet { waiting } else { waiting + self.run_timers(cx) }
    }

    #[cold]
    #[inline(never)]
    fn run_timers(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for _ in 0..TURN {
            let Some(due) = self.neighbours.poll(cx.now) else { break };
            done += 1;
            match due {
                Due::Ask(addr, known) => self.solicit(cx, addr, known),
                Due::Failed(addr, waiting) => {
                    self.prefer_others(addr);
                    for packet in waiting {
                        self.counters.unanswered += 1;
                        self.problem_of_frame(&packet.head, ProblemKind::Unreachable(Unreachable::Host));
                    }
                }
            }
        }
        self.routes.expire(cx.now);
        if self.mtus.expire(cx.now) {
            self.routes.change();
        }
        done += self.expire_fragments(cx) + self.poll_dhcp(cx) + self.announce(cx) + self.ask_routers(cx);
        self.quiet = self.timer().unwrap_or(NEVER);
        done
    }

    /// When [`poll`](Ip::poll) must be called at the latest. At once, if something changed since the last call.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if !self.looped.is_empty() || !self.problems.is_empty() {
            return Some(Instant::default());
        }
        (self.quiet != NEVER).then_some(self.quiet)
    }

    fn timer(&self) -> Option<Instant> {
        let deadlines = [
            self.neighbours.deadline(),
            self.routes.deadline(),
            self.mtus.deadline(),
            self.fragments.deadline(),
            self.autoconf.deadline(),
            self.dhcp.as_ref().and_then(Dhcp::deadline),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The next of what came up other than by a frame: packets to ourselves, and problems that `poll` and `send` found.
    /// To be called after each turn until there is nothing; what is sent to ourselves meanwhile comes up as well, so
    /// bound the number of calls.
    pub(crate) fn next(&mut self, cx: &mut Cx<'_>) -> Received {
        if let Some(problem) = self.problems.pop_front() {
            return Received::Problem(problem);
        }
        match self.looped.pop_front() {
            Some(frame) => self.receive_looped(cx, frame),
            None => Received::Nothing,
        }
    }

    /// Whether packets to an address come to us.
    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        addr.is_loopback() || self.routes.is_own(addr)
    }

    /// Own addresses, without those of loop-back.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes.own().iter().map(|own| own.cidr.addr)
    }

    /// Names and values of the counters.
    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        visit("ip_neighbours", self.neighbours.len() as u64);
        visit("ip_neighbour_evictions", self.neighbours.evictions);
        visit("ip_neighbour_refusals", self.neighbours.refusals);
        visit("ip_neighbour_queue_overflows", self.neighbours.overflows);
        let (packets, bytes) = self.fragments.held();
        visit("ip_reassembling", packets as u64);
        visit("ip_reassembling_bytes", bytes as u64);
        visit("ip_reassembled", self.fragments.completed);
        visit("ip_reassembly_given_up", self.fragments.given_up);
    }

    /// Takes an ICMP error for true, after the owner of the connection that it names has: RFC 1191 §3, RFC 8201 §4.
    /// [`refresh`](Ip::refresh) then brings paths up to date; `send` does it by itself.
    pub(crate) fn learn_mtu(&mut self, now: Instant, problem: &Problem) {
        if let ProblemKind::TooBig(mtu) = problem.kind
            && self.mtus.learn(problem.remote, mtu, self.link_mtu(problem.remote), now)
        {
            self.quiet = Instant::default();
            self.routes.change();
        }
    }

    /// Announces addresses that are due.
    fn announce(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for index in 0..self.routes.own().len() {
            let own = &mut self.routes.own_mut()[index];
            if own.next > cx.now || (own.announce == 0 && !own.optimistic) {
                continue;
            }
            done += 1;
            if own.announce == 0 {
                // Nobody has objected in time.
                own.optimistic = false;
                if let IpAddr::V6(addr) = own.cidr.addr {
                    self.announce_v6(cx, addr);
                    self.report_groups(cx, Some(addr), Why::New);
                }
                continue;
            }
            own.announce -= 1;
            own.next = cx.now + if own.optimistic { RETRY } else { ANNOUNCE };
            match own.cidr.addr {
                IpAddr::V4(addr) => self.announce_v4(cx, addr),
                IpAddr::V6(addr) => {
                    // RFC 4862 §5.4.2: who asks also listens.
                    self.report_groups(cx, Some(addr), Why::New);
                    self.probe_v6(cx, addr);
                }
            }
        }
        done
    }

    /// Bytes of the largest packet on the link.
    fn link_mtu(&self, remote: IpAddr) -> usize {
        if remote.is_ipv4() { self.mtu } else { self.mtu_v6 }
    }

    /// Whether the device keeps up. If not, whatever nothing else bounds would fill the memory.
    #[inline]
    pub(crate) fn keeps_up(&self) -> bool {
        self.outbox.len() < CONGESTED
    }

    /// Whether an answer is better not given, since the device does not keep up.
    pub(crate) fn is_congested(&mut self) -> bool {
        let congested = !self.keeps_up();
        self.counters.unanswering += u64::from(congested);
        congested
    }

    /// Notes a problem with a packet whose headers are complete, for [`next`](Ip::next).
    fn problem_of_frame(&mut self, head: &[u8], kind: ProblemKind) {
        if self.problems.len() < QUEUE
            && let Some(problem) = send::problem(head, kind)
        {
            self.problems.push_back(problem);
        }
    }
}

const ANY4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

#[cfg(test)]
mod tests;
