//! IPv4 and ICMP.

use super::*;

#[test]
fn an_echo_request_is_answered() {
    let mut host = Host::settled(1, &["10.0.0.1/24"]);
    let message = summed([&[8, 0, 0, 0, 1, 2, 3, 4][..], b"hello"].concat(), 0);
    let ping = ipv4([10, 0, 0, 9], [10, 0, 0, 1], 1, 0, &message);
    assert!(matches!(host.hear(&ethernet(9, mac(1), 0x800, &ping)), Received::Nothing));
    assert_eq!(host.counter("icmp_echo_replies_sent"), 1);
    assert_eq!(host.take().len(), 1);
}
