//! Both roles against each other.

use super::*;
use crate::device::Checksum;

/// Every size in both directions, several under way at once, in order and intact.
fn every_size(settings: impl Fn(&mut MemifConfig), step: usize) {
    let (mut server, mut client) = pair(settings);
    let most = client.device.caps().mtu + 18;
    let sizes: Vec<usize> = (14..=most).step_by(step).chain([most]).collect();
    for (at, chunk) in sizes.chunks(9).enumerate() {
        for (number, &len) in chunk.iter().enumerate() {
            client.push(&pattern(len, at + number));
            server.push(&pattern(len, at + number + 1));
        }
        let mut got = (Vec::new(), Vec::new());
        until(&mut [&mut server, &mut client], |ends| {
            for end in ends.iter_mut() {
                end.send();
            }
            got.0.extend(ends[0].take());
            got.1.extend(ends[1].take());
            got.0.len() >= chunk.len() && got.1.len() >= chunk.len()
        });
        let sent =
            |more| chunk.iter().enumerate().map(move |(number, &len)| pattern(len, at + number + more));
        assert!(sent(0).eq(got.0) && sent(1).eq(got.1), "frames of {chunk:?} bytes");
    }
    for end in [server, client] {
        assert_eq!(end.counter("memif_tx_frames"), sizes.len() as u64);
        assert_eq!(end.counter("memif_rx_frames"), sizes.len() as u64);
        assert_eq!(end.counter("memif_interrupts_sent"), 0, "both ends poll");
    }
}

#[test]
fn every_size_of_a_plain_frame() {
    every_size(|_| {}, 1);
}

#[test]
fn every_size_in_chains_of_small_buffers() {
    every_size(|config| (config.buffer_bytes, config.ring_log2) = (100, 7), 1);
}

#[test]
fn jumbo_frames_in_chains() {
    every_size(|config| config.mtu = 9000, 7);
    every_size(|config| (config.mtu, config.buffer_bytes, config.ring_log2) = (65_535, 4096, 6), 997);
}

#[test]
fn the_two_sides_need_not_agree_on_sizes() {
    let socket = socket_name();
    let server = MemifConfig { ring_log2: 3, buffer_bytes: 300, ..config(Role::Server, &socket) };
    let client = MemifConfig { ring_log2: 5, buffer_bytes: 1000, ..config(Role::Client, &socket) };
    let (mut server, mut client) = (End::open(&server), End::open(&client));
    until(&mut [&mut server, &mut client], both_up);
    let long = pattern(1514, 3);
    server.push(&long);
    client.push(&long);
    server.send();
    client.send();
    until(&mut [&mut server, &mut client], |ends| ends.iter().all(|end| !end.inbox.is_empty()));
    assert_eq!((&server.take()[0], &client.take()[0]), (&long, &long));
}

#[test]
fn segments_are_gathered() {
    let (mut server, mut client) = pair(|config| config.buffer_bytes = 256);
    let whole = pattern(1200, 5);
    for cuts in [[1, 2, 3], [14, 300, 301], [255, 256, 257], [512, 768, 1199]] {
        let mut frame = SgArray::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([1200]) {
            frame.push(client.heap.copy_from(&whole[from..to]).unwrap()).unwrap();
            frame.push(client.heap.copy_from(b"").unwrap()).unwrap();
            from = to;
        }
        client.outbox.push_back(Frame::new(frame));
        assert_eq!(client.send(), 1);
        until(&mut [&mut server, &mut client], |ends| !ends[0].inbox.is_empty());
        assert_eq!(server.inbox[0].data.segments().len(), 1);
        assert_eq!(server.take(), std::slice::from_ref(&whole));
    }
}

