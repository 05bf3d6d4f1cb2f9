//! ARP, and the neighbour table.

use super::*;

/// An ARP message.
fn arp(operation: u8, mac: [u8; 6], from: [u8; 4], about: [u8; 4]) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac, &from, &[0; 6], &about].concat()
}

fn hear_arp(host: &mut Host, from_mac: u8, operation: u8, from: [u8; 4], about: [u8; 4]) {
    let message = arp(operation, mac(from_mac), from, about);
    let to = if operation == 1 { [0xff; 6] } else { host.ip.mac };
    assert!(matches!(host.hear(&ethernet(from_mac, to, 0x806, &message)), Received::Nothing));
}

#[test]
fn packets_wait_for_the_neighbour_and_go_out_in_order() {
    let (mut a, mut b) = (Host::settled(1, &["10.0.0.1/24"]), Host::settled(2, &["10.0.0.2/24"]));
    for n in 0..3 {
        a.send("10.0.0.2", &[n; 20]);
    }
    assert_eq!(a.ip.outbox.len(), 1, "one question, however many packets wait");
    let got = exchange(&mut [&mut a, &mut b]);
    let datagrams: Vec<Datagram> = got.into_iter().nth(1).unwrap().into_iter().map(datagram).collect();
    assert_eq!(datagrams.len(), 3);
    for (n, datagram) in datagrams.iter().enumerate() {
        assert_eq!(datagram.data.to_vec(), [n as u8; 20]);
        assert_eq!((datagram.local, datagram.remote), (addr("10.0.0.2"), addr("10.0.0.1")));
    }
    // The question told the other one who asked: it need not ask.
    b.send("10.0.0.1", b"back to you");
    let frames = b.take();
    assert!(frames.len() == 1 && frames[0][..6] == mac(1));
}

#[test]
fn a_question_is_answered_to_who_asked() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    hear_arp(&mut host, 9, 1, [10, 0, 0, 9], [10, 0, 0, 1]);
    let expected = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(1), &[10, 0, 0, 1], &mac(9), &[10, 0, 0, 9]].concat();
    assert_eq!(host.take(), [ethernet(1, mac(9), 0x806, &expected)]);
    assert_eq!(host.ip.neighbours.mac(addr("10.0.0.9")), Some(mac(9)));
}

#[test]
fn what_is_not_asked_makes_no_entry() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    // A question for somebody else, an announcement, an answer to nobody's question.
    hear_arp(&mut host, 9, 1, [10, 0, 0, 9], [10, 0, 0, 7]);
    hear_arp(&mut host, 9, 1, [10, 0, 0, 9], [10, 0, 0, 9]);
    hear_arp(&mut host, 9, 2, [10, 0, 0, 9], [10, 0, 0, 1]);
    // From beyond the link, and from addresses that cannot be.
    hear_arp(&mut host, 9, 1, [10, 9, 0, 9], [10, 0, 0, 1]);
    hear_arp(&mut host, 9, 1, [224, 0, 0, 9], [10, 0, 0, 1]);
    host.hear(&ethernet(9, [0xff; 6], 0x806, &arp(1, [1, 0, 0, 0, 0, 9], [10, 0, 0, 9], [10, 0, 0, 1])));
    assert_eq!((host.ip.neighbours.len(), host.take().len()), (0, 0));
    assert_eq!(host.counter("ip_neighbour_messages_refused"), 3);
    // Too short, and not for IPv4 over Ethernet.
    host.hear(&ethernet(9, [0xff; 6], 0x806, &arp(1, mac(9), [10, 0, 0, 9], [10, 0, 0, 1])[..27]));
    for byte in [0, 2, 4, 5] {
        let mut message = arp(1, mac(9), [10, 0, 0, 9], [10, 0, 0, 1]);
        message[byte] ^= 0x40;
        host.hear(&ethernet(9, [0xff; 6], 0x806, &message));
    }
    assert_eq!((host.ip.neighbours.len(), host.take().len()), (0, 0));
}

#[test]
fn nobody_answers_three_questions_a_second_apart() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    host.send("10.0.0.2", b"8 octets and more");
    let mut asked = host.take().len();
    let start = host.now;
    let mut failed = None;
    for _ in 0..100 {
        host.pass(Duration::from_millis(100));
        asked += host.take().len();
        if let Received::Problem(problem) = host.next() {
            failed = Some((host.now.since(start), problem));
            break;
        }
    }
    let (after, problem) = failed.unwrap();
    assert_eq!((asked, after), (3, Duration::from_secs(3)));
    assert_eq!(problem.kind, ProblemKind::Unreachable(Unreachable::Host));
    assert_eq!((problem.local, problem.remote), (addr("10.0.0.1"), addr("10.0.0.2")));
    assert_eq!((problem.protocol, &problem.quoted), (17, b"8 octets"));
    assert_eq!(host.ip.neighbours.waiting(), 0);
    // The next packet asks anew.
    host.send("10.0.0.2", b"8 octets and more");
    assert_eq!(host.take().len(), 1);
}

