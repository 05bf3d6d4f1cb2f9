use demi_api::{Done, Error, OpenOptions, Position, QueueKind, SeekTo};

use super::world::{World, create, read_only};

#[test]
fn a_region_is_written_and_read_at_its_cursor() {
    let world = World::new(1);
    let demi = world.demi(0);
    let qd = demi.open("rdma:///table?size=100", &create()).unwrap();
    assert_eq!(demi.kind(qd), Ok(QueueKind::Stream));
    assert_eq!(world.pop(0, qd, 10), [0; 10], "it begins as zeros");
    assert_eq!(world.push(0, qd, b"written"), 10);
    assert_eq!(demi.seek(qd, SeekTo::Head), Ok(Position(0)));
    let mut expected = [0; 17];
    expected[10..].copy_from_slice(b"written");
    assert_eq!(world.pop(0, qd, 17), expected);
    let token = demi.pop(qd).unwrap();
    let rest = world.wait(0, token).popped().unwrap();
    assert_eq!(rest.len(), 83, "up to the end");
    assert_eq!(world.pop(0, qd, 1), b"", "and there is its end");
    assert_eq!(demi.seek(qd, SeekTo::End), Ok(Position(100)));
    let refused = demi.push(qd, world.array(0, b"x")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::NoSpace, b"x".to_vec()));
    assert_eq!(world.push(0, qd, b""), 100, "no bytes fit anywhere");
    assert_eq!(demi.seek(qd, SeekTo::Position(Position(1000))), Ok(Position(1000)));
    assert_eq!(world.pop(0, qd, 1), b"", "as of a file");
    assert!(demi.seek(qd, SeekTo::Position(Position(u64::MAX))).is_err());
    demi.seek(qd, SeekTo::Position(Position(98))).unwrap();
    let segments = [&b"a"[..], b"", b"b"].map(|part| demi.heap().copy_from(part).unwrap());
    let token = demi.push(qd, segments.into_iter().collect::<demi_api::SgArray>()).unwrap();
    assert_eq!(world.wait(0, token).pushed(), Ok(Position(98)));
    let flushed = demi.flush(qd).unwrap();
    assert!(matches!(world.outcome(0, flushed), Ok(Done::Flushed)));
    demi.close(qd).unwrap();
    world.assert_clean(0);
}

#[test]
fn a_long_region_is_read_in_pieces() {
    let world = World::new(1);
    let demi = world.demi(0);
    let qd = demi.open("rdma:///long?size=70000", &create()).unwrap();
    let token = demi.pop(qd).unwrap();
    assert_eq!(world.wait(0, token).popped().unwrap().len(), 65_536);
    assert_eq!(world.pop(0, qd, 1 << 20).len(), 70_000 - 65_536);
    assert!(demi.pop_n(qd, 0).is_err());
}

#[test]
fn words_change_in_one_step() {
    let world = World::new(1);
    let demi = world.demi(0);
    let qd = demi.open("rdma:///words?size=20", &create()).unwrap();
    assert_eq!(world.add(0, qd, 8, 5), 0);
    assert_eq!(world.add(0, qd, 8, u64::MAX), 5, "which takes one away");
    assert_eq!(world.swap(0, qd, 8, 4, 77), 4);
    assert_eq!(world.swap(0, qd, 8, 4, 88), 77, "it was not as expected");
    assert_eq!(world.add(0, qd, 8, 0), 77);
    assert_eq!(world.pop(0, qd, 16)[8..], 77_u64.to_ne_bytes(), "the cursor has not moved");
    for at in [4, 16, 24, u64::MAX - 7, u64::MAX] {
        assert!(matches!(demi.fetch_and_add(qd, Position(at), 1), Err(Error::Invalid(_))), "{at}");
    }
}

#[test]
fn queues_of_one_region_have_cursors_of_their_own() {
    let world = World::new(1);
    let demi = world.demi(0);
    let first = demi.open("rdma:///shared?size=64&access=r", &create()).unwrap();
    let second = demi.open("rdma:///shared", &OpenOptions::default()).unwrap();
    let reader = demi.open("rdma:///shared?size=64", &OpenOptions { create: true, ..read_only() }).unwrap();
    world.push(0, first, b"one");
    world.push(0, second, b"two");
    assert_eq!(world.pop(0, reader, 3), b"two", "peers may only read; this instance may write");
    assert_eq!(demi.push(reader, world.array(0, b"x")).unwrap_err().error, Error::ReadOnly);
    assert_eq!(demi.fetch_and_add(reader, Position(0), 1), Err(Error::ReadOnly));
    demi.close(first).unwrap();
    demi.close(reader).unwrap();
    assert_eq!(world.counter(0, "regions_revoked"), 0);
    assert_eq!(world.pop(0, second, 1), b"\0", "it lives as long as its last queue");
    demi.close(second).unwrap();
    assert_eq!(world.counter(0, "regions_revoked"), 1);
    assert_eq!(demi.open("rdma:///shared", &OpenOptions::default()), Err(Error::NotFound));
}

