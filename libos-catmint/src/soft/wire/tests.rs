//! The formats against packets of Linux's own, and against themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// Captured packets by name.
fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let mut lines = include_str!("golden.txt").lines().filter(|line| !line.starts_with('#'));
    let mut packets = BTreeMap::new();
    while let (Some(name), Some(hex)) = (lines.next(), lines.next()) {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        packets.insert(name, (0..hex.len()).step_by(2).map(byte).collect());
    }
    assert!(packets.len() > 40);
    packets
}

/// Its envelope, headers and payload.
fn opened(packet: &[u8]) -> (Envelope, Header, &[u8]) {
    let (envelope, content) = Envelope::open(packet).unwrap();
    let (header, payload) = Header::parse(content).unwrap();
    (envelope, header, payload)
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_linux_sends_is_emitted_bit_by_bit() {
    for (name, packet) in golden() {
        let (envelope, header, payload) = opened(&packet);
        let mut out = [0; MAX_ENVELOPE_LEN + MAX_HEADER_LEN];
        let mut head = [0; MAX_HEADER_LEN];
        let len = header.emit(payload.len(), &mut head);
        let padded = payload.len() + padding(payload.len());
        let ip = envelope.emit(len + padded + ICRC_LEN, &mut out);
        if packet[0] >> 4 == 4 {
            // The IPv4 header's checksum is the kernel's affair.
            out[10..12].copy_from_slice(&packet[10..12]);
        }
        let mut whole = out[..ip].to_vec();
        whole.extend_from_slice(&head[..len]);
        whole.extend_from_slice(payload);
        whole.resize(ip + len + padded, 0);
        whole.extend_from_slice(&envelope.icrc(&head[..len], [payload]));
        assert_eq!(whole, packet, "{name}");

        let (front, back) = payload.split_at(payload.len() / 3);
        assert_eq!(envelope.icrc(&head[..len], [front, &[], back]), packet[packet.len() - 4..], "{name}");
    }
}

#[test]
fn packets_of_each_kind_say_what_they_should() {
    let golden = golden();
    let look = |name: &str| {
        let (_, header, payload) = opened(&golden[name]);
        (header.operation, header.psn.value(), header.ack_request, payload.len())
    };
    let good = |msn| Aeth { syndrome: Syndrome::Ack { credits: 31 }, msn };
    let bad = |syndrome, msn| Operation::Acknowledge(Aeth { syndrome, msn });
    assert_eq!(look("send only"), (Operation::SendOnly(Tail::Plain), 9487764, true, 5));
    assert_eq!(look("ack"), (Operation::Acknowledge(good(1)), 9487764, false, 0));
    assert_eq!(
        look("send only immediate"),
        (Operation::SendOnly(Tail::Immediate(0x0102_0304)), 9487765, true, 3)
    );
    assert_eq!(look("send first"), (Operation::SendFirst, 9487766, false, 1024));
    assert_eq!(look("send middle"), (Operation::SendMiddle, 9487767, false, 1024));
    assert_eq!(
        look("send last immediate"),
        (Operation::SendLast(Tail::Immediate(0x0102_0304)), 9487768, true, 452)
    );
    assert_eq!(look("send last"), (Operation::SendLast(Tail::Plain), 9487781, true, 6));
    assert_eq!(look("write last immediate"), (Operation::WriteLast(Some(0x0102_0304)), 9487770, true, 1));
    assert_eq!(look("write middle"), (Operation::WriteMiddle, 9487774, false, 1024));
    assert_eq!(look("write last"), (Operation::WriteLast(None), 9487775, true, 452));
    assert_eq!(look("read only"), (Operation::ReadOnly(good(8)), 9487776, false, 9));
    assert_eq!(look("read first"), (Operation::ReadFirst(good(9)), 9487777, false, 1024));
    assert_eq!(look("read middle"), (Operation::ReadMiddle, 9487778, false, 1024));
    assert_eq!(look("read last"), (Operation::ReadLast(good(9)), 9487779, false, 453));
    assert_eq!(
        look("atomic ack"),
        (Operation::AtomicAcknowledge(good(11), 0xF1EA_E3DC_D5CE_C7C0), 9487782, false, 0)
    );
    let Operation::Acknowledge(Aeth { syndrome: Syndrome::Nak(NakCode::Sequence), .. }) =
        look("packets are missing").0
    else {
        panic!("no NAK");
    };
    assert_eq!(look("remote access error").0, bad(Syndrome::Nak(NakCode::RemoteAccess), 13));
    let Operation::Acknowledge(Aeth { syndrome: Syndrome::RnrNak(timer), msn: 12 }) =
        look("receiver not ready").0
    else {
        panic!("no RNR NAK");
    };
    assert_eq!(timer.duration(), std::time::Duration::from_micros(655_360));

    let (Operation::WriteFirst(reth), _, _, 1024) = look("write first") else { panic!("no first packet") };
    assert_eq!(reth.len, 1025);
    let (Operation::WriteOnly(same, None), _, _, 7) = look("write only") else { panic!("no write") };
    assert_eq!(same, Reth { len: 7, ..reth });
    assert_eq!(look("write nothing").0, Operation::WriteOnly(Reth { len: 0, ..reth }, None));
    assert_eq!(look("read request").0, Operation::ReadRequest(Reth { len: 9, ..reth }));
    let word = AtomicEth {
        address: reth.address + 64,
        key: reth.key,
        swap_or_add: 0x99AA_BBCC_DDEE_FF00,
        compare: 0x1122_3344_5566_7788,
    };
    assert_eq!(look("compare and swap").0, Operation::CompareSwap(word));
    let added = AtomicEth { swap_or_add: 5, compare: 0, ..word };
    let Operation::FetchAdd(found) = look("fetch and add").0 else { panic!("no addition") };
    assert_eq!(AtomicEth { compare: 0, ..found }, added);
    let Operation::SendOnly(Tail::Invalidate(key)) = look("send only invalidate").0 else {
        panic!("nothing is invalidated");
    };
    assert_eq!(key, 0x0800_011B);
}

#[test]
fn connection_managers_are_understood_and_spoken_to() {
    let golden = golden();
    let mut kinds = 0;
    for (name, packet) in &golden {
        let (_, header, payload) = opened(packet);
        let Operation::Datagram(deth) = header.operation else { continue };
        assert_eq!((deth, header.destination), (Deth { qkey: GSI_QKEY, source: Qpn::GSI }, Qpn::GSI));
        let mad = Mad::parse(payload).unwrap();
        assert_eq!(mad.emit(), payload, "{name}");
        assert_eq!(Mad::parse(&payload[..255]), Err(WireError::Short));
        kinds += 1;
    }
    assert_eq!(kinds, 10);

    let message = |name: &str| Mad::parse(opened(&golden[name]).2).unwrap().message;
    let Message::Request(request) = message("request") else { panic!("no request") };
    assert_eq!(tcp_port(request.service), Some(7471));
    assert_eq!((request.qpn, request.psn), (Qpn::new(0x12), Psn::new(0x97_51BF)));
    assert_eq!((request.responder_resources, request.initiator_depth), (4, 4));
    assert_eq!((request.cm_timeouts, request.cm_retries), ([20, 20], 15));
    assert_eq!((request.retry_count, request.rnr_retry_count, request.mtu), (7, 7, 3));
    assert_eq!((request.hop_limit, request.ack_timeout, request.shared_receives), (64, 19, false));
    assert_eq!(gid_addr(request.local_gid), addr("10.7.0.2"));
    assert_eq!(gid_addr(request.remote_gid), addr("10.7.0.1"));
    let (service, user) = IpService::parse(request.private).unwrap();
    assert_eq!((service.source, service.destination), (addr("10.7.0.2"), addr("10.7.0.1")));
    assert_eq!(service.emit(user), request.private);
    assert!(user.starts_with(b"hello from the client\0") && user.len() == USER_DATA);

    let Message::Reply(reply) = message("reply") else { panic!("no reply") };
    assert_eq!((reply.remote, reply.qpn, reply.psn), (request.local, Qpn::new(0x11), Psn::new(0x90_C594)));
    // With this number the client began.
    assert_eq!(opened(&golden["send only"]).1.psn, reply.psn);
    assert_eq!((reply.responder_resources, reply.initiator_depth, reply.ack_delay), (4, 4, 15));
    assert_eq!((reply.rnr_retry_count, reply.shared_receives), (7, false));
    assert!(reply.private.starts_with(b"hello from the server\0"));
    assert_eq!(message("ready to use"), Message::Ready { local: request.local, remote: reply.local });
    assert_eq!(
        message("disconnect"),
        Message::Disconnect { local: reply.local, remote: request.local, qpn: request.qpn }
    );
    assert_eq!(message("disconnected"), Message::Disconnected { local: request.local, remote: reply.local });
    let Message::Reject { answered: Answered::Request, reason: Reason::INVALID_SERVICE, .. } =
        message("rejection")
    else {
        panic!("no rejection");
    };

    let Message::Request(request) = message("request over IPv6") else { panic!("no request") };
    let (service, user) = IpService::parse(request.private).unwrap();
    assert_eq!((service.source, service.destination), (addr("fd07::2"), addr("fd07::1")));
    assert_eq!((gid(service.source), gid(service.destination)), (request.local_gid, request.remote_gid));
    assert_eq!(service.emit(user), request.private);
}

#[test]
fn no_changed_bit_goes_unnoticed_but_for_what_routers_change() {
    let golden = golden();
    for (name, masked) in [
        ("send last", &[1..2, 8..9, 10..12, 26..28, 32..33][..]),
        ("ack over IPv6", &[1..4, 7..8, 46..48, 52..53]),
    ] {
        let mut packet = golden[name].clone();
        for bit in 0..8 * packet.len() {
            packet[bit / 8] ^= 1 << (bit % 8);
            // The lower half of the first byte of IPv6 is traffic class as well.
            let may =
                masked.iter().any(|range| range.contains(&(bit / 8))) || (name.ends_with("v6") && bit < 4);
            assert_eq!(Envelope::open(&packet).is_ok(), may, "{name}: bit {bit}");
            packet[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    for (name, packet) in golden() {
        for len in 0..packet.len() {
            assert!(Envelope::open(&packet[..len]).is_err(), "{name}: {len} bytes");
        }
        let mut longer = packet.clone();
        longer.extend_from_slice(&[0; 6]);
        assert!(Envelope::open(&longer).is_ok(), "{name}: what Ethernet pads it with does not count");
        let (envelope, content) = Envelope::open(&packet).unwrap();
        let header = Header::parse(content).unwrap().0.emit(0, &mut [0; MAX_HEADER_LEN]);
        for len in 0..header {
            assert_eq!(Header::parse(&content[..len]), Err(WireError::Short), "{name}: {len} bytes");
            assert!(envelope.check(&content[..len]).is_err());
        }
        if !content.len().is_multiple_of(4) {
            panic!("{name} is not of whole words");
        }
        if content.len() > header {
            assert_eq!(Header::parse(&content[..content.len() - 1]), Err(WireError::Length), "{name}");
        } else {
            let longer = [content, &[0; 4]].concat();
            if !matches!(opened(&packet).1.operation, Operation::SendOnly(_) | Operation::WriteOnly(..)) {
                assert_eq!(Header::parse(&longer), Err(WireError::Length), "{name}");
            }
        }
    }
}

#[test]
fn what_is_not_for_us_is_refused() {
    let packet = golden().remove("send only").unwrap();
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        Envelope::open(&packet).map(drop)
    };
    assert_eq!(changed(0, 0x46), Err(WireError::Envelope), "options");
    assert_eq!(changed(0, 0x55), Err(WireError::Envelope), "version 5");
    assert_eq!(changed(6, 0x60), Err(WireError::Envelope), "more fragments");
    assert_eq!(changed(7, 1), Err(WireError::Envelope), "not the first fragment");
    assert_eq!(changed(9, 6), Err(WireError::Envelope), "TCP");
    assert_eq!(changed(23, 0xB6), Err(WireError::Envelope), "another port");
    assert_eq!(changed(2, 0xFF), Err(WireError::Short));
    assert_eq!(changed(25, 0xFF), Err(WireError::Length));
    let content = Envelope::open(&packet).unwrap().1;
    let changed = |at: usize, value: u8| {
        let mut content = content.to_vec();
        content[at] = value;
        Header::parse(&content).map(drop)
    };
    assert_eq!(changed(1, 0x31), Err(WireError::Version(1)));
    for code in [0x15, 0x18, 0x20, 0x24, 0x44, 0x65, 0x81, 0xFF] {
        assert_eq!(changed(0, code), Err(WireError::Opcode(code)));
    }
}

fn any_aeth() -> impl Strategy<Value = Aeth> {
    let code = prop::sample::select(&[
        NakCode::Sequence,
        NakCode::InvalidRequest,
        NakCode::RemoteAccess,
        NakCode::RemoteOperation,
    ]);
    let syndrome = prop_oneof![
        (0..32_u8).prop_map(|credits| Syndrome::Ack { credits }),
        (0..700_000_u64).prop_map(|micros| {
            Syndrome::RnrNak(RnrTimer::at_least(std::time::Duration::from_micros(micros)))
        }),
        code.prop_map(Syndrome::Nak),
    ];
    (syndrome, 0..1_u32 << 24).prop_map(|(syndrome, msn)| Aeth { syndrome, msn })
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let tail = || {
        prop_oneof![
            Just(Tail::Plain),
            any::<u32>().prop_map(Tail::Immediate),
            any::<u32>().prop_map(Tail::Invalidate)
        ]
    };
    let reth = || any::<(u64, u32, u32)>().prop_map(|(address, key, len)| Reth { address, key, len });
    let atomic = || {
        any::<(u64, u32, u64, u64)>().prop_map(|(address, key, swap_or_add, compare)| AtomicEth {
            address,
            key,
            swap_or_add,
            compare,
        })
    };
    prop_oneof![
        Just(Operation::SendFirst),
        Just(Operation::SendMiddle),
        tail().prop_map(Operation::SendLast),
        tail().prop_map(Operation::SendOnly),
        reth().prop_map(Operation::WriteFirst),
        Just(Operation::WriteMiddle),
        any::<Option<u32>>().prop_map(Operation::WriteLast),
        (reth(), any::<Option<u32>>()).prop_map(|(reth, data)| Operation::WriteOnly(reth, data)),
        reth().prop_map(Operation::ReadRequest),
        any_aeth().prop_map(Operation::ReadFirst),
        Just(Operation::ReadMiddle),
        any_aeth().prop_map(Operation::ReadLast),
        any_aeth().prop_map(Operation::ReadOnly),
        any_aeth().prop_map(Operation::Acknowledge),
        (any_aeth(), any::<u64>()).prop_map(|(aeth, found)| Operation::AtomicAcknowledge(aeth, found)),
        atomic().prop_map(Operation::CompareSwap),
        atomic().prop_map(Operation::FetchAdd),
        (any::<u32>(), 0..1_u32 << 24)
            .prop_map(|(qkey, source)| Operation::Datagram(Deth { qkey, source: Qpn::new(source) })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_emitted_is_parsed(
        operation in any_operation(),
        (destination, psn, pkey) in any::<(u32, u32, u16)>(),
        (ack_request, solicited, migrated) in any::<(bool, bool, bool)>(),
        congestion in any::<[bool; 2]>(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (destination, psn) = (Qpn::new(destination), Psn::new(psn));
        let header = Header { destination, psn, operation, ack_request, solicited, migrated, pkey, congestion };
        let mut packet = vec![0xEE; MAX_HEADER_LEN];
        let len = header.emit(payload.len(), &mut packet);
        packet.truncate(len);
        packet.extend_from_slice(&payload);
        packet.resize(len + payload.len() + padding(payload.len()), 0);
        match Header::parse(&packet) {
            Ok(parsed) => prop_assert_eq!(parsed, (header, &payload[..])),
            // An operation that has no payload was given one.
            Err(error) => prop_assert!(error == WireError::Length && !payload.is_empty(), "{error}"),
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::open(&bytes);
        if let Ok((_, payload)) = Header::parse(&bytes) {
            prop_assert!(payload.len() <= bytes.len() - BTH_LEN);
        }
        let _ = Mad::parse(&bytes);
        let _ = IpService::parse(&bytes);
    }
}
