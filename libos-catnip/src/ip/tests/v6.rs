//! IPv6, ICMPv6, neighbour discovery, what routers say.

use std::net::Ipv6Addr;

use super::*;

const LINK1: &str = "fe80::ff:fe00:1";
const ROUTER: &str = "fe80::ff:fe00:9";

fn octets(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn host() -> Host {
    Host::settled(1, &["fd00::1/64"])
}

/// Sends a packet to where its address says, as the station `from`.
fn hear(host: &mut Host, from: u8, packet: &[u8]) -> Received {
    let to: [u8; 16] = packet[24..40].try_into().unwrap();
    let to = Ipv6Addr::from(to);
    let group = if to.is_multicast() { addr::group_mac(to.into()) } else { mac(1) };
    host.hear(&ethernet(from, group, 0x86dd, packet))
}

/// A solicitation or an advertisement.
fn ndp(kind: u8, flags: u8, target: &str, option: Option<(u8, u8)>) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &octets(target)].concat();
    if let Some((option, n)) = option {
        message.extend([option, 1]);
        message.extend(mac(n));
    }
    message
}

/// What a frame of neighbour discovery says: from, to, type, flags, target, options.
fn read(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, u8, u8, Ipv6Addr, Vec<u8>) {
    assert_eq!((&frame[12..14], frame[20], frame[21]), (&[0x86, 0xdd][..], 58, 255));
    let at = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let pseudo = path::pseudo_sum(at(22).into(), at(38).into(), 58, frame.len() - 54);
    assert_eq!(checksum::fold(pseudo + checksum::sum(&frame[54..])), 0xffff);
    (at(22), at(38), frame[54], frame[58], at(62), frame[78..].to_vec())
}

#[test]
fn neighbours_find_each_other() {
    let (mut a, mut b) = (host(), Host::settled(2, &["fd00::2/64"]));
    a.send("fd00::2", b"hello");
    let question = a.take();
    let (from, to, kind, _, target, options) = read(&question[0]);
    assert_eq!((from, to), ("fd00::1".parse().unwrap(), "ff02::1:ff00:2".parse().unwrap()));
    assert_eq!((kind, target), (135, "fd00::2".parse().unwrap()));
    assert_eq!(
        (&options[..2], &options[2..], &question[0][..6]),
        (&[1, 1][..], &mac(1)[..], &[0x33, 0x33, 0xff, 0, 0, 2][..])
    );
    assert!(matches!(b.hear(&question[0]), Received::Nothing));
    let answer = b.take();
    let (_, to, kind, flags, target, _) = read(&answer[0]);
    assert_eq!(
        (to, kind, flags, target),
        ("fd00::1".parse().unwrap(), 136, 0x60, "fd00::2".parse().unwrap())
    );
    assert!(matches!(a.hear(&answer[0]), Received::Nothing));
    let got = datagram(b.hear(&a.take()[0]));
    assert_eq!(
        (got.local, got.remote, got.data.to_vec()),
        (addr("fd00::2"), addr("fd00::1"), b"hello".to_vec())
    );
    // The answerer knows whom it answered; link-local addresses work as well.
    b.send("fd00::1", b"back");
    assert!(matches!(a.hear(&b.take()[0]), Received::Transport(_)));
    a.send("fe80::ff:fe00:2", b"near");
    let got = exchange(&mut [&mut a, &mut b]);
    assert!(matches!(&got[1][..], [Received::Transport(got)] if got.remote == addr(LINK1)));
}

#[test]
fn headers_of_frames_are_as_they_should_be() {
    let mut host = host();
    hear(&mut host, 2, &icmpv6("fd00::2", "ff02::1:ff00:1", 255, &ndp(135, 0, "fd00::1", Some((1, 2)))));
    host.take();
    let mut path = host.run(|ip, cx| ip.path(cx, None, addr("fd00::2"))).unwrap();
    assert_eq!((path.headroom(), path.mtu()), (54, 1500));
    let mut packet = host.packet(&path, b"a header", b"and a body");
    packet.ecn = 1;
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    let mut expected = ipv6("fd00::1", "fd00::2", 17, 64, b"a headerand a body");
    expected[1] = 0x10;
    assert_eq!(host.take(), [ethernet(1, mac(2), 0x86dd, &expected)]);
    assert_eq!(
        datagram(hear(&mut host, 2, &{
            let mut packet = ipv6("fd00::2", "fd00::1", 6, 64, b"x");
            packet[1] = 0x30;
            packet
        }))
        .ecn,
        3
    );
}

