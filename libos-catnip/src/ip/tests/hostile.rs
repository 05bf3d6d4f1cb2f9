//! Whatever arrives: no panic, and no more memory than the bounds allow.

use proptest::prelude::*;

use super::*;

fn limits() -> IpConfig {
    IpConfig {
        slaac: true,
        neighbours_max: 16,
        fragments_max: 4,
        fragments_bytes: 1 << 16,
        neighbour_queue_bytes: 1 << 16,
        ..config(&["10.0.0.1/24", "fd00::1/64"])
    }
}

/// Frames of every kind that is understood.
fn valid() -> Vec<Vec<u8>> {
    let arp = |operation: u8| {
        [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac(2), &[10, 0, 0, 2], &mac(1), &[10, 0, 0, 1]].concat()
    };
    let (own, peer) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let ours = ipv4(own, peer, 6, 0x4000, &[1; 1460])[..60].to_vec();
    let ours6 = ipv6("fd00::1", "fd00::2", 6, 64, &[1; 40]);
    let target = |kind: u8, flags: u8, text: &str, option: u8| {
        let target = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target, &[option, 1], &mac(2)].concat()
    };
    let prefix = "fd01::".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let router = [
        &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[1, 1],
        &mac(2),
        &[5, 1, 0, 0, 0, 0, 5, 0xdc],
        &[3, 4, 64, 0xc0, 0, 0, 0xe, 0x10, 0, 0, 0xe, 0x10, 0, 0, 0, 0],
        &prefix,
    ]
    .concat();
    let v4 = [
        ipv4(peer, own, 17, 0, &[7; 40]),
        ipv4(peer, own, 17, 0x2000, &[7; 40]),
        ipv4(peer, own, 17, 5, &[7; 40]),
        ipv4_options(peer, own, 6, 0, &[7, 7, 4, 0, 0, 0, 0, 0], &[7; 40]),
        ipv4(peer, own, 99, 0, &[7; 40]),
        ipv4(peer, own, 1, 0, &summed([&[8, 0, 0, 0, 1, 1, 1, 1][..], &[7; 40]].concat(), 0)),
        ipv4(peer, own, 1, 0, &summed([&[3, 4, 0, 0, 0, 0, 5, 0][..], &ours].concat(), 0)),
    ];
    let v6 = [
        ipv6("fd00::2", "fd00::1", 6, 64, &[7; 40]),
        ipv6("fd00::2", "fd00::1", 0, 64, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &[7; 40]].concat()),
        ipv6(
            "fd00::2",
            "fd00::1",
            60,
            64,
            &[&[43, 0, 0xc2, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0][..], &[7; 40]].concat(),
        ),
        ipv6("fd00::2", "fd00::1", 44, 64, &[&[6, 0, 0, 1, 0, 0, 0, 9][..], &[7; 40]].concat()),
        ipv6("fd00::2", "fd00::1", 44, 64, &[&[6, 0, 0, 40, 0, 0, 0, 9][..], &[7; 40]].concat()),
        icmpv6("fd00::2", "fd00::1", 64, &[&[128, 0, 0, 0, 1, 1, 1, 1][..], &[7; 40]].concat()),
        icmpv6("fd00::2", "fd00::1", 64, &[&[2, 0, 0, 0, 0, 0, 5, 0][..], &ours6].concat()),
        icmpv6("fd00::2", "ff02::1:ff00:1", 255, &target(135, 0, "fd00::1", 1)),
        icmpv6("fd00::2", "fd00::1", 255, &target(136, 0x60, "fd00::2", 2)),
        icmpv6("fe80::2", "ff02::1", 255, &router),
    ];
    let arps = [1, 2].map(|operation| ethernet(2, [0xff; 6], 0x806, &arp(operation)));
    let v4 = v4.iter().map(|packet| ethernet(2, mac(1), 0x800, packet));
    let v6 = v6.iter().map(|packet| {
        let group =
            (packet[24] == 0xff).then(|| [0x33, 0x33, packet[36], packet[37], packet[38], packet[39]]);
        ethernet(2, group.unwrap_or(mac(1)), 0x86dd, packet)
    });
    arps.into_iter().chain(v4).chain(v6).collect()
}

