//! What every packet does allocates nothing.

use super::*;

#[test]
fn a_known_neighbour_and_a_whole_packet_cost_no_allocation() {
    let (mut a, mut b) =
        (Host::settled(1, &["10.0.0.1/24", "fd00::1/64"]), Host::settled(2, &["10.0.0.2/24", "fd00::2/64"]));
    for to in ["10.0.0.2", "fd00::2"] {
        let mut path = a.send(to, &[0; 40]);
        exchange(&mut [&mut a, &mut b]);
        let mut round = |count: bool| {
            let packet = a.packet(&path, &[1; 40], &[2; 1000]);
            let before = sys::allocations();
            a.run(|ip, cx| ip.send(cx, &mut path, packet));
            a.run(|ip, cx| ip.poll(cx));
            let frame = a.ip.outbox.pop_front().expect("it is sent at once");
            let got = b.run(|ip, cx| ip.receive(cx, frame));
            b.run(|ip, cx| ip.poll(cx));
            assert!(!count || sys::allocations() == before, "{to}");
            assert_eq!(datagram(got).data.len(), 1040);
        };
        round(false);
        for _ in 0..100 {
            round(true);
        }
    }
}