#[test]
fn extension_headers_are_walked_through() {
    let mut host = host();
    let mut deliver = |first: u8, headers: &[u8]| {
        let packet = ipv6("fd00::2", "fd00::1", first, 64, &[headers, b"content"].concat());
        match hear(&mut host, 2, &packet) {
            Received::Transport(got) => Some((got.protocol, got.data.to_vec())),
            _ => None,
        }
    };
    let whole = Some((6, b"content".to_vec()));
    assert_eq!(deliver(6, &[]), whole);
    assert_eq!(deliver(0, &[6, 0, 5, 2, 0, 0, 1, 0]), whole, "router alert, padding");
    assert_eq!(
        deliver(60, &[6, 1, 0x1e, 4, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0]),
        whole,
        "an option to be skipped"
    );
    assert_eq!(
        deliver(0, &[60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]),
        whole
    );
    assert_eq!(deliver(44, &[6, 0, 0, 0, 0, 0, 0, 1]), whole, "a fragment that is whole");
    assert_eq!(deliver(59, &[]), None);
    assert_eq!(deliver(0, &[6, 9, 0, 0, 0, 0, 0, 0]), None, "longer than the packet");
    assert_eq!(deliver(60, &[6, 0, 0x1e, 9, 0, 0, 0, 0]), None, "an option longer than its header");
    assert_eq!(deliver(60, &[6, 0, 0x40, 0, 0, 0, 0, 0]), None, "an option that wants to be known");
    assert_eq!(deliver(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(9)), None, "too many headers");
    assert_eq!(host.counter("icmp_errors_sent"), 0);
    assert!(host.take().is_empty());
}

#[test]
fn headers_that_are_not_understood_are_reported() {
    let mut host = host();
    hear(&mut host, 2, &icmpv6("fd00::2", "ff02::1:ff00:1", 255, &ndp(135, 0, "fd00::1", Some((1, 2)))));
    host.take();
    for (first, headers, code, pointer) in [
        (43, &[6, 2, 0, 1, 0, 0, 0, 0][..], 0u8, 42u32),
        (60, &[6, 0, 1, 0, 0x80, 1, 0, 0], 2, 44),
        (60, &[0, 0, 1, 4, 0, 0, 0, 0], 1, 6),
        (132, &[], 1, 6),
    ] {
        let content = [headers, &[0; 40]].concat();
        assert!(matches!(
            hear(&mut host, 2, &ipv6("fd00::2", "fd00::1", first, 64, &content)),
            Received::Nothing
        ));
        let frame = host.take().remove(0);
        assert_eq!((frame[20], &frame[54..56]), (58, &[4, code][..]));
        assert_eq!(frame[58..62], pointer.to_be_bytes());
        let pseudo = path::pseudo_sum(addr("fd00::1"), addr("fd00::2"), 58, frame.len() - 54);
        assert_eq!(checksum::fold(pseudo + checksum::sum(&frame[54..])), 0xffff);
    }
    let got = datagram(hear(&mut host, 2, &ipv6("fd00::2", "fd00::1", 17, 64, &[5; 1400])));
    host.run(|ip, cx| ip.reject_port(cx, &got));
    let frame = host.take().remove(0);
    assert_eq!((frame.len(), &frame[54..56]), (14 + 1280, &[1, 4][..]));
}