#[test]
fn a_hundred_thousand_frames_go_around_a_small_ring() {
    let (mut server, mut client) = pair(|config| (config.ring_log2, config.buffer_bytes) = (5, 512));
    let mut rng = fastrand::Rng::with_seed(11);
    const COUNT: u64 = 100_000;
    let (mut sent, mut received) = ([0_u64; 2], [0_u64; 2]);
    let mut stalls = 0;
    while received.iter().any(|&count| count < COUNT) {
        for (side, end) in [&mut server, &mut client].into_iter().enumerate() {
            while end.outbox.len() < 40 && sent[side] < COUNT {
                let most = if rng.u8(..) < 20 { 1400 } else { 200 };
                let len = 14 + 8 + rng.usize(..most);
                let mut frame = pattern(len, sent[side] as usize);
                frame[14..22].copy_from_slice(&sent[side].to_ne_bytes());
                end.push(&frame);
                sent[side] += 1;
            }
            if rng.bool() {
                end.send();
                stalls += usize::from(!end.outbox.is_empty());
            }
            if rng.bool() {
                end.receive();
            }
            for frame in end.inbox.drain(..).map(|frame| frame.data.to_vec()) {
                let number = u64::from_ne_bytes(frame[14..22].try_into().unwrap());
                assert_eq!(number, received[side], "in order, none lost");
                let intact = pattern(frame.len(), number as usize);
                assert!(frame[..14] == intact[..14] && frame[22..] == intact[22..]);
                received[side] += 1;
            }
        }
    }
    assert!(stalls > 1000, "the ring was full often: {stalls}");
}

#[test]
fn a_full_ring_leaves_frames_with_the_caller() {
    let (mut server, mut client) = pair(|config| config.ring_log2 = 4);
    assert!(!server.arm() && !client.arm(), "the link is news");
    for side in [0, 1] {
        let [to, from] = if side == 0 { [&mut server, &mut client] } else { [&mut client, &mut server] };
        for number in 0..20 {
            from.push(&pattern(60, number));
        }
        assert_eq!((from.send(), from.outbox.len()), (16, 4));
        assert_eq!((from.send(), from.outbox.len()), (0, 4));
        assert_eq!(from.counter("memif_tx_full"), 2);
        assert!(from.device.next_deadline().is_some(), "nothing will be signalled");
        assert!(from.arm(), "and there is no room yet");
        assert_eq!(to.receive(), 16);
        assert!(!from.arm(), "there is room now");
        assert_eq!((from.send(), from.device.next_deadline()), (4, None));
        assert_eq!(to.receive(), 4);
        assert!((0..20).map(|number| pattern(60, number)).eq(to.take()));
    }
}

#[test]
fn frames_beyond_the_capabilities_are_dropped_and_counted() {
    let (mut server, mut client) = pair(|config| config.ring_log2 = 4);
    for len in [0, 13, 1519, 9000] {
        client.push(&vec![0; len]);
    }
    let partial = SgArray::copy_from(&client.heap, &[0; 60]).unwrap();
    let checksum = Checksum::Partial { start: 34, at: 40 };
    client.outbox.push_back(Frame { data: partial, checksum });
    client.push(&pattern(60, 1));
    assert_eq!((client.send(), client.counter("memif_tx_rejected")), (6, 5));
    until(&mut [&mut server, &mut client], |ends| !ends[0].inbox.is_empty());
    assert_eq!(server.take(), [pattern(60, 1)]);
}

#[test]
fn a_frame_longer_than_all_of_the_peers_buffers_does_not_block() {
    let socket = socket_name();
    let server = MemifConfig { mtu: 9000, ..config(Role::Server, &socket) };
    let client = MemifConfig { ring_log2: 1, buffer_bytes: 128, mtu: 200, ..config(Role::Client, &socket) };
    let (mut server, mut client) = (End::open(&server), End::open(&client));
    until(&mut [&mut server, &mut client], both_up);
    server.push(&pattern(257, 0));
    server.push(&pattern(256, 0));
    server.push(&pattern(60, 0));
    assert_eq!((server.send(), server.counter("memif_tx_rejected")), (2, 1));
    client.receive();
    assert_eq!(client.counter("memif_rx_bad_length"), 1, "256 bytes are more than its MTU");
    assert_eq!((server.send(), client.receive()), (1, 1));
}

