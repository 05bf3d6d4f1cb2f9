//! The DHCP client, with a server made by hand.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const SERVER: [u8; 4] = [10, 0, 0, 5];
const OFFERED: [u8; 4] = [10, 0, 0, 77];

fn client() -> Host {
    Host::with(1, &IpConfig { dhcp: true, ..IpConfig::default() }, &caps(1), &heap())
}

/// What the client asks: where to, kind, exchange, its address, and its options.
struct Asked {
    to: ([u8; 6], [u8; 4]),
    kind: u8,
    exchange: [u8; 4],
    own: [u8; 4],
    options: Vec<(u8, Vec<u8>)>,
}

impl Asked {
    fn option(&self, kind: u8) -> Option<&[u8]> {
        self.options.iter().find(|(found, _)| *found == kind).map(|(_, value)| &value[..])
    }
}

fn asked(host: &mut Host) -> Vec<Asked> {
    host.poll();
    let frames = host.take();
    frames
        .iter()
        .filter(|frame| frame[12..14] == [8, 0] && frame[36..38] == [0, 67])
        .map(|frame| read(frame))
        .collect()
}

fn read(frame: &[u8]) -> Asked {
    let pseudo = path::pseudo_sum(
        Ipv4Addr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap()).into(),
        Ipv4Addr::from(<[u8; 4]>::try_from(&frame[30..34]).unwrap()).into(),
        17,
        frame.len() - 34,
    );
    assert_eq!(checksum::fold(pseudo + checksum::sum(&frame[34..])), 0xffff);
    assert_eq!(&frame[34..38], [0, 68, 0, 67]);
    let message = &frame[42..];
    assert_eq!((message[0], &message[28..34]), (1, &mac(1)[..]));
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let len = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + len].to_vec()));
        rest = &rest[2 + len..];
    }
    let kind = options.iter().find(|(kind, _)| *kind == 53).unwrap().1[0];
    Asked {
        to: (frame[..6].try_into().unwrap(), frame[30..34].try_into().unwrap()),
        kind,
        exchange: message[4..8].try_into().unwrap(),
        own: message[12..16].try_into().unwrap(),
        options,
    }
}

fn answer(kind: u8, exchange: [u8; 4], addr: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut message = vec![2, 1, 6, 0];
    message.extend(exchange);
    message.extend([0; 8]);
    message.extend(addr);
    message.extend([0; 8]);
    message.extend(mac(1));
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 54, 4]);
    message.extend(SERVER);
    message.extend(options);
    message.push(255);
    let mut datagram =
        [&[0, 67, 0, 68][..], &((8 + message.len()) as u16).to_be_bytes(), &[0, 0], &message].concat();
    let pseudo =
        path::pseudo_sum(Ipv4Addr::from(SERVER).into(), Ipv4Addr::BROADCAST.into(), 17, datagram.len());
    let sum = !checksum::fold(pseudo + checksum::sum(&datagram));
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ethernet(5, [0xff; 6], 0x800, &ipv4(SERVER, [255; 4], 17, 0, &datagram))
}

/// Mask, two routers, and an hour.
const TERMS: &[u8] = &[1, 4, 255, 255, 255, 0, 3, 8, 10, 0, 0, 254, 10, 0, 0, 253, 51, 4, 0, 0, 0x0e, 0x10];

/// Brings a client to its lease.
fn bound() -> Host {
    let mut host = client();
    let discover = asked(&mut host).remove(0);
    host.hear(&answer(2, discover.exchange, OFFERED, TERMS));
    let request = asked(&mut host).remove(0);
    host.hear(&answer(5, request.exchange, OFFERED, TERMS));
    host
}

