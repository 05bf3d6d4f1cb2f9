//! IPv4, ICMP, loop-back, routes.

use super::*;

/// A stack to which 10.0.0.2 and the router 10.0.0.254 are known.
fn host() -> Host {
    with(&IpConfig { gateway4: Some("10.0.0.254".parse().unwrap()), ..config(&["10.0.0.1/24"]) }, &caps(1))
}

fn with(config: &IpConfig, caps: &Caps) -> Host {
    let mut host = Host::with(1, config, caps, &heap());
    host.settle();
    for n in [2, 254] {
        let message =
            [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(n), &[10, 0, 0, n], &[0; 6], &[10, 0, 0, 1]].concat();
        host.hear(&ethernet(n, [0xff; 6], 0x806, &message));
    }
    host.take();
    host
}

fn hear(host: &mut Host, packet: &[u8]) -> Received {
    host.hear(&ethernet(2, mac(1), 0x800, packet))
}

const PEER: [u8; 4] = [10, 0, 0, 2];
const OWN: [u8; 4] = [10, 0, 0, 1];

#[test]
fn a_datagram_comes_without_headers_and_without_padding() {
    let mut host = host();
    let mut frame = ethernet(2, mac(1), 0x800, &ipv4(PEER, OWN, 6, 0, b"a segment"));
    frame.resize(60, 0xee);
    let got = datagram(host.hear(&frame));
    assert_eq!(got.data.to_vec(), b"a segment");
    assert_eq!((got.local, got.remote, got.protocol), (OWN.into(), PEER.into(), 6));
    assert_eq!((got.cast, got.ecn, got.checksum), (Cast::Unicast, 0, Checksum::Unknown));
    let mut marked = ipv4(PEER, OWN, 6, 0, b"a segment");
    marked[1] = 3;
    marked[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(&marked[..20]));
    marked[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(datagram(hear(&mut host, &marked)).ecn, 3);
    assert_eq!(datagram(hear(&mut host, &ipv4(PEER, [10, 0, 0, 255], 17, 0, b"all"))).cast, Cast::Broadcast);
}

#[test]
fn headers_of_frames_are_as_they_should_be() {
    let mut host = host();
    let mut path = host.run(|ip, cx| ip.path(cx, None, addr("10.0.0.2"))).unwrap();
    assert_eq!((path.headroom(), path.mtu(), path.local()), (34, 1500, OWN.into()));
    let mut packet = host.packet(&path, b"a header", b"and a body");
    packet.protocol = 6;
    packet.ecn = 2;
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    let expected = {
        let mut packet = ipv4(OWN, PEER, 6, 0x4000, b"a headerand a body");
        packet[1] = 2;
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        let sum = !checksum::fold(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    assert_eq!(host.take(), [ethernet(1, mac(2), 0x800, &expected)]);
    // Beyond the link: to the router.
    let path = host.send("192.0.2.1", &[0; 20]);
    assert_eq!(path.remote(), addr("192.0.2.1"));
    let frames = host.take();
    assert!(frames[0][..6] == mac(254) && frames[0][30..34] == [192, 0, 2, 1]);
    // To a group, and to all.
    host.send("239.1.2.3", &[0; 20]);
    host.send("255.255.255.255", &[0; 20]);
    host.send("10.0.0.255", &[0; 20]);
    let to: Vec<_> = host.take().iter().map(|frame| frame[..6].to_vec()).collect();
    assert_eq!(to, [vec![1, 0, 0x5e, 1, 2, 3], vec![0xff; 6], vec![0xff; 6]]);
}

#[test]
fn the_pseudo_sum_is_that_of_the_pseudo_header() {
    let host = &mut Host::settled(1, &["10.0.0.1/24", "fd00::1/64"]);
    for (to, bytes) in [
        ("10.0.0.2", [&OWN[..], &PEER, &[0, 17], &1234u16.to_be_bytes()].concat()),
        ("fd00::2", {
            let of = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            [&of("fd00::1")[..], &of("fd00::2"), &1234u32.to_be_bytes(), &[0, 0, 0, 17]].concat()
        }),
    ] {
        let path = host.run(|ip, cx| ip.path(cx, None, addr(to))).unwrap();
        assert_eq!(u32::from(checksum::fold(path.pseudo_sum(17, 1234))), checksum::sum(&bytes), "{to}");
    }
}

#[test]
fn what_contradicts_itself_is_dropped() {
    let mut host = host();
    let good = ipv4(PEER, OWN, 6, 0, b"a segment");
    let resum = |mut packet: Vec<u8>| {
        packet[10..12].fill(0);
        let sum = !checksum::fold(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    for (packet, counter) in [
        (good[..19].to_vec(), "ip_malformed"),
        (resum(with(0, 0x65)), "ip_malformed"),
        (resum(with(0, 0x44)), "ip_malformed"),
        (resum(with(0, 0x4f)), "ip_malformed"),
        (resum(with(3, 19)), "ip_malformed"),
        (resum(with(3, 30)), "ip_malformed"),
        (with(8, 1), "ip_bad_checksum"),
    ] {
        let before = host.counter(counter);
        assert!(matches!(hear(&mut host, &packet), Received::Nothing));
        assert_eq!(host.counter(counter), before + 1, "{packet:?}");
    }
    assert!(matches!(hear(&mut host, &good), Received::Transport(_)));
}

#[test]
fn martians_are_dropped_and_counted() {
    let mut host = host();
    let strange = [
        ([127, 0, 0, 1], OWN),
        ([224, 0, 0, 5], OWN),
        ([255, 255, 255, 255], OWN),
        ([10, 0, 0, 255], OWN),
        ([0, 0, 0, 0], OWN),
        (OWN, OWN),
        (PEER, [127, 0, 0, 1]),
    ];
    for (n, (from, to)) in strange.into_iter().enumerate() {
        assert!(matches!(hear(&mut host, &ipv4(from, to, 17, 0, &[0; 8])), Received::Nothing));
        assert_eq!(host.counter("ip_martian"), n as u64 + 1, "{from:?} {to:?}");
    }
    // What is for one, to all.
    host.hear(&ethernet(2, [0xff; 6], 0x800, &ipv4(PEER, OWN, 17, 0, &[0; 8])));
    assert_eq!(host.counter("ip_martian"), strange.len() as u64 + 1);
    // What is for others.
    let before = host.counter("ip_foreign");
    hear(&mut host, &ipv4(PEER, [10, 0, 0, 7], 17, 0, &[0; 8]));
    hear(&mut host, &ipv4(PEER, [239, 1, 2, 3], 17, 0, &[0; 8]));
    host.hear(&ethernet(2, mac(7), 0x800, &ipv4(PEER, OWN, 17, 0, &[0; 8])));
    host.hear(&ethernet(1, mac(1), 0x800, &ipv4(PEER, OWN, 17, 0, &[0; 8])));
    host.hear(&ethernet(2, mac(1), 0x88cc, &[0; 40]));
    assert_eq!(host.counter("ip_foreign"), before + 5);
    assert!(host.take().is_empty());
}

#[test]
fn options_are_skipped_but_source_routes_refused() {
    let mut host = host();
    let mut hear = |options: &[u8]| hear(&mut host, &ipv4_options(PEER, OWN, 6, 0, options, b"segment"));
    for options in [&[1, 1, 1, 0][..], &[7, 7, 4, 0, 0, 0, 0, 0], &[0x94, 4, 0, 0]] {
        assert_eq!(datagram(hear(options)).data.to_vec(), b"segment");
    }
    for options in [&[131, 7, 4, 10, 0, 0, 9, 0][..], &[137, 3, 4, 0], &[1, 1, 7, 9], &[1, 1, 1, 7]] {
        assert!(matches!(hear(options), Received::Nothing), "{options:?}");
    }
    assert_eq!(host.counter("ip_source_routed"), 4);
}

#[test]
fn an_echo_comes_back_with_what_it_carried_where_it_lay() {
    let mut host = host();
    for (len, segments) in [(0, 1), (56, 2), (1472, 2)] {
        let message = summed([&[8, 0, 0, 0, 1, 2, 3, 4][..], &vec![7; len]].concat(), 0);
        let copied = host.heap.stats().foreign_copies;
        assert!(matches!(hear(&mut host, &ipv4(PEER, OWN, 1, 0, &message)), Received::Nothing));
        // One copy is the test's own.
        assert_eq!(host.heap.stats().foreign_copies, copied + 1);
        assert_eq!(host.ip.outbox[0].data.segments().len(), segments);
        let frame = host.take().remove(0);
        let reply = summed([&[0, 0, 0, 0, 1, 2, 3, 4][..], &vec![7; len]].concat(), 0);
        assert_eq!((&frame[..6], &frame[26..34]), (&mac(2)[..], &[OWN, PEER].concat()[..]));
        assert_eq!(frame[34..], reply);
    }
    let message = summed([&[8, 0, 0, 0, 1, 2, 3, 4][..], &[7; 9]].concat(), 0);
    hear(&mut host, &ipv4(PEER, [10, 0, 0, 255], 1, 0, &message));
    let mut wrong = message.clone();
    wrong[9] ^= 1;
    hear(&mut host, &ipv4(PEER, OWN, 1, 0, &wrong));
    hear(&mut host, &ipv4(PEER, OWN, 1, 0, &message[..7]));
    assert!(host.take().is_empty());
    assert_eq!((host.counter("ip_bad_checksum"), host.counter("icmp_echo_replies_sent")), (2, 3));
}

#[test]
fn errors_quote_the_packet_and_are_not_many() {
    let mut host = host();
    let payload: Vec<u8> = (0..800).map(|n| n as u8).collect();
    let got = datagram(hear(&mut host, &ipv4(PEER, OWN, 17, 0, &payload)));
    host.run(|ip, cx| ip.reject_port(cx, &got));
    let frame = host.take().remove(0);
    assert_eq!((frame.len(), frame[23], &frame[34..36]), (14 + 576, 1, &[3, 3][..]));
    assert_eq!(checksum::fold(checksum::sum(&frame[34..])), 0xffff);
    let quoted = &frame[42..];
    assert_eq!((&quoted[..4], quoted[9]), (&[0x45, 0, 3, 52][..], 17));
    assert_eq!((&quoted[12..20], &quoted[20..]), (&[PEER, OWN].concat()[..], &payload[..528]));
    assert_eq!(checksum::fold(checksum::sum(&quoted[..20])), 0xffff);
    // A protocol that nobody speaks.
    hear(&mut host, &ipv4(PEER, OWN, 132, 0, b"to nobody"));
    assert_eq!(host.take()[0][34..36], [3, 2]);
    // Nothing about what came to all.
    let got = datagram(hear(&mut host, &ipv4(PEER, [10, 0, 0, 255], 17, 0, &payload)));
    host.run(|ip, cx| ip.reject_port(cx, &got));
    assert!(host.take().is_empty());
    for _ in 0..1000 {
        hear(&mut host, &ipv4(PEER, OWN, 132, 0, b"to nobody"));
    }
    assert!(host.take().len() <= 10);
    assert!(host.counter("icmp_errors_limited") >= 990);
}

/// An ICMP error about a packet of ours.
fn error(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    ipv4([10, 0, 0, 254], OWN, 1, 0, &summed([&[kind, code, 0, 0, 0, 0, high, low][..], quoted].concat(), 0))
}

#[test]
fn errors_are_told_to_the_transport() {
    let mut host = host();
    let ours = ipv4(OWN, [192, 0, 2, 1], 6, 0x4000, b"12345678 and so on");
    for (kind, code, expected) in [
        (3, 0, ProblemKind::Unreachable(Unreachable::Net)),
        (3, 1, ProblemKind::Unreachable(Unreachable::Host)),
        (3, 2, ProblemKind::Unreachable(Unreachable::Protocol)),
        (3, 3, ProblemKind::Unreachable(Unreachable::Port)),
        (3, 13, ProblemKind::Unreachable(Unreachable::Prohibited)),
        (11, 0, ProblemKind::TimeExceeded),
    ] {
        let problem = problem(hear(&mut host, &error(kind, code, 0, &ours)));
        assert_eq!(problem.kind, expected);
        assert_eq!((problem.local, problem.remote), (OWN.into(), addr("192.0.2.1")));
        assert_eq!((problem.protocol, &problem.quoted), (6, b"12345678"));
    }
    // Not about us, about a later fragment, about ICMP, too short, and of kinds not heeded.
    let foreign = ipv4([10, 0, 0, 9], [192, 0, 2, 1], 6, 0, b"12345678");
    let later = ipv4(OWN, [192, 0, 2, 1], 6, 5, b"12345678");
    let icmp = ipv4(OWN, [192, 0, 2, 1], 1, 0, b"12345678");
    for quoted in [&foreign[..], &later, &icmp, &ours[..27], &[]] {
        assert!(matches!(hear(&mut host, &error(3, 3, 0, quoted)), Received::Nothing));
    }
    for kind in [0, 5, 12, 13, 17, 200] {
        assert!(matches!(hear(&mut host, &error(kind, 0, 0, &ours)), Received::Nothing));
    }
    assert!(host.take().is_empty());
}

#[test]
fn path_mtus_are_learned_when_the_transport_agrees_and_forgotten_in_time() {
    let mut host = host();
    let mut path = host.run(|ip, cx| ip.path(cx, None, addr("192.0.2.1"))).unwrap();
    let ours = ipv4(OWN, [192, 0, 2, 1], 6, 0x4000, &[1; 1480]);
    let told = problem(hear(&mut host, &error(3, 4, 1400, &ours)));
    assert_eq!(told.kind, ProblemKind::TooBig(1400));
    host.run(|ip, cx| ip.refresh(cx, &mut path)).unwrap();
    assert_eq!(path.mtu(), 1500, "nobody has vouched for it");
    let now = host.now;
    host.ip.learn_mtu(now, &told);
    host.run(|ip, cx| ip.refresh(cx, &mut path)).unwrap();
    assert_eq!(path.mtu(), 1400);
    // What is too large comes back, and one that may be fragmented is.
    let packet = host.packet(&path, &[9; 1400], &[]);
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    let back = problem(host.next());
    assert_eq!((back.kind, back.quoted), (ProblemKind::TooBig(1400), [9; 8]));
    let packet = Packet { dont_fragment: false, ..host.packet(&path, &[9; 1400], &[]) };
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    assert_eq!(host.take().len(), 2);
    // A router that does not tell: the next plateau. One that tells nonsense: nothing.
    assert_eq!(problem(hear(&mut host, &error(3, 4, 0, &ours))).kind, ProblemKind::TooBig(1492));
    assert!(matches!(hear(&mut host, &error(3, 4, 1500, &ours)), Received::Nothing));
    let small = problem(hear(&mut host, &error(3, 4, 68, &ours)));
    host.ip.learn_mtu(now, &small);
    host.run(|ip, cx| ip.refresh(cx, &mut path)).unwrap();
    assert_eq!(path.mtu(), mtu::LEAST_V4);
    host.pass(Duration::from_secs(601));
    host.run(|ip, cx| ip.refresh(cx, &mut path)).unwrap();
    assert_eq!(path.mtu(), 1500);
}

#[test]
fn large_datagrams_go_in_fragments_and_come_out_whole() {
    let (mut a, mut b) =
        (Host::settled(1, &["10.0.0.1/24", "fd00::1/64"]), Host::settled(2, &["10.0.0.2/24", "fd00::2/64"]));
    let body: Vec<u8> = (0..65000).map(|n| (n % 251) as u8).collect();
    for to in ["10.0.0.2", "fd00::2"] {
        for len in [1473usize, 2960, 5000, 65000] {
            let mut path = a.run(|ip, cx| ip.path(cx, None, addr(to))).unwrap();
            let mut packet = a.packet(&path, b"8 octets", &body[..len]);
            packet.dont_fragment = false;
            // The device would have summed: somebody has to.
            let (start, at) = (path.headroom() as u16, path.headroom() as u16 + 6);
            packet.checksum = Checksum::Partial { start, at };
            a.run(|ip, cx| ip.send(cx, &mut path, packet));
            let mut got = exchange(&mut [&mut a, &mut b]);
            let got = datagram(got[1].pop().expect("it arrives"));
            let bytes = got.data.to_vec();
            assert_eq!((&bytes[..6], &bytes[8..]), (&b"8 octe"[..], &body[..len]), "{to} {len}");
            let expected = checksum::sum(b"8 octets") + checksum::sum(&body[..len]);
            assert_eq!(bytes[6..8], (!checksum::fold(expected)).to_be_bytes());
            assert_eq!((got.protocol, got.checksum), (17, Checksum::Unknown));
            assert!(got.data.segments()[0].len() >= 60);
        }
    }
    assert_eq!(b.counter("ip_reassembled"), 8);
    assert_eq!(b.counter("ip_reassembling_bytes"), 0);
}

#[test]
fn fragments_that_remain_alone_are_reported_and_forgotten() {
    let mut host = host();
    hear(&mut host, &ipv4(PEER, OWN, 17, 0x2000, &[1; 80]));
    hear(&mut host, &ipv4([10, 0, 0, 3], OWN, 17, 0x2000 | 10, &[1; 80]));
    assert_eq!(host.counter("ip_reassembling"), 2);
    host.pass(Duration::from_secs(29));
    assert!(host.take().is_empty());
    host.pass(Duration::from_secs(2));
    assert_eq!(host.counter("ip_reassembling"), 0);
    let frames = host.take();
    // Only about the one whose first fragment came.
    assert_eq!(frames.len(), 1);
    assert_eq!((&frames[0][30..34], &frames[0][34..36]), (&PEER[..], &[11, 1][..]));
}

#[test]
fn segments_fit_the_device() {
    for (max_segs, max_seg_len) in [(1, 2048), (2, 1500), (3, 700), (8, 256)] {
        let caps = Caps { max_segs, max_seg_len, ..caps(1) };
        let mut host = with(&config(&["10.0.0.1/24"]), &caps);
        let mut path = host.run(|ip, cx| ip.path(cx, None, PEER.into())).unwrap();
        let mut packet = host.packet(&path, &[1; 20], &[]);
        for n in 0..8 {
            packet.body.push(host.heap.copy_from(&vec![n; 100 + n as usize]).unwrap()).unwrap();
        }
        let mut expected = vec![1; 20];
        expected.extend(packet.body.to_vec());
        host.run(|ip, cx| ip.send(cx, &mut path, packet));
        let data = &host.ip.outbox[0].data;
        assert_eq!(data.to_vec()[34..], expected);
        assert!(data.segments().len() <= max_segs, "{max_segs}");
        assert!(data.segments().iter().all(|segment| segment.len() <= max_seg_len));
    }
}

#[test]
fn packets_to_ourselves_do_not_touch_the_device() {
    let mut host = host();
    for to in ["10.0.0.1", "127.0.0.1", "127.9.9.9"] {
        let path = host.send(to, b"to myself");
        assert_eq!(path.mtu(), 65535);
        assert!(host.ip.outbox.is_empty());
        assert_eq!(host.ip.next_deadline(), Some(Instant::default()));
        assert_eq!(host.poll(), 1);
        let got = datagram(host.next());
        assert_eq!((got.local, got.remote), (addr(to), path.local()));
        assert_eq!((got.data.to_vec(), got.checksum), (b"to myself".to_vec(), Checksum::Verified));
        assert!(matches!(host.next(), Received::Nothing));
    }
    // What is rejected comes back as well.
    host.send("127.0.0.1", b"12345678");
    let got = datagram(host.next());
    host.run(|ip, cx| ip.reject_port(cx, &got));
    assert_eq!(problem(host.next()).kind, ProblemKind::Unreachable(Unreachable::Port));
    // The queue is bounded.
    for _ in 0..3000 {
        host.send("127.0.0.1", b"to myself");
    }
    assert_eq!(host.poll(), QUEUE);
}

#[test]
fn ways_that_cannot_be_are_refused() {
    let host = &mut Host::settled(1, &["10.0.0.1/24"]);
    let mut refused = |local: Option<&str>, remote: &str| {
        host.run(|ip, cx| ip.path(cx, local.map(addr), addr(remote))).unwrap_err()
    };
    assert_eq!(refused(None, "192.0.2.1"), Error::Unreachable);
    assert_eq!(refused(None, "fd00::2"), Error::Unreachable);
    assert_eq!(refused(None, "fe80::2"), Error::Unreachable);
    assert_eq!(refused(None, "0.0.0.0"), Error::BadAddress);
    assert_eq!(refused(None, "::ffff:10.0.0.2"), Error::BadAddress);
    assert_eq!(refused(Some("::1"), "10.0.0.2"), Error::BadAddress);
    assert_eq!(refused(Some("10.0.0.3"), "10.0.0.2"), Error::AddressNotAvailable);
    assert_eq!(refused(Some("127.0.0.1"), "10.0.0.2"), Error::AddressNotAvailable);
    let local: Vec<IpAddr> = host.ip.addresses().collect();
    assert_eq!(local, [addr("10.0.0.1")]);
    assert!(
        host.ip.is_local(addr("10.0.0.1"))
            && host.ip.is_local(addr("127.3.3.3"))
            && !host.ip.is_local(addr("10.0.0.2"))
    );
}

#[test]
fn the_longest_prefix_and_its_own_address_are_chosen() {
    let route = |to: &str, via: &str| RouteConfig { to: to.into(), via: addr(via) };
    let config = IpConfig {
        gateway4: Some("10.0.0.254".parse().unwrap()),
        routes: vec![route("172.16.0.0/12", "10.1.0.254"), route("172.16.5.0/24", "10.0.0.253")],
        ..config(&["10.0.0.1/24", "10.1.0.1/24"])
    };
    let mut host = Host::with(1, &config, &caps(1), &heap());
    for (to, from, via) in [
        ("10.0.0.9", "10.0.0.1", "10.0.0.9"),
        ("10.1.0.9", "10.1.0.1", "10.1.0.9"),
        ("172.16.1.1", "10.1.0.1", "10.1.0.254"),
        ("172.16.5.1", "10.0.0.1", "10.0.0.253"),
        ("8.8.8.8", "10.0.0.1", "10.0.0.254"),
    ] {
        assert_eq!(host.ip.routes.route(addr(to)), Some(addr(via)));
        assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr(to))).unwrap().local(), addr(from));
    }
}

#[test]
fn configurations_that_cannot_be_are_refused_with_a_text() {
    let refused = |config: IpConfig| {
        let error = Ip::new(&config, &caps(1), &mut fastrand::Rng::with_seed(1)).unwrap_err();
        error.to_string()
    };
    let base = || config(&["10.0.0.1/24"]);
    assert!(refused(config(&["10.0.0.1"])).contains("10.0.0.1/24"));
    assert!(refused(config(&["10.0.0.255/24"])).contains("host"));
    assert!(refused(IpConfig { gateway4: Some("10.1.0.1".parse().unwrap()), ..base() }).contains("10.1.0.1"));
    assert!(
        refused(IpConfig { gateway4: Some("10.0.0.1".parse().unwrap()), ..base() }).contains("neighbour")
    );
    assert!(refused(IpConfig { hop_limit: 0, ..base() }).contains("hop_limit"));
    assert!(refused(IpConfig { neighbours_max: 1, ..base() }).contains("neighbours_max"));
    let routes = vec![RouteConfig { to: "10.2.0.0".into(), via: addr("10.0.0.2") }];
    assert!(refused(IpConfig { routes, ..base() }).contains("10.2.0.0"));
}