#[test]
fn packets_that_wait_are_bounded_and_the_latest_are_kept() {
    let limits = IpConfig { neighbour_queue: 4, neighbour_queue_bytes: 1 << 16, ..config(&["10.0.0.1/8"]) };
    let heap = heap();
    let mut host = Host::with(1, &limits, &caps(1), &heap);
    host.settle();
    for n in 0..10 {
        host.send("10.0.0.2", &[n; 40]);
    }
    assert_eq!(host.counter("ip_neighbour_queue_overflows"), 6);
    host.take();
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    let sent: Vec<u8> = host.take().iter().map(|frame| frame[34]).collect();
    assert_eq!(sent, [6, 7, 8, 9]);
    for n in 0..200u8 {
        for _ in 0..4 {
            host.send(&format!("10.1.0.{n}"), &[n; 1400]);
        }
        assert!(host.ip.neighbours.waiting() <= 1 << 16);
    }
    host.take();
    for _ in 0..10 {
        host.pass(Duration::from_secs(1));
        host.take();
    }
    while !matches!(host.next(), Received::Nothing) {}
    assert_eq!((host.ip.neighbours.waiting(), heap.stats().objects_live), (0, 0));
}

#[test]
fn a_neighbour_in_use_is_probed_before_it_is_given_up_and_packets_go_on() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    host.send("10.0.0.2", &[0; 20]);
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    host.take();
    // Long after: the packet goes at once; the question comes five seconds later, to the neighbour alone.
    host.pass(Duration::from_secs(60));
    host.send("10.0.0.2", &[1; 20]);
    let frames = host.take();
    assert!(frames.len() == 1 && frames[0][12..14] == [8, 0] && frames[0][..6] == mac(2));
    host.pass(Duration::from_secs(4));
    assert!(host.take().is_empty());
    host.pass(Duration::from_secs(1));
    let frames = host.take();
    assert!(frames.len() == 1 && frames[0][12..14] == [8, 6] && frames[0][..6] == mac(2));
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    host.pass(Duration::from_secs(5));
    assert!(host.take().is_empty());
    // And without an answer it is given up after three questions.
    host.pass(Duration::from_secs(100));
    host.send("10.0.0.2", &[1; 20]);
    host.take();
    let mut questions = 0;
    for _ in 0..20 {
        host.pass(Duration::from_secs(1));
        questions += host.take().len();
    }
    assert_eq!((questions, host.ip.neighbours.mac(addr("10.0.0.2"))), (3, None));
}

#[test]
fn progress_of_a_connection_spares_the_question() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    let path = host.send("10.0.0.2", &[0; 20]);
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    host.take();
    for _ in 0..100 {
        host.pass(Duration::from_secs(10));
        let now = host.now;
        host.ip.confirm(now, &path);
        host.send("10.0.0.2", &[1; 20]);
        assert_eq!(host.take().len(), 1);
    }
    assert_eq!(host.counter("ip_solicitations_sent"), 1);
}

#[test]
fn a_flood_evicts_nobody_in_use_and_takes_no_more_room() {
    let limits = IpConfig { neighbours_max: 16, ..config(&["10.0.0.1/8"]) };
    let mut host = Host::with(1, &limits, &caps(1), &heap());
    host.settle();
    let mut paths = Vec::new();
    for n in 2..10 {
        paths.push(host.send(&format!("10.0.0.{n}"), &[n; 20]));
        hear_arp(&mut host, n, 2, [10, 0, 0, n], [10, 0, 0, 1]);
    }
    host.take();
    // Questions from everywhere, and then packets to everywhere.
    for n in 0..5000u16 {
        let [high, low] = n.to_be_bytes();
        hear_arp(&mut host, 99, 1, [10, 1, high, low], [10, 0, 0, 1]);
        host.take();
    }
    for n in 0..5000u16 {
        let [high, low] = n.to_be_bytes();
        host.send(&format!("10.2.{high}.{low}"), &[0; 20]);
        host.take();
    }
    assert_eq!(host.ip.neighbours.len(), 16);
    for (n, path) in (2..10).zip(&mut paths) {
        let packet = host.packet(path, &[n; 20], &[]);
        host.run(|ip, cx| ip.send(cx, path, packet));
        let frames = host.take();
        assert!(frames.len() == 1 && frames[0][..6] == mac(n), "{n} is not known any more");
    }
    assert_eq!(host.counter("ip_neighbour_messages_refused"), 0);
}