#[test]
fn a_heap_without_room_loses_frames_and_nothing_else() {
    let (mut server, mut client) = pair(|_| {});
    let hoard: Vec<_> = std::iter::from_fn(|| server.heap.alloc(100_000).ok()).collect();
    let rest: Vec<_> = std::iter::from_fn(|| server.heap.alloc(1400).ok()).collect();
    for number in 0..3 {
        client.push(&pattern(1400, number));
    }
    client.send();
    server.receive();
    assert_eq!((server.inbox.len(), server.counter("memif_rx_no_memory")), (0, 3));
    drop((hoard, rest));
    client.push(&pattern(1400, 9));
    assert_eq!((client.send(), server.receive()), (1, 1));
    assert_eq!(server.take(), [pattern(1400, 9)]);
}

#[test]
fn either_side_may_go_and_come_back() {
    let socket = socket_name();
    let (as_server, as_client) = (config(Role::Server, &socket), config(Role::Client, &socket));
    let mut client = End::open(&as_client);
    for _ in 0..1000 {
        assert_eq!(client.receive(), 0, "no server yet");
    }
    let mut server = End::open(&as_server);
    for round in 0..6 {
        until(&mut [&mut server, &mut client], both_up);
        for end in [&mut server, &mut client] {
            end.push(&pattern(60, round));
            assert_eq!(end.send(), 1);
        }
        until(&mut [&mut server, &mut client], |ends| ends.iter().all(|end| !end.inbox.is_empty()));
        assert_eq!((server.take(), client.take()), (vec![pattern(60, round)], vec![pattern(60, round)]));
        if round % 2 == 0 {
            client = End::open(&as_client);
            until(&mut [&mut server], |ends| !ends[0].device.is_up());
            assert!(server.device.last_end().unwrap().contains("Device closed"));
        } else {
            drop(server);
            until(&mut [&mut client], |ends| !ends[0].device.is_up());
            assert!(client.device.next_deadline().is_some(), "it has to try again");
            server = End::open(&as_server);
        }
    }
    assert_eq!(client.counter("memif_violations") + server.counter("memif_violations"), 0);
}

#[test]
fn frames_sent_before_the_end_still_arrive() {
    let (mut server, mut client) = pair(|_| {});
    for number in 0..100 {
        client.push(&pattern(60, number));
    }
    client.send();
    drop(client);
    until(&mut [&mut server], |ends| !ends[0].device.is_up());
    assert_eq!(server.take().len(), 100);
}

#[test]
fn an_idle_link_makes_hardly_any_system_calls() {
    let (mut server, mut client) = pair(|_| {});
    for end in [&mut server, &mut client] {
        let (start, before) = (end.clock.now(), end.counter("memif_looks"));
        for _ in 0..100_000 {
            end.receive();
        }
        let millis = (end.clock.now() - start).as_millis() as u64;
        let looks = end.counter("memif_looks") - before;
        assert!(looks <= 100_000 / 4096 + millis / 10 + 2, "{looks} in {millis} ms");
    }
}

#[test]
fn a_second_client_is_refused_while_there_is_one() {
    let socket = socket_name();
    let mut server = End::open(&config(Role::Server, &socket));
    let mut client = End::open(&config(Role::Client, &socket));
    until(&mut [&mut server, &mut client], both_up);
    let mut second = End::open(&config(Role::Client, &socket));
    until(&mut [&mut second, &mut server, &mut client], |ends| ends[0].device.last_end().is_some());
    assert!(second.device.last_end().unwrap().contains("Already connected"));
    assert!(server.device.is_up() && client.device.is_up());
    drop(client);
    until(&mut [&mut server, &mut second], both_up);
}