#[test]
fn echoes_errors_and_martians() {
    let mut host = host();
    hear(&mut host, 2, &icmpv6("fd00::2", "ff02::1:ff00:1", 255, &ndp(135, 0, "fd00::1", Some((1, 2)))));
    host.take();
    let ping = [&[128, 0, 0, 0, 1, 2, 3, 4][..], &[7; 56]].concat();
    hear(&mut host, 2, &icmpv6("fd00::2", "fd00::1", 64, &ping));
    let mut pong = ping.clone();
    pong[0] = 129;
    assert_eq!(host.take(), [ethernet(1, mac(2), 0x86dd, &icmpv6("fd00::1", "fd00::2", 64, &pong))]);
    hear(&mut host, 2, &icmpv6("fd00::2", "ff02::1", 64, &ping));
    assert_eq!(host.take()[0][22..38], octets("fd00::1"));

    let ours = ipv6("fd00::1", "fd00::7", 6, 64, &[9; 40]);
    let mut tell = |kind: u8, code: u8, word: u32, quoted: &[u8]| {
        let message = [&[kind, code, 0, 0][..], &word.to_be_bytes(), quoted].concat();
        match hear(&mut host, 2, &icmpv6("fd00::2", "fd00::1", 64, &message)) {
            Received::Problem(problem) => {
                Some((problem.kind, problem.remote, problem.protocol, problem.quoted))
            }
            _ => None,
        }
    };
    let about = |kind| Some((kind, addr("fd00::7"), 6, [9; 8]));
    assert_eq!(tell(1, 0, 0, &ours), about(ProblemKind::Unreachable(Unreachable::Net)));
    assert_eq!(tell(1, 1, 0, &ours), about(ProblemKind::Unreachable(Unreachable::Prohibited)));
    assert_eq!(tell(1, 3, 0, &ours), about(ProblemKind::Unreachable(Unreachable::Host)));
    assert_eq!(tell(1, 4, 0, &ours), about(ProblemKind::Unreachable(Unreachable::Port)));
    assert_eq!(tell(4, 1, 6, &ours), about(ProblemKind::Unreachable(Unreachable::Protocol)));
    assert_eq!(tell(3, 0, 0, &ours), about(ProblemKind::TimeExceeded));
    assert_eq!(tell(2, 0, 1400, &ours), about(ProblemKind::TooBig(1400)));
    assert_eq!(tell(2, 0, 1279, &ours), None, "less than every link carries");
    assert_eq!(tell(1, 4, 0, &ours[..47]), None);
    assert_eq!(tell(1, 4, 0, &ipv6("fd00::3", "fd00::7", 6, 64, &[9; 40])), None);
    let part = ipv6("fd00::1", "fd00::7", 44, 64, &[&[6, 0, 0, 1, 0, 0, 0, 9][..], &[9; 40]].concat());
    assert_eq!(tell(1, 4, 0, &part), about(ProblemKind::Unreachable(Unreachable::Port)));

    for (n, (from, to)) in [
        ("ff02::2", "fd00::1"),
        ("::1", "fd00::1"),
        ("::", "fd00::1"),
        ("fd00::2", "::1"),
        ("::ffff:10.0.0.2", "fd00::1"),
        ("fd00::1", "fd00::1"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(matches!(hear(&mut host, 2, &ipv6(from, to, 6, 64, &[0; 20])), Received::Nothing));
        assert_eq!(host.counter("ip_martian"), n as u64 + 1, "{from} {to}");
    }
    assert!(matches!(hear(&mut host, 2, &ipv6("fd00::2", "fd00::9", 6, 64, &[0; 20])), Received::Nothing));
    let mut short = ipv6("fd00::2", "fd00::1", 6, 64, &[0; 20]);
    short[5] += 1;
    let malformed = host.counter("ip_malformed");
    hear(&mut host, 2, &short);
    assert_eq!(host.counter("ip_malformed"), malformed + 1);
    host.send("::1", b"to myself");
    assert_eq!(datagram(host.next()).local, addr("::1"));
}

#[test]
fn discovery_from_beyond_the_link_is_refused() {
    let mut host = host();
    let question = ndp(135, 0, "fd00::1", Some((1, 2)));
    let zero = [&question[..24], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    let code = [&[135, 1][..], &question[2..]].concat();
    for (n, packet) in [
        icmpv6("fd00::2", "ff02::1:ff00:1", 254, &question),
        icmpv6("fd00::2", "ff02::1:ff00:1", 255, &code),
        icmpv6("fd00::2", "ff02::1:ff00:1", 255, &zero),
        icmpv6("fd00::2", "ff02::1:ff00:1", 255, &question[..23]),
        icmpv6("fd00::2", "ff02::1:ff00:1", 255, &ndp(135, 0, "ff02::1", Some((1, 2)))),
        icmpv6("::", "ff02::1:ff00:1", 255, &question),
        icmpv6("::", "ff02::1", 255, &question[..24]),
        icmpv6("fd00::2", "ff02::1", 255, &ndp(136, 0x40, "fd00::2", Some((2, 2)))),
        icmpv6("fe80::2", "fd00::1", 255, &[137, 0, 0, 0, 0, 0, 0, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        hear(&mut host, 2, &packet);
        assert_eq!(host.counter("ip_neighbour_messages_refused"), n as u64 + 1);
    }
    // In fragments, it is refused as well.
    let whole = icmpv6("fd00::2", "ff02::1:ff00:1", 255, &question);
    for (offset, more, part) in [(0u16, 1u8, &whole[40..56]), (16, 0, &whole[56..])] {
        let header = [58, 0, (offset >> 8) as u8, offset as u8 | more, 0, 0, 0, 7];
        hear(&mut host, 2, &ipv6("fd00::2", "ff02::1:ff00:1", 44, 255, &[&header, part].concat()));
    }
    assert_eq!(host.counter("ip_reassembled"), 1);
    assert_eq!((host.ip.neighbours.len(), host.take().len()), (0, 0));
    // Nobody was asked: it is not remembered.
    hear(&mut host, 2, &icmpv6("fd00::2", "fd00::1", 255, &ndp(136, 0x60, "fd00::2", Some((2, 2)))));
    assert_eq!(host.ip.neighbours.len(), 0);
}

#[test]
fn an_advertisement_replaces_only_if_it_says_so() {
    let mut host = host();
    host.send("fd00::2", &[0; 20]);
    hear(&mut host, 2, &icmpv6("fd00::2", "fd00::1", 255, &ndp(136, 0x60, "fd00::2", Some((2, 2)))));
    assert_eq!(host.ip.neighbours.mac(addr("fd00::2")), Some(mac(2)));
    hear(&mut host, 3, &icmpv6("fd00::2", "ff02::1", 255, &ndp(136, 0, "fd00::2", Some((2, 3)))));
    assert_eq!(host.ip.neighbours.mac(addr("fd00::2")), Some(mac(2)));
    hear(&mut host, 3, &icmpv6("fd00::2", "ff02::1", 255, &ndp(136, 0x20, "fd00::2", Some((2, 3)))));
    assert_eq!(host.ip.neighbours.mac(addr("fd00::2")), Some(mac(3)));
}

#[test]
fn addresses_are_asked_for_and_given_up_if_somebody_has_them() {
    let mut host = Host::new(1, &["fd00::1/64"]);
    host.poll();
    let frames = host.take();
    let asked: Vec<_> = frames.iter().filter(|frame| frame[20] == 58).map(|frame| read(frame)).collect();
    let targets: Vec<_> = asked
        .iter()
        .map(|(from, to, kind, _, target, options)| {
            assert!(from.is_unspecified() && *kind == 135 && options.is_empty());
            assert_eq!(*to, addr::solicited_node(*target));
            *target
        })
        .collect();
    assert_eq!(targets, ["fd00::1".parse::<Ipv6Addr>().unwrap(), LINK1.parse().unwrap()]);
    // It is used meanwhile, but does not claim it.
    host.send("fd00::2", b"early");
    assert!(read(&host.take()[0]).5.is_empty());
    hear(&mut host, 2, &icmpv6("fd00::2", "ff02::1:ff00:1", 255, &ndp(135, 0, "fd00::1", Some((1, 2)))));
    // What waited goes first, then the answer.
    assert_eq!(read(&host.take()[1]).3, 0x40);
    // Somebody has it.
    hear(&mut host, 2, &icmpv6("fd00::1", "ff02::1", 255, &ndp(136, 0x20, "fd00::1", Some((2, 2)))));
    assert!(!host.ip.is_local(addr("fd00::1")) && host.ip.is_local(addr(LINK1)));
    assert_eq!(host.counter("ip_address_conflicts"), 1);
    // Nobody has the other; from then on it is defended.
    host.pass(Duration::from_secs(2));
    let (from, to, kind, flags, target, _) = read(&host.take()[0]);
    assert_eq!((from, to, kind, flags), (target, addr::ALL_NODES, 136, 0x20));
    hear(&mut host, 2, &icmpv6("::", "ff02::1:ff00:1", 255, &ndp(135, 0, LINK1, None)));
    let (_, to, kind, flags, ..) = read(&host.take()[0]);
    assert_eq!((to, kind, flags), (addr::ALL_NODES, 136, 0x20));
    hear(&mut host, 2, &icmpv6("fe80::9", "ff02::1", 255, &ndp(136, 0x20, LINK1, Some((2, 2)))));
    assert!(host.ip.is_local(addr(LINK1)));
}

#[test]
fn two_that_ask_for_one_address_both_give_it_up() {
    let mut host = Host::new(1, &["fd00::1/64"]);
    host.poll();
    hear(&mut host, 2, &icmpv6("::", "ff02::1:ff00:1", 255, &ndp(135, 0, "fd00::1", None)));
    assert!(!host.ip.is_local(addr("fd00::1")));
}

/// An advertisement of a router: its lifetime, and prefixes with flags and lifetimes.
fn router(life: u16, prefixes: &[(&str, u8, u32, u32)], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 33, 0];
    message.extend(life.to_be_bytes());
    message.extend([0; 8]);
    for (prefix, flags, valid, preferred) in prefixes {
        message.extend([3, 4, 64, *flags]);
        message.extend(valid.to_be_bytes());
        message.extend(preferred.to_be_bytes());
        message.extend([0; 4]);
        message.extend(octets(prefix));
    }
    message.extend(rest);
    icmpv6(ROUTER, "ff02::1", 255, &message)
}

fn slaac(secret: &str) -> Host {
    let config = IpConfig { slaac: true, slaac_secret: secret.into(), ..IpConfig::default() };
    Host::with(1, &config, &caps(1), &heap())
}

#[test]
fn routers_are_asked_for_three_times_and_no_more_once_there_is_one() {
    let mut host = slaac("");
    let mut asked = 0;
    for _ in 0..40 {
        host.pass(Duration::from_secs(1));
        asked +=
            host.take().iter().filter(|frame| frame[54] == 133 && frame[38..54] == octets("ff02::2")).count();
    }
    assert_eq!(asked, 3);
    let mut host = slaac("");
    host.poll();
    hear(&mut host, 9, &router(1800, &[], &[]));
    host.take();
    for _ in 0..40 {
        host.pass(Duration::from_secs(1));
        assert!(host.take().iter().all(|frame| frame[54] != 133));
    }
}

#[test]
fn prefixes_routers_and_the_mtu_come_from_advertisements_and_go_in_time() {
    let mut host = slaac("");
    host.settle();
    assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr("2001:db8::9"))).unwrap_err(), Error::Unreachable);
    let mtu = [5, 1, 0, 0, 0, 0, 5, 120];
    hear(
        &mut host,
        9,
        &router(1800, &[("fd01::", 0xc0, 7200, 3600)], &[&mtu[..], &[1, 1], &mac(9)].concat()),
    );
    let own = addr("fd01::ff:fe00:1");
    assert!(host.ip.is_local(own));
    let path = host.send("2001:db8::9", &[0; 20]);
    assert_eq!((path.local(), path.mtu()), (own, 1400));
    let frames = host.take();
    assert!(frames[0][..6] == mac(9) && frames[0][21] == 33, "to the router, with its hop limit");
    assert_eq!(host.ip.routes.route(addr("fd01::5")), Some(addr("fd01::5")));
    // The router goes; the prefix stays.
    hear(&mut host, 9, &router(0, &[], &[]));
    assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr("2001:db8::9"))).unwrap_err(), Error::Unreachable);
    hear(&mut host, 9, &router(1800, &[], &[]));
    host.pass(Duration::from_secs(1801));
    assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr("2001:db8::9"))).unwrap_err(), Error::Unreachable);
    assert!(host.ip.is_local(own));
    host.pass(Duration::from_secs(7200));
    assert!(!host.ip.is_local(own));
    assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr("fd01::5"))).unwrap_err(), Error::Unreachable);
}