#[test]
fn all_in_use_refuses_the_newest() {
    let limits = IpConfig { neighbours_max: 16, ..config(&["10.0.0.1/8"]) };
    let mut host = Host::with(1, &limits, &caps(1), &heap());
    host.settle();
    for n in 2..18 {
        host.send(&format!("10.0.0.{n}"), &[n; 20]);
        hear_arp(&mut host, n, 2, [10, 0, 0, n], [10, 0, 0, 1]);
    }
    let refused = host.run(|ip, cx| ip.path(cx, None, addr("10.0.0.99")));
    assert_eq!(refused.unwrap_err(), Error::NoBuffers);
    // After a while without use, the one unused for longest makes room.
    host.pass(Duration::from_secs(31));
    let mut path = host.send("10.0.0.2", &[0; 20]);
    host.send("10.0.0.99", &[0; 20]);
    assert_eq!(host.ip.neighbours.mac(addr("10.0.0.3")), None);
    // Whoever kept the way to it finds it anew.
    let old = host.run(|ip, cx| ip.path(cx, None, addr("10.0.0.2"))).unwrap();
    assert!(matches!((old.hop, path.hop), (path::Hop::Neighbour(a), path::Hop::Neighbour(b)) if a == b));
    let packet = host.packet(&path, &[0; 20], &[]);
    host.take();
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    assert_eq!(host.take()[0][..6], mac(2));
}

#[test]
fn a_way_whose_neighbour_was_replaced_is_found_anew() {
    let limits = IpConfig { neighbours_max: 16, ..config(&["10.0.0.1/8"]) };
    let mut host = Host::with(1, &limits, &caps(1), &heap());
    host.settle();
    let mut path = host.send("10.0.0.2", &[0; 20]);
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    host.pass(Duration::from_secs(60));
    for n in 3..19 {
        host.send(&format!("10.0.0.{n}"), &[0; 20]);
        hear_arp(&mut host, n, 2, [10, 0, 0, n], [10, 0, 0, 1]);
    }
    assert_eq!(host.ip.neighbours.mac(addr("10.0.0.2")), None);
    host.pass(Duration::from_secs(31));
    host.take();
    let packet = host.packet(&path, &[7; 20], &[]);
    host.run(|ip, cx| ip.send(cx, &mut path, packet));
    let frames = host.take();
    assert!(frames.len() == 1 && frames[0][12..14] == [8, 6] && frames[0][38..42] == [10, 0, 0, 2]);
    hear_arp(&mut host, 5, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    assert_eq!(host.take()[0][..6], mac(5));
}

#[test]
fn addresses_are_announced_and_defended_but_not_often() {
    let mut host = Host::new(1, &["10.0.0.1/24"]);
    let mut announced = Vec::new();
    for _ in 0..100 {
        host.pass(Duration::from_millis(100));
        announced.extend(host.take());
    }
    let expected = ethernet(1, [0xff; 6], 0x806, &arp(1, mac(1), [10, 0, 0, 1], [10, 0, 0, 1]));
    assert_eq!(announced, [expected.clone(), expected.clone()]);
    for _ in 0..100 {
        hear_arp(&mut host, 9, 1, [10, 0, 0, 1], [10, 0, 0, 1]);
    }
    assert_eq!((host.take(), host.counter("ip_address_conflicts")), (vec![expected.clone()], 100));
    host.pass(Duration::from_secs(11));
    hear_arp(&mut host, 9, 2, [10, 0, 0, 1], [10, 0, 0, 1]);
    assert_eq!(host.take(), [expected]);
}

#[test]
fn a_probe_for_our_address_is_answered_and_not_remembered() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    hear_arp(&mut host, 9, 1, [0, 0, 0, 0], [10, 0, 0, 1]);
    assert_eq!((host.take().len(), host.ip.neighbours.len()), (1, 0));
}

#[test]
fn a_neighbour_that_moved_is_followed() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    host.send("10.0.0.2", &[0; 20]);
    hear_arp(&mut host, 2, 2, [10, 0, 0, 2], [10, 0, 0, 1]);
    // It announces itself from another card.
    hear_arp(&mut host, 3, 1, [10, 0, 0, 2], [10, 0, 0, 2]);
    host.take();
    host.send("10.0.0.2", &[0; 20]);
    assert_eq!(host.take()[0][..6], mac(3));
}

#[test]
fn many_that_do_not_answer_are_given_up_in_bounded_turns() {
    let limits = IpConfig { neighbours_max: 4096, ..config(&["10.0.0.1/8"]) };
    let mut host = Host::with(1, &limits, &caps(1), &heap());
    host.settle();
    for n in 0..4000u16 {
        let [high, low] = n.to_be_bytes();
        host.send(&format!("10.2.{high}.{low}"), &[0; 20]);
    }
    assert_eq!(host.take().len(), 4000);
    let (mut asked, mut failed) = (0, 0);
    for _ in 0..500 {
        host.pass(Duration::from_millis(20));
        let frames = host.take().len();
        assert!(frames <= TURN, "{frames} in one turn");
        asked += frames;
        while let Received::Problem(problem) = host.next() {
            assert_eq!(problem.kind, ProblemKind::Unreachable(Unreachable::Host));
            failed += 1;
        }
    }
    assert_eq!((asked, failed, host.ip.neighbours.waiting()), (8000, 4000, 0));
    assert_eq!(host.ip.next_deadline(), None);
}
