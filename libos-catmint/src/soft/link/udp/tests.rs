//! Two links on loopback addresses, with and without raw sockets.

use super::*;

fn open(number: u8, raw: RawChoice) -> Udp {
    let address = IpAddr::from([127, 47, 91, number]);
    Udp::open(&UdpConfig { address, raw, ..UdpConfig::default() }).unwrap()
}

fn take(link: &mut Udp) -> Vec<(IpAddr, Vec<u8>)> {
    let mut all = Vec::new();
    for _ in 0..100 {
        link.receive(Instant::default(), 64, |path, packet| {
            let bytes = packet.payload(0..packet.len()).to_vec();
            assert_eq!(packet.front()[..bytes.len().min(FRONT)], bytes[..bytes.len().min(FRONT)]);
            all.push((path, bytes));
        });
        if !all.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    all
}

fn exchange(a: &mut Udp, b: &mut Udp) {
    let (to, back) = (b.address(), a.address());
    assert_eq!(a.path(Instant::default(), to), Ok(to));
    for size in [0, 1, 2, 3, 4, 100, 1024, 4096] {
        let (head, body) = ([size as u8; 12], vec![0x5A; size]);
        let (first, second) = body.split_at(size / 3);
        a.send(to, &head, &[first, second]).unwrap();
        let got = take(b);
        assert_eq!(got.len(), 1, "{size} bytes");
        assert_eq!(got[0].0, back);
        assert_eq!(got[0].1[..12 + size], [&head[..], &body].concat());
        assert!(got[0].1[12 + size..].iter().all(|byte| *byte == 0) && got[0].1.len().is_multiple_of(4));
    }
    assert_eq!((b.counters.received, b.counters.refused), (8, 0));
}

#[test]
fn packets_go_from_one_to_the_other_and_their_sum_is_right() {
    for (number, a, b) in [
        (1, RawChoice::Never, RawChoice::Never),
        (3, RawChoice::Auto, RawChoice::Never),
        (5, RawChoice::Never, RawChoice::Auto),
    ] {
        exchange(&mut open(number, a), &mut open(number + 1, b));
    }
}

#[test]
fn what_is_not_sound_is_not_shown() {
    let mut link = open(11, RawChoice::Never);
    let other = std::net::UdpSocket::bind("127.47.91.12:0").unwrap();
    for bytes in [&[][..], &[0; 3], &[0; 15], &[0; 16], &[0x64; 300], &[1; 9000]] {
        other.send_to(bytes, (link.address(), PORT)).unwrap();
    }
    assert!(take(&mut link).is_empty());
    assert_eq!(link.counters.refused, 6);
}

#[test]
fn an_address_is_taken_once_and_must_be_there() {
    let _first = open(21, RawChoice::Never);
    let config = |address: &str| UdpConfig { address: address.parse().unwrap(), ..UdpConfig::default() };
    assert_eq!(Udp::open(&config("127.47.91.21")).err(), Some(Error::AddressInUse));
    assert_eq!(Udp::open(&config("192.0.2.1")).err(), Some(Error::AddressNotAvailable));
    assert!(Udp::open(&UdpConfig { mtu: 1000, ..config("127.47.91.22") }).is_err());
    assert!(!sys::is_routed(IpAddr::from([127, 47, 91, 21]), IpAddr::from([0; 16])));
    assert!(sys::is_here(IpAddr::from([127, 0, 0, 1])) && !sys::is_here(IpAddr::from([192, 0, 2, 1])));
}