#[test]
fn one_message_does_not_end_an_addresss_life() {
    let mut host = slaac("");
    host.settle();
    let own = addr("fd01::ff:fe00:1");
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 86400, 3600)], &[]));
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 1, 1)], &[]));
    host.pass(Duration::from_secs(7000));
    assert!(host.ip.is_local(own));
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 1, 1)], &[]));
    host.pass(Duration::from_secs(300));
    assert!(!host.ip.is_local(own), "two hours after the first one");
}

#[test]
fn what_routers_cannot_say_is_not_heard() {
    let mut host = slaac("");
    host.settle();
    let before: Vec<IpAddr> = host.ip.addresses().collect();
    // From an address that is not link-local; preferred for longer than valid; link-local and group prefixes.
    hear(
        &mut host,
        9,
        &icmpv6("fd00::9", "ff02::1", 255, &router(1800, &[("fd01::", 0xc0, 100, 100)], &[])[40..]),
    );
    hear(
        &mut host,
        9,
        &router(
            0,
            &[("fd01::", 0x40, 100, 101), ("fe80::", 0xc0, 100, 100), ("ff02::", 0xc0, 100, 100)],
            &[],
        ),
    );
    hear(&mut host, 9, &router(0, &[], &[5, 1, 0, 0, 0, 0, 4, 0xff]));
    hear(&mut host, 9, &router(0, &[], &[5, 1, 0, 0, 0, 0, 0xff, 0xff]));
    assert_eq!(host.ip.addresses().collect::<Vec<_>>(), before);
    assert_eq!(host.ip.mtu_v6, 1500);
    // However many there are.
    for n in 0..1000 {
        hear(&mut host, 9, &router(1800, &[(&format!("fd01:{n:x}::"), 0xc0, 3600, 3600)], &[]));
    }
    assert!(host.ip.addresses().count() <= 8 && host.ip.routes.count(Origin::Router) <= 16);
    // Who has not asked for it is told nothing.
    let mut host = self::host();
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 3600, 3600)], &[]));
    assert!(!host.ip.is_local(addr("fd01::ff:fe00:1")));
}