#[test]
fn options_do_what_they_say() {
    let world = World::new(1);
    let demi = world.demi(0);
    let qd = demi.open("rdma:///region?size=5000", &create()).unwrap();
    demi.seek(qd, SeekTo::Position(Position(4990))).unwrap();
    world.push(0, qd, b"0123456789");
    let exclusive = OpenOptions { exclusive: true, ..create() };
    assert_eq!(demi.open("rdma:///region?size=5000", &exclusive), Err(Error::Exists));
    for (path, options) in [
        ("rdma:///region?size=4999", create()),
        ("rdma:///region?access=r", OpenOptions::default()),
        ("rdma://10.0.0.1:9/region", create()),
        ("rdma:///fresh", create()),
        ("rdma:///region", OpenOptions { exclusive: true, ..OpenOptions::default() }),
        ("rdma://10.0.0.2:7/region?size=8", OpenOptions::default()),
    ] {
        assert!(matches!(demi.open(path, &options), Err(Error::Invalid(_))), "{path}");
    }
    let durable = OpenOptions { durable: true, ..OpenOptions::default() };
    for (path, options) in [("rdma:///region", durable), ("/tmp/file", create())] {
        assert!(matches!(demi.open(path, &options), Err(Error::NotSupported(_))), "{path}");
    }
    let emptied = demi.creat("rdma:///region").unwrap();
    assert_eq!(world.pop(0, emptied, 1 << 16), [0; 5000]);
    assert!(matches!(demi.truncate(qd, Position(0)), Err(Error::NotSupported(_))));
}

#[test]
fn a_region_is_no_socket_and_a_socket_no_region() {
    let world = World::new(1);
    let demi = world.demi(0);
    let addr: demi_api::Addr = "10.0.0.1:80".parse().unwrap();
    let here = demi.open("rdma:///region?size=8", &create()).unwrap();
    let there = demi.open("rdma://10.0.0.9:1/region", &OpenOptions::default()).unwrap();
    for qd in [here, there] {
        let refused = demi.push_to(qd, world.array(0, b"back"), addr.clone()).unwrap_err();
        assert!(matches!(refused.error, Error::Invalid(_)) && refused.sga.to_vec() == b"back");
        let results = [
            demi.bind(qd, addr.clone()).err(),
            demi.listen(qd, 1).err(),
            demi.accept(qd).err(),
            demi.connect(qd, addr.clone()).err(),
            demi.shutdown(qd, demi_api::Shutdown::Both).err(),
            demi.set_option(qd, demi_api::SocketOption::NoDelay(true)).err(),
            demi.option(qd, demi_api::OptionName::NoDelay).err(),
            demi.local_addr(qd).err(),
        ];
        let refused = |error: &Option<Error>| matches!(error, Some(Error::NotSupported(_)));
        assert!(results.iter().all(refused), "{results:?}");
    }
    assert_eq!(demi.peer_addr(here), Err(Error::NotConnected));
    assert_eq!(demi.peer_addr(there), Ok("10.0.0.9:1".parse().unwrap()));
    let socket = demi.socket(demi_api::Domain::Inet, demi_api::SocketKind::Stream).unwrap();
    assert!(matches!(demi.fetch_and_add(socket, Position(0), 1), Err(Error::NotSupported(_))));
    assert!(matches!(demi.seek(socket, SeekTo::Head), Err(Error::NotSupported(_))));
    [here, there, socket].into_iter().for_each(|qd| demi.close(qd).unwrap());
    world.settle();
    for qd in [here, there] {
        assert_eq!(demi.pop(qd), Err(Error::BadDescriptor));
        assert_eq!(demi.fetch_and_add(qd, Position(0), 1), Err(Error::BadDescriptor));
    }
    world.assert_clean(0);
}