#[test]
fn id_and_secret_must_match() {
    let socket = socket_name();
    let secret = |secret: &str| MemifConfig { secret: secret.into(), id: 7, ..config(Role::Client, &socket) };
    let mut server = End::open(&MemifConfig { role: Role::Server, ..secret("open sesame") });
    let wrong = [
        (MemifConfig { id: 8, ..secret("open sesame") }, "ID not found"),
        (secret(""), "Incorrect secret"),
        (secret("open sesam"), "Incorrect secret"),
        (secret("open sesame!"), "Incorrect secret"),
    ];
    for (config, reason) in wrong {
        let mut client = End::open(&config);
        until(&mut [&mut client, &mut server], |ends| ends[0].device.last_end().is_some());
        assert!(client.device.last_end().unwrap().contains(reason), "{:?}", client.device.last_end());
    }
    let mut client = End::open(&secret("open sesame"));
    until(&mut [&mut server, &mut client], both_up);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_living_one_respected() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(Role::Server, &dir.path().join("memif.sock"));
    let first = Memif::open(&config).unwrap();
    assert_eq!(Memif::open(&config).err(), Some(Error::AddressInUse));
    drop(first);
    assert!(!config.socket.exists(), "it takes its file along");
    // As a process leaves it that died.
    drop(std::os::unix::net::UnixListener::bind(&config.socket).unwrap());
    assert!(config.socket.exists());
    let second = Memif::open(&config).unwrap();
    std::fs::remove_file(&config.socket).unwrap();
    let third = Memif::open(&config).unwrap();
    drop(second);
    assert!(config.socket.exists(), "it is another's by now");
    drop(third);
    std::fs::write(&config.socket, "precious").unwrap();
    assert_eq!(Memif::open(&config).err(), Some(Error::AddressInUse));
    assert_eq!(std::fs::read(&config.socket).unwrap(), b"precious");
}

#[test]
fn fields_out_of_range_are_refused() {
    let good = || config(Role::Client, &socket_name());
    let bad = [
        MemifConfig { socket: "".into(), ..good() },
        MemifConfig { socket: format!("/tmp/{}", "x".repeat(108)).into(), ..good() },
        MemifConfig { secret: "x".repeat(25), ..good() },
        MemifConfig { ring_log2: 0, ..good() },
        MemifConfig { ring_log2: 15, ..good() },
        MemifConfig { buffer_bytes: 63, ..good() },
        MemifConfig { buffer_bytes: 65_537, ..good() },
        MemifConfig { buffer_bytes: 65_536, ring_log2: 13, ..good() },
        MemifConfig { mtu: 67, ..good() },
        MemifConfig { mtu: 65_536, ..good() },
        MemifConfig { mtu: 65_535, ring_log2: 4, ..good() },
        MemifConfig { mac: Some([1, 0, 0, 0, 0, 0]), ..good() },
    ];
    for config in bad {
        assert!(matches!(Memif::open(&config), Err(Error::Invalid(_))), "{config:?}");
    }
    let [server, client] = [Role::Server, Role::Client].map(|role| MemifConfig { role, ..good() });
    assert_ne!(Memif::open(&server).unwrap().caps().mac, Memif::open(&client).unwrap().caps().mac);
    assert!(!format!("{:?}", MemifConfig { secret: "hidden".into(), ..good() }).contains("hidden"));
}

#[test]
fn what_is_sent_just_before_there_is_a_link_goes_over_it() {
    let socket = socket_name();
    let (as_server, as_client) = (config(Role::Server, &socket), config(Role::Client, &socket));
    let mut client = End::open(&as_client);
    for number in 0..40 {
        client.push(&pattern(60, number));
    }
    assert_eq!((client.send(), client.counter("memif_tx_no_link")), (40, 8), "it keeps 32");
    let mut server = End::open(&as_server);
    until(&mut [&mut server, &mut client], both_up);
    until(&mut [&mut server, &mut client], |ends| ends[0].inbox.len() >= 32);
    let kept: Vec<_> = (0..32).map(|number| pattern(60, number)).collect();
    assert_eq!(server.take(), kept);
}

#[test]
fn what_was_sent_long_before_there_is_a_link_is_dropped() {
    let mut early = super::early::Early::default();
    let (heap, clock) = (heap(16), Clock::start());
    let frame = || Frame::new(SgArray::copy_from(&heap, &pattern(60, 0)).unwrap());
    let now = clock.now();
    assert_eq!(early.keep(now, &mut [frame(), frame()].into()), 0);
    let later = now + Duration::from_secs(1);
    assert_eq!(early.keep(later, &mut [frame()].into()), 2);
    assert_eq!(early.expire(later + Duration::from_millis(999)), 0);
    assert_eq!(early.take().len(), 1);
    assert_eq!(early.keep(later, &mut [frame()].into()), 0);
    assert_eq!(early.expire(later + Duration::from_secs(1)), 1);
    assert!(early.is_empty());
}