#[test]
fn opaque_identifiers_are_stable_and_others_are_tried() {
    let of = |secret: &str| slaac(secret).ip.addresses().next().unwrap();
    assert_eq!(of("one"), of("one"));
    assert_ne!(of("one"), of("another"));
    assert_ne!(of("one"), of(""));
    let mut host = slaac("one");
    host.poll();
    let first = of("one");
    let text = first.to_string();
    let IpAddr::V6(v6) = first else { unreachable!() };
    let group = addr::solicited_node(v6).to_string();
    hear(&mut host, 2, &icmpv6("::", &group, 255, &ndp(135, 0, &text, None)));
    let second = host.ip.addresses().next().unwrap();
    assert!(second != first && !host.ip.is_local(first));
}

#[test]
fn sources_are_of_the_destinations_scope_and_not_deprecated() {
    let mut host = slaac("");
    host.settle();
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 7200, 10), ("2001:db8::", 0xc0, 7200, 3600)], &[]));
    let source = |host: &mut Host, to: &str| host.run(|ip, cx| ip.path(cx, None, addr(to))).unwrap().local();
    assert_eq!(source(&mut host, "fe80::5"), addr(LINK1));
    assert_eq!(source(&mut host, "ff02::5"), addr(LINK1));
    assert_eq!(source(&mut host, "fd01::5"), addr("fd01::ff:fe00:1"));
    assert_eq!(source(&mut host, "2001:db8:1::5"), addr("2001:db8::ff:fe00:1"));
    host.pass(Duration::from_secs(11));
    assert_eq!(source(&mut host, "fd01::5"), addr("2001:db8::ff:fe00:1"), "the other is no longer preferred");
}

