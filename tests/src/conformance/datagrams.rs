//! Datagram sockets: whole messages with their sender, or nothing.

use demi_api::{Error, QueueKind, SgArray};

use super::rig::{Harness, Rig, pattern};

/// A datagram pops as exactly what was pushed, and says where it came from, so that it can be answered.
pub fn a_datagram_has_its_sender<H: Harness>(rig: &Rig<H>) {
    let ((near, near_addr), (far, far_addr)) = (rig.datagram_socket(), rig.datagram_socket());
    assert_eq!(rig.demi.kind(near), Ok(QueueKind::Message));
    let push = rig.demi.push_to(near, rig.sga(b"ping"), far_addr.clone()).unwrap();
    let ping = rig.completion(rig.demi.pop(far).unwrap()).popped().unwrap();
    assert_eq!((ping.to_vec(), ping.peer()), (b"ping".to_vec(), Some(near_addr.clone())));
    let answer = rig.demi.push_to(far, ping.clone(), ping.peer().unwrap()).unwrap();
    let pong = rig.completion(rig.demi.pop(near).unwrap()).popped().unwrap();
    assert_eq!((pong.to_vec(), pong.peer()), (b"ping".to_vec(), Some(far_addr.clone())));
    for token in [push, answer] {
        rig.completion(token).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// No size is special, none at all included.
pub fn datagrams_of_every_size<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    for size in [0, 1, 2, 511, 512, 513, 1471, 1472, 1473, 8192, 32768, 65000] {
        let bytes = pattern(size);
        rig.push(near, &bytes).unwrap();
        assert!(rig.pop(far).unwrap() == bytes, "a datagram of {size} bytes");
    }
    rig.push(near, b"").unwrap();
    rig.push(near, b"behind the empty one").unwrap();
    assert_eq!(rig.pop(far).unwrap(), b"");
    assert_eq!(rig.pop(far).unwrap(), b"behind the empty one");
    rig.close([near, far]);
}

/// The segments of an array are one datagram.
pub fn segments_are_one_datagram<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let mut sga = SgArray::new();
    for part in [&b"a"[..], b"", b"bcd", b"ef", b"g", b"", b"hi", b"j"] {
        sga.push(rig.demi.heap().copy_from(part).unwrap()).unwrap();
    }
    let push = rig.demi.push(near, sga).unwrap();
    rig.completion(push).pushed().unwrap();
    assert_eq!(rig.pop(far).unwrap(), b"abcdefghij");
    rig.close([near, far]);
}

/// Datagrams between two sockets keep their order; pops take one each.
pub fn datagrams_keep_their_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let pops: Vec<_> = (0..64).map(|_| rig.demi.pop(far).unwrap()).collect();
    let pushes: Vec<_> = (0..64).map(|index| rig.start_push(near, &[index; 3])).collect();
    for (index, pop) in pops.into_iter().enumerate() {
        assert_eq!(rig.popped(pop), [index as u8; 3]);
    }
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// A receiver that does not keep up loses datagrams, or holds up the sender; what it gets is whole and in order.
pub fn a_slow_receiver_gets_whole_datagrams_in_order<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let message = |index: u32| [index.to_be_bytes().as_slice(), &[index as u8; 1000]].concat();
    let pushes: Vec<_> = (0..2000).map(|index| rig.start_push(near, &message(index))).collect();
    rig.idle();
    let mut next = 0;
    loop {
        let pop = rig.demi.pop(far).unwrap();
        let Ok(done) = rig.demi.wait(pop, Some(std::time::Duration::from_millis(20))) else {
            rig.demi.cancel(pop).unwrap();
            assert_eq!(rig.failure(pop), Error::Cancelled);
            break;
        };
        let bytes = done.popped().unwrap().to_vec();
        let index = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        assert!(bytes == message(index) && index >= next, "datagram {index} after {next}");
        next = index + 1;
    }
    assert!(next > 0, "not one datagram arrived");
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([near, far]);
}

/// Who is not connected must say where to.
pub fn a_push_to_nowhere_is_refused<H: Harness>(rig: &Rig<H>) {
    let (near, _) = rig.datagram_socket();
    let refused = rig.demi.push(near, rig.sga(b"back")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::NotConnected, b"back".to_vec()));
    assert!(rig.demi.peer_addr(near).is_err());
    assert!(rig.demi.accept(near).is_err());
    assert!(rig.demi.listen(near, 1).is_err());
    rig.close([near]);
}

/// A datagram that no network could carry is refused, and given back.
pub fn an_oversize_datagram_is_refused<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let refused = rig.demi.push(near, rig.sga(&vec![7; 100_000])).unwrap_err();
    assert!(matches!(refused.error, Error::TooLarge { len: 100_000, .. }), "{:?}", refused.error);
    assert_eq!(refused.sga.len(), 100_000);
    rig.push(near, b"fits").unwrap();
    assert_eq!(rig.pop(far).unwrap(), b"fits");
    rig.close([near, far]);
}

/// A connected socket hears its peer only.
pub fn a_connected_socket_hears_its_peer_only<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let (stranger, _) = rig.datagram_socket();
    let to = rig.demi.local_addr(far).unwrap();
    let push = rig.demi.push_to(stranger, rig.sga(b"spam"), to).unwrap();
    // A UNIX socket of the kernel refuses it, others drop it.
    assert!(matches!(rig.outcome(push), Ok(_) | Err(Error::PermissionDenied)));
    rig.push(near, b"ham").unwrap();
    assert_eq!(rig.pop(far).unwrap(), b"ham");
    rig.close([near, far, stranger]);
}

/// A cancelled pop takes no datagram with it; a closed socket's pops are cancelled.
pub fn pops_can_be_cancelled<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.datagrams();
    let [first, second, third] = [0, 1, 2].map(|_| rig.demi.pop(far).unwrap());
    rig.demi.cancel(first).unwrap();
    assert_eq!(rig.failure(first), Error::Cancelled);
    rig.push(near, b"one").unwrap();
    assert_eq!(rig.popped(second), b"one");
    rig.close([far]);
    assert_eq!(rig.failure(third), Error::Cancelled);
    rig.close([near]);
}
