//! Stream sockets: how connections begin and end, well or badly.

use std::time::{Duration, Instant};

use demi_api::{Addr, Done, Error, OptionName, QDesc, SocketOption};

use super::rig::{Harness, Rig, pattern};

/// Connections wait in the backlog, and are accepted in their order.
pub fn the_backlog_keeps_connections<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let near: Vec<QDesc> = (0..8)
        .map(|index| {
            let qd = rig.stream_socket();
            let connect = rig.demi.connect(qd, addr.clone()).unwrap();
            assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
            rig.push(qd, &[index]).unwrap();
            qd
        })
        .collect();
    for index in 0..8 {
        let (far, _) = rig.completion(rig.demi.accept(listener).unwrap()).accepted().unwrap();
        assert_eq!(rig.pop(far).unwrap(), [index]);
        rig.close([far]);
    }
    rig.close(near);
    rig.close([listener]);
}

/// Several accepts can be outstanding; each gets one connection.
pub fn accepts_are_served_in_order<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let accepts: Vec<_> = (0..4).map(|_| rig.demi.accept(listener).unwrap()).collect();
    let mut open = vec![listener];
    for (index, accept) in accepts.into_iter().enumerate() {
        let near = rig.stream_socket();
        let connect = rig.demi.connect(near, addr.clone()).unwrap();
        assert!(matches!(rig.outcome(connect), Ok(Done::Connected)), "connection {index}");
        let (far, _) = rig.completion(accept).accepted().unwrap();
        open.extend([near, far]);
    }
    rig.close(open);
}

/// Nobody listens: the connect fails, and the socket can be tried again.
pub fn a_refused_connect_can_be_tried_again<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    rig.close([listener]);
    let near = rig.stream_socket();
    for _ in 0..2 {
        let connect = rig.demi.connect(near, addr.clone()).unwrap();
        let error = rig.failure(connect);
        // The path of a UNIX socket goes with its listener.
        assert!(matches!(error, Error::ConnectionRefused | Error::NotFound), "{error}");
    }
    let (listener, addr) = rig.listener();
    let connect = rig.demi.connect(near, addr).unwrap();
    assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
    rig.close([near, listener]);
}

/// What is outstanding when its queue is closed completes as cancelled, once.
pub fn close_cancels_pops_and_accepts_once<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let (listener, _) = rig.listener();
    let pops = [rig.demi.pop(near).unwrap(), rig.demi.pop_n(near, 5).unwrap()];
    let accepts = [rig.demi.accept(listener).unwrap(), rig.demi.accept(listener).unwrap()];
    rig.idle();
    rig.close([near, listener]);
    for token in pops.into_iter().chain(accepts) {
        assert_eq!(rig.failure(token), Error::Cancelled);
        assert_eq!(rig.demi.wait(token, Some(Duration::ZERO)).unwrap_err(), Error::BadToken);
    }
    rig.has_ended(far);
    rig.close([far]);
}

/// Accepts and connects can be recalled; the listener goes on.
pub fn accepts_can_be_cancelled<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let [first, second] = [0, 1].map(|_| rig.demi.accept(listener).unwrap());
    rig.demi.cancel(first).unwrap();
    assert_eq!(rig.failure(first), Error::Cancelled);
    let near = rig.stream_socket();
    let connect = rig.demi.connect(near, addr).unwrap();
    assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
    let (far, _) = rig.completion(second).accepted().unwrap();
    rig.close([near, far, listener]);
}

/// What was pushed before a close arrives, whole.
pub fn close_delivers_what_was_pushed<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let bytes = pattern(3 << 20);
    let pushes: Vec<_> = bytes.chunks(1 << 20).map(|chunk| rig.start_push(near, chunk)).collect();
    rig.close([near]);
    assert!(rig.pop_to_end(far) == bytes);
    for push in pushes {
        rig.completion(push).pushed().unwrap();
    }
    rig.close([far]);
}

