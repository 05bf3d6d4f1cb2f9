//! Listening, connecting, accepting, refusing.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::error::Error;
use demi_libos_catmint::device::{Event, Fault, RdmaDevice, Then};
use demi_libos_catmint::verbs::{Verbs, VerbsConfig};
use libtest_mimic::Failed;

use super::ends::{End, Pair, connect, request, until};
use super::{Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("both_sides_hear_who_the_other_is", both_sides_hear_who_the_other_is),
        ("a_refusal_says_why", a_refusal_says_why),
        ("nobody_listens_and_no_way_leads_there", nobody_listens_and_no_way_leads_there),
        ("addresses_are_the_devices_and_used_once", addresses_are_the_devices_and_used_once),
        ("a_listener_takes_its_requests_along", a_listener_takes_its_requests_along),
        ("there_are_as_many_queue_pairs_as_configured", there_are_as_many_queue_pairs_as_configured),
        ("names_and_descriptors_are_used_again", names_and_descriptors_are_used_again),
        ("a_sleeper_is_woken", a_sleeper_is_woken),
        ("a_device_that_is_not_there_is_named", a_device_that_is_not_there_is_named),
        ("a_caller_who_is_not_answered_gives_up", a_caller_who_is_not_answered_gives_up),
    ]
}

fn both_sides_hear_who_the_other_is(place: &Place) -> Result<(), Failed> {
    let loopback = if place.ip.is_ipv4() { "127.0.0.1" } else { "::1" }.parse().ok();
    for ip in [Some(place.ip), place.ip6, loopback].into_iter().flatten() {
        let (mut a, mut b) = (End::open(), End::open());
        let (_, addr) = b.listen(SocketAddr::new(ip, 0));
        assert_ne!(addr.port(), 0);
        let (qa, qb) = connect(&mut a, &mut b, SocketAddr::new(ip, addr.port()));
        let (local, remote) = a.device.addrs(qa).expect("it is connected");
        assert_eq!(remote, addr);
        assert_eq!(b.device.addrs(qb), Some((remote, local)));
        assert!(a.device.room(qa) > 64 && a.device.room(qa) < 128);
        assert!(a.device.addresses().contains(&place.ip));
    }
    Ok(())
}

fn a_refusal_says_why(place: &Place) -> Result<(), Failed> {
    let (mut a, mut b) = (End::open(), End::open());
    let (listener, addr) = b.listen(SocketAddr::new(place.ip, 0));
    let (device, cx) = a.both();
    let qp = device.connect(&cx, addr, b"")?;
    let Event::Request { listener: at, id, from, .. } = request(&mut a, &mut b) else { return Ok(()) };
    assert_eq!((at, from.ip()), (listener, place.ip));
    let (device, cx) = b.both();
    device.reject(&cx, id, b"full");
    let is_refused = |event: &Event| matches!(event, Event::Refused { .. });
    let refused = until("a refusal", &mut [&mut a, &mut b], |ends| ends[0].find(is_refused, |event| event));
    let Event::Refused { qp: name, hello } = refused else { return Ok(()) };
    assert_eq!((name, &hello[..4]), (qp, &b"full"[..]));
    assert!(hello[4..].iter().all(|byte| *byte == 0), "it is padded at most");
    // Answering twice is nothing.
    let (device, cx) = b.both();
    device.reject(&cx, id, b"full");
    assert!(device.accept(&cx, id, b"").is_err());
    Ok(())
}

fn nobody_listens_and_no_way_leads_there(place: &Place) -> Result<(), Failed> {
    let mut a = End::open();
    let (device, cx) = a.both();
    let nobody = device.connect(&cx, SocketAddr::new(place.ip, 9), b"")?;
    let no_way = device.connect(&cx, "198.51.100.1:9".parse()?, b"")?;
    assert_ne!(nobody, no_way);
    assert!(matches!(device.connect(&cx, SocketAddr::new(place.ip, 9), &[0; 57]), Err(Error::Invalid(_))));
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    let event = until("a refusal", &mut [&mut a], |ends| ends[0].find(refused, |event| event));
    let Event::Refused { qp, hello } = event else { return Ok(()) };
    assert_eq!((qp, hello), (nobody, Vec::new()));
    let gone = until("an end", &mut [&mut a], |ends| ends[0].gone());
    assert_eq!(gone, (no_way, Fault::Unreachable));
    Ok(())
}

fn addresses_are_the_devices_and_used_once(place: &Place) -> Result<(), Failed> {
    let mut a = End::open();
    let (id, addr) = a.listen(SocketAddr::new(place.ip, 0));
    let (device, cx) = a.both();
    assert_eq!(device.listen(&cx, addr), Err(Error::AddressInUse));
    assert_eq!(device.listen(&cx, "198.51.100.1:0".parse()?), Err(Error::AddressNotAvailable));
    device.unlisten(&cx, id);
    let (id, _) = a.listen(addr);
    let (device, cx) = a.both();
    device.unlisten(&cx, id);
    // All that the device has.
    let any = if place.ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let mut b = End::open();
    let (_, anywhere) = b.listen(any.parse()?);
    connect(&mut a, &mut b, SocketAddr::new(place.ip, anywhere.port()));
    Ok(())
}

fn a_listener_takes_its_requests_along(place: &Place) -> Result<(), Failed> {
    let (mut a, mut b) = (End::open(), End::open());
    let (listener, addr) = b.listen(SocketAddr::new(place.ip, 0));
    let (device, cx) = a.both();
    let qp = device.connect(&cx, addr, b"")?;
    let Event::Request { id, .. } = request(&mut a, &mut b) else { return Ok(()) };
    let (device, cx) = b.both();
    device.unlisten(&cx, listener);
    assert!(device.accept(&cx, id, b"").is_err());
    let is_end = |event: &Event| matches!(event, Event::Refused { qp: name, .. } if *name == qp);
    until("a refusal", &mut [&mut a, &mut b], |ends| ends[0].find(is_end, |_| ()));
    Ok(())
}