#[test]
fn a_router_that_does_not_answer_is_left_for_another() {
    let mut host = slaac("");
    host.settle();
    let other = "fe80::ff:fe00:8";
    hear(&mut host, 9, &router(1800, &[("fd01::", 0xc0, 7200, 7200)], &[&[1, 1][..], &mac(9)].concat()));
    let message = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8], &[1, 1], &mac(8)].concat();
    hear(&mut host, 8, &icmpv6(other, "ff02::1", 255, &message));
    assert_eq!(host.ip.routes.route(addr("2001:db8::9")), Some(addr(ROUTER)));
    host.send("2001:db8::9", &[0; 20]);
    for _ in 0..20 {
        host.pass(Duration::from_secs(1));
    }
    assert_eq!(host.ip.routes.route(addr("2001:db8::9")), Some(addr(other)));
    host.take();
    host.send("2001:db8::9", &[0; 20]);
    assert_eq!(host.take()[0][..6], mac(8));
    // The only one stays, whether it answers or not.
    for _ in 0..20 {
        host.pass(Duration::from_secs(1));
    }
    assert_eq!(host.ip.routes.route(addr("2001:db8::9")), Some(addr(other)));
}

#[test]
fn groups_are_reported_at_first_and_when_somebody_asks() {
    /// Why, and the groups.
    fn reports(frames: &[Vec<u8>]) -> Vec<(u8, Vec<Ipv6Addr>)> {
        let reports = frames.iter().filter(|frame| frame[12..14] == [0x86, 0xdd] && frame[20] == 0);
        reports
            .map(|frame| {
                assert_eq!((&frame[..6], frame[21]), (&[0x33, 0x33, 0, 0, 0, 0x16][..], 1));
                assert_eq!(
                    (&frame[38..54], &frame[54..62]),
                    (&octets("ff02::16")[..], &[58, 0, 5, 2, 0, 0, 1, 0][..])
                );
                let from = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
                let pseudo = path::pseudo_sum(from.into(), addr("ff02::16"), 58, frame.len() - 62);
                assert_eq!(checksum::fold(pseudo + checksum::sum(&frame[62..])), 0xffff);
                assert_eq!((frame[62], usize::from(frame[69])), (143, (frame.len() - 70) / 20));
                let groups =
                    frame[70..].chunks(20).map(|record| <[u8; 16]>::try_from(&record[4..]).unwrap().into());
                (frame[70], groups.collect())
            })
            .collect()
    }
    let mut host = Host::new(1, &["fd00::1/64", "10.0.0.1/24"]);
    host.poll();
    let group: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    assert_eq!(reports(&host.take()), [(4, vec![group]), (4, vec![group])]);
    host.settle();
    let query = [&[130, 0, 0, 0, 39, 16, 0, 0][..], &[0; 20]].concat();
    let alert = |from: &str, hop_limit: u8| {
        let pseudo = path::pseudo_sum(addr(from), addr("ff02::1"), 58, query.len());
        let message = summed(query.clone(), pseudo);
        ipv6(from, "ff02::1", 0, hop_limit, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &message].concat())
    };
    hear(&mut host, 9, &alert("fd00::9", 1));
    hear(&mut host, 9, &alert(ROUTER, 64));
    assert!(host.take().is_empty());
    for _ in 0..10 {
        hear(&mut host, 9, &alert(ROUTER, 1));
    }
    assert_eq!(reports(&host.take()), [(2, vec![group])]);
}