/// A peer that does not read cannot keep a closed socket's pushes from meeting their fate.
pub fn linger_bounds_the_pushes_of_a_closed_socket<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    rig.demi.set_option(near, SocketOption::Linger(Some(Duration::from_millis(30)))).unwrap();
    let block = rig.sga(&vec![1; 1 << 20]);
    let mut pushes = Vec::new();
    while rig.demi.counters().unwrap().operations_pending < 2 {
        pushes.push(rig.demi.push(near, block.clone()).unwrap());
        rig.idle();
        assert!(pushes.len() < 100, "nothing holds up a peer that does not read");
    }
    let begin = Instant::now();
    rig.close([near]);
    let fates: Vec<_> = pushes.into_iter().map(|push| rig.outcome(push)).collect();
    assert!(begin.elapsed() < Duration::from_secs(5), "linger did not bound the close");
    let failed = fates.iter().position(|fate| fate.is_err()).expect("not all of it can have been sent");
    assert!(fates[failed..].iter().all(|fate| matches!(fate, Err(Error::TimedOut))), "{fates:?}");
    let end = loop {
        let popped = rig.outcome(rig.demi.pop(far).unwrap());
        if rig.is_end(&popped) {
            break Ok(());
        }
        if let Err(error) = popped {
            break Err(error);
        }
    };
    // A UNIX socket of the kernel knows no reset unless bytes were left unread.
    let is_unix = matches!(rig.harness.stream_addr(), Some(Addr::Unix(_)));
    assert!(end.is_err() || is_unix, "half a stream must not look like a whole one");
    rig.close([far]);
}

/// Linger of zero aborts: the peer finds a reset, not an end.
pub fn linger_of_zero_resets<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pop = rig.demi.pop(far).unwrap();
    rig.demi.set_option(near, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    let linger = SocketOption::Linger(Some(Duration::ZERO));
    assert_eq!(rig.demi.option(near, OptionName::Linger), Ok(linger));
    rig.close([near]);
    let ended = rig.outcome(pop);
    let is_unix = matches!(rig.harness.stream_addr(), Some(Addr::Unix(_)));
    match ended {
        Err(Error::ConnectionReset) => assert_eq!(rig.pop(far), Err(Error::ConnectionReset)),
        // A UNIX socket of the kernel knows no reset unless bytes were left unread.
        Ok(Done::Popped(sga)) if is_unix && sga.is_empty() => {}
        other => panic!("{other:?}"),
    }
    rig.close([far]);
}

/// A socket that is closed with bytes unread resets its connection.
pub fn close_with_unread_bytes_resets<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    rig.push(near, b"never read").unwrap();
    rig.idle();
    rig.close([far]);
    assert_eq!(rig.pop(near), Err(Error::ConnectionReset));
    assert_eq!(rig.pop(near), Err(Error::ConnectionReset), "again and again");
    rig.close([near]);
}

/// Pushes to a peer that has gone fail sooner or later, and from then on.
pub fn pushes_to_a_closed_peer_fail<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    rig.close([far]);
    rig.has_ended(near);
    let begin = Instant::now();
    let error = loop {
        assert!(begin.elapsed() < Duration::from_secs(5), "a peer that has gone takes pushes for ever");
        if let Err(error) = rig.push(near, b"anybody there?") {
            break error;
        }
        rig.idle();
    };
    assert!(matches!(error, Error::ConnectionReset | Error::Closed), "{error}");
    assert!(rig.push(near, b"anybody?").is_err());
    rig.close([near]);
}

/// A listener that is closed turns away who waited in its backlog.
pub fn closing_a_listener_resets_its_backlog<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let near = rig.stream_socket();
    let connect = rig.demi.connect(near, addr).unwrap();
    assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
    let pop = rig.demi.pop(near).unwrap();
    rig.close([listener]);
    match rig.outcome(pop) {
        Err(Error::ConnectionReset) => {}
        ended => assert!(rig.is_end(&ended), "{ended:?}"),
    }
    rig.close([near]);
}