#[test]
fn an_address_and_a_router_are_asked_for_and_used() {
    let mut host = client();
    let discover = asked(&mut host).remove(0);
    assert_eq!((discover.kind, discover.to), (1, ([0xff; 6], [0xff; 4])));
    assert_eq!(discover.option(55), Some(&[1, 3, 51, 54, 58, 59][..]));
    // Others' answers, and wrong ones.
    host.hear(&answer(2, [9; 4], OFFERED, TERMS));
    let mut wrong = answer(2, discover.exchange, OFFERED, TERMS);
    wrong[70] ^= 1;
    host.hear(&wrong);
    assert_eq!(host.counter("dhcp_messages_refused"), 2);
    host.hear(&answer(2, discover.exchange, [224, 0, 0, 1], TERMS));
    host.hear(&answer(5, discover.exchange, OFFERED, TERMS));
    assert!(asked(&mut host).is_empty() && host.ip.addresses().count() == 0);
    host.hear(&answer(2, discover.exchange, OFFERED, TERMS));
    let request = asked(&mut host).remove(0);
    assert_eq!((request.kind, request.exchange, request.own), (3, discover.exchange, [0; 4]));
    assert_eq!((request.option(50), request.option(54)), (Some(&OFFERED[..]), Some(&SERVER[..])));
    host.hear(&answer(5, request.exchange, OFFERED, TERMS));
    assert!(host.ip.is_local(OFFERED.into()));
    assert_eq!(host.ip.routes.route(addr("8.8.8.8")), Some(addr("10.0.0.254")));
    assert_eq!(host.ip.routes.route(addr("10.0.0.9")), Some(addr("10.0.0.9")));
    // It is announced.
    host.poll();
    assert_eq!(host.take()[0][12..14], [8, 6]);
}

#[test]
fn without_a_server_it_asks_less_and_less() {
    let mut host = client();
    let mut times = Vec::new();
    for _ in 0..300 {
        times.extend(asked(&mut host).iter().map(|_| host.now));
        host.now = host.now + Duration::from_secs(1);
    }
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
    for (gap, expected) in gaps.iter().zip([4u64, 8, 16, 32, 64, 64, 64]) {
        assert!(gap.abs_diff(expected) <= 2, "{gaps:?}");
    }
    assert!(gaps.len() >= 5);
}

#[test]
fn a_server_that_offers_but_does_not_grant_is_left() {
    let mut host = client();
    let discover = asked(&mut host).remove(0);
    host.hear(&answer(2, discover.exchange, OFFERED, TERMS));
    let mut kinds = Vec::new();
    for _ in 0..90 {
        kinds.extend(asked(&mut host).iter().map(|asked| asked.kind));
        host.now = host.now + Duration::from_secs(1);
    }
    assert_eq!(kinds[..5], [3, 3, 3, 3, 1]);
}

#[test]
fn a_lease_is_renewed_then_rebound_then_it_ends() {
    let mut host = bound();
    host.settle();
    let start = host.now;
    let mut seen = Vec::new();
    // The server's Ethernet address is known for as long as it is asked for.
    let reply = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(5), &SERVER, &mac(1), &OFFERED].concat();
    for _ in 0..3700 {
        host.now = host.now + Duration::from_secs(1);
        host.poll();
        for frame in host.take() {
            if frame[12..14] == [8, 6] && frame[38..42] == SERVER {
                host.hear(&ethernet(5, mac(1), 0x806, &reply));
            } else if frame[12..14] == [8, 0] {
                let asked = read(&frame);
                seen.push((host.now.since(start).as_secs(), asked.to.1, asked.own, asked.kind));
            }
        }
    }
    let renewals: Vec<_> = seen.iter().filter(|seen| seen.1 == SERVER).collect();
    let rebinds: Vec<_> = seen.iter().filter(|seen| seen.1 == [0xff; 4] && seen.2 == OFFERED).collect();
    assert!(
        renewals.len() >= 3
            && renewals.iter().all(|seen| (1780..3160).contains(&seen.0) && seen.2 == OFFERED),
        "{seen:?}"
    );
    assert!(!rebinds.is_empty() && rebinds.iter().all(|seen| (3130..3610).contains(&seen.0)), "{seen:?}");
    assert!(!host.ip.is_local(OFFERED.into()));
    assert_eq!(host.run(|ip, cx| ip.path(cx, None, addr("8.8.8.8"))).unwrap_err(), Error::Unreachable);
    assert!(seen.iter().any(|seen| seen.3 == 1), "it begins anew");
}