fn there_are_as_many_queue_pairs_as_configured(place: &Place) -> Result<(), Failed> {
    let config = VerbsConfig { queue_pairs: 3, receives: 64, ..VerbsConfig::default() };
    let (mut a, mut b) = (End::with(&config), End::open());
    let (_, addr) = b.listen(SocketAddr::new(place.ip, 0));
    let pairs: Vec<_> = (0..3).map(|_| connect(&mut a, &mut b, addr)).collect();
    let (device, cx) = a.both();
    assert_eq!(device.connect(&cx, addr, b""), Err(Error::NoBuffers));
    device.disconnect(&cx, pairs[1].0);
    until("an end", &mut [&mut a, &mut b], |ends| ends[0].gone());
    connect(&mut a, &mut b, addr);
    Ok(())
}

fn names_and_descriptors_are_used_again(place: &Place) -> Result<(), Failed> {
    let open_files = || std::fs::read_dir("/proc/self/fd").map(|all| all.count());
    let (mut a, mut b) = (End::open(), End::open());
    let (_, addr) = b.listen(SocketAddr::new(place.ip, 0));
    let mut before = None;
    for round in 0..60 {
        let (qa, qb) = connect(&mut a, &mut b, addr);
        let (end, qp) = if round % 2 == 0 { (&mut a, qa) } else { (&mut b, qb) };
        let (device, cx) = end.both();
        device.disconnect(&cx, qp);
        let (mut at_a, mut at_b) = (None, None);
        until("both ends", &mut [&mut a, &mut b], |ends| {
            at_a = at_a.or_else(|| ends[0].gone());
            at_b = at_b.or_else(|| ends[1].gone());
            at_a.zip(at_b)
        });
        assert_eq!(a.device.room(qa), 0, "what has ended is nobody's name");
        assert_eq!((qa.0, qb.0), (0, 0), "names are used again");
        if round == 3 {
            before = Some(open_files()?);
        }
    }
    assert_eq!(before, Some(open_files()?));
    assert_eq!(
        (a.counter("verbs_gone"), a.counter("verbs_connected"), a.counter("verbs_forced")),
        (60, 60, 0)
    );
    assert_eq!((a.heap.stats().bytes_live, b.heap.stats().bytes_live), (0, 0));
    Ok(())
}

/// The descriptor tells of completions, and of requests to connect.
fn a_sleeper_is_woken(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    pair.b.receives(4);
    assert!(!sleep(&mut pair.b, Duration::from_millis(50)), "nothing has happened");
    pair.a.send(pair.qa, b"wake up", Default::default(), Then::Quiet);
    pair.a.turn();
    assert!(sleep(&mut pair.b, Duration::from_secs(5)), "a message has come");
    pair.b.turn();
    assert_eq!(pair.b.message().expect("it is there at once").1[..], *b"wake up");
    // What is there before is not slept through.
    pair.a.send(pair.qa, b"again", Default::default(), Then::Quiet);
    pair.a.turn();
    std::thread::sleep(Duration::from_millis(100));
    let (device, cx) = pair.b.both();
    assert!(!device.arm(&cx), "it looks again");
    pair.b.turn();
    assert_eq!(pair.b.message().expect("it was found").1[..], *b"again");
    let (_, addr) = pair.b.listen(SocketAddr::new(place.ip, 0));
    let (device, cx) = pair.a.both();
    device.connect(&cx, addr, b"")?;
    // Finding the way takes turns of the caller.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        pair.a.turn();
    }
    assert!(sleep(&mut pair.b, Duration::from_secs(5)), "a request has come");
    Ok(())
}

/// Whether the descriptor became readable.
fn sleep(end: &mut End, limit: Duration) -> bool {
    let (device, cx) = end.both();
    if !device.arm(&cx) {
        return true;
    }
    let fd = device.wait_fd();
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let limit =
        rustix::event::Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    rustix::event::poll(&mut fds, Some(&limit)).expect("it can be polled") > 0
}

fn a_device_that_is_not_there_is_named(_: &Place) -> Result<(), Failed> {
    let heap = demi_api::memalloc::Heap::new(&Default::default())?;
    let config = VerbsConfig { device: "mlx5_77".into(), ..VerbsConfig::default() };
    let error = Verbs::open(&heap, &config).expect_err("there is none").to_string();
    assert!(error.contains("mlx5_77") && error.contains("ibv_devinfo"), "{error}");
    Ok(())
}

fn a_caller_who_is_not_answered_gives_up(place: &Place) -> Result<(), Failed> {
    let config = VerbsConfig { connect_ms: 300, receives: 64, ..VerbsConfig::default() };
    let (mut a, mut b) = (End::with(&config), End::open());
    let (_, addr) = b.listen(SocketAddr::new(place.ip, 0));
    let (device, cx) = a.both();
    let qp = device.connect(&cx, addr, b"")?;
    let Event::Request { id, .. } = request(&mut a, &mut b) else { return Ok(()) };
    let gone = until("an end", &mut [&mut a, &mut b], |ends| ends[0].gone());
    assert_eq!(gone, (qp, Fault::Timeout));
    // The answer comes to nothing, at once or as an end.
    let (device, cx) = b.both();
    if let Ok(late) = device.accept(&cx, id, b"") {
        let (gone, _) = until("an end", &mut [&mut a, &mut b], |ends| ends[1].gone());
        assert_eq!(gone, late);
    }
    Ok(())
}