/// Two sockets cannot listen at one address.
pub fn an_address_is_bound_once<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let second = rig.stream_socket();
    assert_eq!(rig.demi.bind(second, addr.clone()), Err(Error::AddressInUse));
    rig.close([listener]);
    rig.demi.bind(second, addr.clone()).unwrap();
    rig.demi.listen(second, 1).unwrap();
    assert_eq!(rig.demi.local_addr(second).unwrap(), addr);
    rig.close([second]);
}

/// Calls that make no sense for what a socket is are refused, and change nothing.
pub fn calls_in_the_wrong_state_are_refused<H: Harness>(rig: &Rig<H>) {
    let fresh = rig.stream_socket();
    assert_eq!(rig.demi.pop(fresh), Err(Error::NotConnected));
    let refused = rig.demi.push(fresh, rig.sga(b"back")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::NotConnected, b"back".to_vec()));
    assert!(rig.demi.accept(fresh).is_err());
    assert!(rig.demi.listen(fresh, 1).is_err(), "bind comes first");
    assert!(rig.demi.flush(fresh).is_err());
    assert!(matches!(rig.demi.fetch_and_add(fresh, demi_api::Position(0), 1), Err(Error::NotSupported(_))));
    assert!(rig.demi.peer_addr(fresh).is_err());
    let (near, far) = rig.connected();
    let (listener, addr) = rig.listener();
    for qd in [near, listener] {
        assert_eq!(rig.demi.connect(qd, addr.clone()), Err(Error::AlreadyConnected));
        assert!(rig.demi.bind(qd, addr.clone()).is_err());
    }
    assert!(rig.demi.accept(near).is_err());
    assert!(rig.demi.pop(listener).is_err());
    assert!(rig.demi.push_to(near, rig.sga(b"x"), addr).is_err());
    assert!(rig.demi.seek(near, demi_api::SeekTo::Head).is_err());
    rig.push(near, b"fine").unwrap();
    assert_eq!(rig.pop(far).unwrap().len().min(1), 1);
    rig.close([fresh, near, far, listener]);
}

/// Descriptors are small, and reused in the order in which they became free.
pub fn descriptors_are_reused_first_in_first_out<H: Harness>(rig: &Rig<H>) {
    // More than have ever been open, so that no free number is left.
    let mut open: Vec<QDesc> = (0..64).map(|_| rig.stream_socket()).collect();
    assert!(open.iter().all(|qd| qd.raw() < 1000));
    let closed: Vec<QDesc> = [20, 7, 31].map(|index| open[index]).into();
    rig.close(closed.clone());
    open.retain(|qd| !closed.contains(qd));
    let again: Vec<QDesc> = (0..3).map(|_| rig.stream_socket()).collect();
    assert_eq!(again, closed);
    rig.close(open.into_iter().chain(again));
}

/// A closed descriptor is refused by every call.
pub fn a_closed_descriptor_is_refused<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let addr = rig.demi.local_addr(far).unwrap();
    rig.close([near, far]);
    super::hostile::every_call_refuses(rig, near, &addr);
    super::hostile::every_call_refuses(rig, far, &addr);
}

/// Connections can be made and dropped for long.
pub fn connections_come_and_go<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    for round in 0..100_u32 {
        let accept = rig.demi.accept(listener).unwrap();
        let near = rig.stream_socket();
        let connect = rig.demi.connect(near, addr.clone()).unwrap();
        let (far, _) = rig.completion(accept).accepted().unwrap();
        assert!(matches!(rig.outcome(connect), Ok(Done::Connected)));
        rig.push(near, &round.to_be_bytes()).unwrap();
        assert_eq!(rig.pop_exactly(far, 4), round.to_be_bytes());
        rig.close([far, near]);
    }
    rig.close([listener]);
}