#[test]
fn a_renewed_lease_lasts_longer_and_a_refused_one_ends() {
    let mut host = bound();
    host.settle();
    host.pass(Duration::from_secs(1800));
    let reply = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(5), &SERVER, &mac(1), &OFFERED].concat();
    host.hear(&ethernet(5, mac(1), 0x806, &reply));
    let request = asked(&mut host).remove(0);
    assert_eq!((request.own, request.option(50), request.option(54)), (OFFERED, None, None));
    host.hear(&answer(5, request.exchange, OFFERED, TERMS));
    host.pass(Duration::from_secs(3500));
    assert!(host.ip.is_local(OFFERED.into()), "it was renewed");
    let request = asked(&mut host).pop().unwrap_or_else(|| panic!("it asks again"));
    host.hear(&answer(6, request.exchange, [0; 4], &[]));
    assert!(!host.ip.is_local(OFFERED.into()));
}

#[test]
fn terms_that_cannot_be_are_not_taken() {
    for (addr, terms) in [
        (OFFERED, &[51, 4, 0, 0, 1, 0, 1, 4, 255, 0, 255, 0][..]),
        (OFFERED, &[1, 4, 255, 255, 255, 0]),
        ([10, 0, 0, 78], TERMS),
    ] {
        let mut host = client();
        let discover = asked(&mut host).remove(0);
        host.hear(&answer(2, discover.exchange, OFFERED, TERMS));
        asked(&mut host);
        host.hear(&answer(5, discover.exchange, addr, terms));
        assert_eq!(host.ip.addresses().count(), 0, "{terms:?}");
    }
    // A router that is not on the link is none; a lease without end needs no timer.
    let mut host = client();
    let discover = asked(&mut host).remove(0);
    host.hear(&answer(2, discover.exchange, OFFERED, TERMS));
    asked(&mut host);
    let terms = [1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1, 51, 4, 255, 255, 255, 255];
    host.hear(&answer(5, discover.exchange, OFFERED, &terms));
    assert_eq!(host.ip.routes.route(addr("8.8.8.8")), None);
    host.settle();
    assert_eq!(host.ip.next_deadline(), None);
}

proptest! {
    #[test]
    fn mutated_answers_do_no_harm(steps in proptest::collection::vec(
        (0u8..8, proptest::collection::vec((0usize..280, any::<u8>()), 0..4), 0usize..400, 0u64..2000), 1..40)) {
        let mut host = client();
        let mut exchange = [0; 4];
        for (kind, changes, cut, pause) in steps {
            host.pass(Duration::from_secs(pause));
            for frame in host.take() {
                if frame[12..14] == [8, 0] && frame[36..38] == [0, 67] {
                    exchange = read(&frame).exchange;
                }
            }
            let mut frame = answer(kind, exchange, OFFERED, TERMS);
            // Without a checksum, whatever is in it counts.
            frame[40..42].fill(0);
            for (at, value) in changes {
                let at = 42 + at % (frame.len() - 42);
                frame[at] = value;
            }
            if cut < frame.len() && cut % 4 == 0 {
                frame.truncate(cut);
            }
            host.hear(&frame);
            host.take();
            prop_assert!(host.ip.addresses().count() <= 1);
            prop_assert!(host.ip.routes.count(Origin::Dhcp) <= 2);
        }
        // A renewal may go out at any time, and waits for its server's address until that is given up.
        for second in 0.. {
            host.take();
            while !matches!(host.next(), Received::Nothing) {}
            if second >= 20 && host.ip.neighbours.waiting() == 0 {
                break;
            }
            prop_assert!(second < 60, "what waits for a neighbour is given up");
            host.pass(Duration::from_secs(1));
        }
    }
}
