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