/// Makes the sums that a stack looks at first right again, so that what lies behind them is reached.
fn resum(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
        frame[24..26].fill(0);
        let sum = !checksum::fold(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        if frame[23] == ICMP && frame.len() >= 42 {
            let message = summed(frame[34..].to_vec(), 0);
            frame[34..].copy_from_slice(&message);
        }
    }
    if frame.len() >= 62 && frame[12..14] == [0x86, 0xdd] && frame[20] == ICMP6 {
        let octets = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        let pseudo = path::pseudo_sum(octets(22), octets(38), ICMP6, frame.len() - 54);
        let message = summed(frame[54..].to_vec(), pseudo);
        frame[54..].copy_from_slice(&message);
    }
}

/// Hands in a frame cut in two, as a device may, then sees to it that the bounds hold.
fn endure(host: &mut Host, bytes: &[u8]) {
    let mut data = SgArray::new();
    let cut = bytes.len().min(128);
    for part in [&bytes[..cut], &bytes[cut..]] {
        if !part.is_empty() {
            data.push(host.heap.copy_from(part).unwrap()).unwrap();
        }
    }
    let frame = Frame::new(data);
    if let Received::Transport(datagram) = host.run(|ip, cx| ip.receive(cx, frame)) {
        assert!(datagram.data.segments().len() < 2 || datagram.data.segments()[0].len() >= CONTIGUOUS);
        host.run(|ip, cx| ip.reject_port(cx, &datagram));
    }
    host.take();
    while !matches!(host.next(), Received::Nothing) {}
}

fn bounds(host: &mut Host) {
    assert!(host.ip.neighbours.len() <= 16);
    assert!(host.ip.neighbours.waiting() <= 1 << 16);
    let (packets, bytes) = host.ip.fragments.held();
    assert!(packets <= 4 && bytes <= 1 << 16);
    assert!(host.ip.routes.own().len() <= 16);
    for _ in 0..200 {
        host.pass(Duration::from_secs(1));
        host.take();
        while !matches!(host.next(), Received::Nothing) {}
    }
    assert_eq!(host.heap.stats().objects_live, 0);
}

#[test]
fn the_valid_frames_are_understood() {
    let mut host = Host::with(1, &limits(), &caps(1), &heap());
    host.settle();
    for frame in valid() {
        endure(&mut host, &frame);
    }
    for name in
        ["ip_malformed", "ip_bad_checksum", "ip_foreign", "ip_martian", "ip_neighbour_messages_refused"]
    {
        assert_eq!(host.counter(name), 0, "{name}");
    }
    assert_eq!(host.counter("ip_reassembled"), 2);
    bounds(&mut host);
}

#[test]
fn whoever_asks_while_the_device_is_stuck_fills_no_memory() {
    let mut host = Host::with(1, &limits(), &caps(1), &heap());
    host.settle();
    let frames = valid();
    for n in 0..20_000 {
        let frame = Frame::new(SgArray::copy_from(&host.heap, &frames[n % frames.len()]).unwrap());
        host.run(|ip, cx| ip.receive(cx, frame));
        assert!(host.ip.outbox.len() <= CONGESTED);
    }
    assert!(host.counter("ip_answers_dropped") > 0);
    host.take();
    bounds(&mut host);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(frames in proptest::collection::vec(
        (proptest::collection::vec(any::<u8>(), 0..300), 0usize..4), 1..30)) {
        let mut host = Host::with(1, &limits(), &caps(1), &heap());
        host.settle();
        for (mut bytes, kind) in frames {
            if kind < 3 && bytes.len() >= 14 {
                bytes[..6].copy_from_slice(&mac(1));
                bytes[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [8, 6]][kind]);
            }
            endure(&mut host, &bytes);
        }
        bounds(&mut host);
    }

    #[test]
    fn mutated_frames_do_no_harm(mutations in proptest::collection::vec(
        (any::<prop::sample::Index>(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
         any::<prop::sample::Index>(), 0u8..4), 1..60)) {
        let valid = valid();
        let mut host = Host::with(1, &limits(), &caps(1), &heap());
        host.settle();
        for (which, changes, cut, how) in mutations {
            let mut frame = which.get(&valid).clone();
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if how == 0 {
                frame.truncate(cut.index(frame.len() + 1));
            }
            if how < 3 {
                resum(&mut frame);
            }
            endure(&mut host, &frame);
            if how == 1 {
                host.pass(Duration::from_millis(400));
            }
        }
        bounds(&mut host);
    }
}
