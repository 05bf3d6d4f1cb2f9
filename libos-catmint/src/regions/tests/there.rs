use demi_api::{Done, Error, Position, QueueKind, SeekTo};

use super::world::{AT, World, create, ip, read_only};
use crate::device::ideal::Conditions;

#[test]
fn both_sides_see_what_either_writes() {
    let world = World::new(2);
    let here = world.export(0, "table?size=4096");
    assert_eq!(world.demi(0).local_addr(here), Ok(AT.parse().unwrap()));
    let there = world.open(1, "table");
    assert_eq!(world.demi(1).kind(there), Ok(QueueKind::Stream));
    assert_eq!(world.push(1, there, b"from afar"), 0);
    assert_eq!(world.pop(0, here, 9), b"from afar");
    assert_eq!(world.push(0, here, b" and back"), 9);
    assert_eq!(world.pop(1, there, 9), b" and back");
    assert_eq!(world.demi(1).seek(there, SeekTo::End), Ok(Position(4096)));
    assert_eq!(world.pop(1, there, 1), b"");
    assert_eq!(world.add(1, there, 64, 7), 0);
    assert_eq!(world.add(0, here, 64, 7), 7);
    assert_eq!(world.swap(1, there, 64, 14, 1), 14);
    assert_eq!(world.swap(0, here, 64, 14, 2), 1);
    let by_name = ["region_writes", "region_reads", "region_atomics"];
    assert_eq!(by_name.map(|name| world.counter(1, name)), [1, 1, 2]);
    world.demi(1).close(there).unwrap();
    world.settle();
    assert_eq!(world.fabric.queue_pairs(ip(0)), 0, "its queue pair has gone with it");
    world.demi(0).close(here).unwrap();
    world.assert_clean(0);
    world.assert_clean(1);
}

#[test]
fn what_is_asked_before_the_region_is_found_is_done_in_order() {
    let conditions = Conditions { delay: 1_000..=9_000, seed: 3, ..Conditions::default() };
    let world = World::with(2, conditions, "");
    let here = world.export(0, "table?size=64");
    let there = world.open(1, "table");
    let demi = world.demi(1);
    assert!(demi.seek(there, SeekTo::End).is_err(), "where that is, is not known yet");
    let push = demi.push(there, world.array(1, b"abcdef")).unwrap();
    demi.seek(there, SeekTo::Head).unwrap();
    demi.seek(there, SeekTo::Position(Position(2))).unwrap();
    let dropped = demi.pop_n(there, 2).unwrap();
    demi.cancel(dropped).unwrap();
    assert_eq!(world.error(1, dropped), Error::Cancelled);
    let pop = demi.pop_n(there, 2).unwrap();
    let overwrite = demi.push(there, world.array(1, b"XY")).unwrap();
    let too_long = demi.push(there, world.array(1, &[1; 64])).unwrap();
    let add = demi.fetch_and_add(there, Position(60), 1);
    assert!(matches!(add, Err(Error::Invalid(_))), "that it is no word is known here");
    let outside = demi.fetch_and_add(there, Position(64), 1).unwrap();
    let word = demi.fetch_and_add(there, Position(0), 0).unwrap();
    let end = demi.pop(there).unwrap();
    assert_eq!(world.wait(1, end).popped().unwrap().len(), 58);
    // What was asked before is done.
    let done = |token| demi.wait(token, Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!(done(push).pushed(), Ok(Position(0)));
    assert_eq!(done(pop).popped().unwrap().to_vec(), b"cd");
    assert_eq!(done(overwrite).pushed(), Ok(Position(4)));
    assert_eq!(done(too_long).result.unwrap_err(), Error::NoSpace);
    assert!(matches!(done(outside).result, Err(Error::Invalid(_))));
    assert_eq!(done(word).fetched(), Ok(u64::from_ne_bytes(*b"abcdXY\0\0")));
    assert_eq!(world.pop(0, here, 6), b"abcdXY");
}

#[test]
fn many_operations_are_under_way_and_complete_in_order() {
    // Room for few, and now and then for none.
    let conditions = Conditions { delay: 100..=5_000, seed: 5, depth: 8, full: 7, ..Conditions::default() };
    let world = World::with(2, conditions, "");
    let here = world.export(0, "table?size=8000");
    let there = world.find(1, "table");
    let demi = world.demi(1);
    let pushes: Vec<_> =
        (0..100_u64).map(|n| demi.push(there, world.array(1, &n.to_ne_bytes())).unwrap()).collect();
    demi.seek(there, SeekTo::Head).unwrap();
    let pops: Vec<_> = (0..100).map(|_| demi.pop_n(there, 8).unwrap()).collect();
    let adds: Vec<_> = (0..100).map(|_| demi.fetch_and_add(there, Position(4000), 1).unwrap()).collect();
    let mut order = Vec::new();
    let mut completions = Vec::new();
    while order.len() < 300 {
        world.turn();
        match demi.wait_next_n(&mut completions, 64, Some(std::time::Duration::ZERO)) {
            Ok(_) | Err(Error::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        for completion in completions.drain(..) {
            order.push(completion.token);
            let index = order.len() as u64 - 1;
            match completion.result.unwrap() {
                Done::Pushed(at) => assert_eq!(at.0, 8 * index),
                Done::Popped(sga) => assert_eq!(sga.to_vec(), (index - 100).to_ne_bytes()),
                Done::Fetched(word) => assert_eq!(word, index - 200),
                done => panic!("{done:?}"),
            }
        }
    }
    assert_eq!(order, [pushes, pops, adds].concat());
    world.demi(0).close(here).unwrap();
}

#[test]
fn what_writes_does_not_overtake_what_reads_the_same_bytes() {
    let conditions = Conditions { delay: 10_000..=20_000, ..Conditions::default() };
    let world = World::with(2, conditions, "");
    let _here = world.export(0, "table?size=64");
    let there = world.find(1, "table");
    let demi = world.demi(1);
    world.push(1, there, b"before__");
    let at = |at| demi.seek(there, SeekTo::Position(Position(at))).unwrap();
    let posts = || world.counter(1, "ideal_posts");
    let push = |bytes: &[u8]| demi.push(there, world.array(1, bytes)).unwrap();
    let begin = posts();
    at(0);
    let read = demi.pop_n(there, 16).unwrap();
    at(16);
    let beside = push(b"elsewhere");
    assert_eq!(posts() - begin, 2, "what lies elsewhere goes at once");
    at(15);
    let over = push(b"after");
    let word = demi.fetch_and_add(there, Position(16), 0).unwrap();
    assert_eq!(posts() - begin, 2, "this waits, and what is behind it too");
    assert_eq!(world.wait(1, read).popped().unwrap().to_vec(), b"before__\0\0\0\0\0\0\0\0");
    assert_eq!(posts() - begin, 4);
    world.wait(1, beside).pushed().unwrap();
    world.wait(1, over).pushed().unwrap();
    assert_eq!(world.wait(1, word).fetched(), Ok(u64::from_ne_bytes(*b"fterwher")));
    // Words among themselves are in order; reading or writing them is another matter.
    let begin = posts();
    let words = [
        demi.fetch_and_add(there, Position(40), 1).unwrap(),
        demi.fetch_and_add(there, Position(40), 1).unwrap(),
    ];
    assert_eq!(posts() - begin, 2);
    at(41);
    let read = demi.pop_n(there, 1).unwrap();
    assert_eq!(posts() - begin, 2);
    assert_eq!(words.map(|word| world.wait(1, word).fetched().unwrap()), [0, 1]);
    world.wait(1, read).popped().unwrap();
    // Writes are in order, with whatever is behind them.
    let begin = posts();
    at(0);
    let push = push(b"w");
    at(0);
    let read = demi.pop_n(there, 1).unwrap();
    assert_eq!(posts() - begin, 2);
    world.wait(1, push).pushed().unwrap();
    assert_eq!(world.wait(1, read).popped().unwrap().to_vec(), b"w");
}

#[test]
fn bounds_are_known_here_and_nothing_is_posted_beyond_them() {
    let world = World::new(2);
    let _here = world.export(0, "table?size=100&access=r");
    let there = world.find(1, "table");
    let demi = world.demi(1);
    let posts = world.counter(1, "ideal_posts");
    let refused = demi.push(there, world.array(1, b"back")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::ReadOnly, b"back".to_vec()));
    assert_eq!(demi.fetch_and_add(there, Position(0), 1), Err(Error::ReadOnly), "peers may only read it");
    demi.seek(there, SeekTo::End).unwrap();
    assert_eq!(world.pop(1, there, 10), b"");
    assert_eq!(world.counter(1, "ideal_posts"), posts);
    let _here = world.export(0, "open?size=100");
    let there = world.find(1, "open");
    let posts = world.counter(1, "ideal_posts");
    demi.seek(there, SeekTo::Position(Position(97))).unwrap();
    let refused = demi.push(there, world.array(1, b"back")).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::NoSpace, b"back".to_vec()));
    assert!(matches!(demi.fetch_and_add(there, Position(96), 1), Err(Error::Invalid(_))));
    assert!(matches!(demi.compare_and_swap(there, Position(4), 1, 2), Err(Error::Invalid(_))));
    assert_eq!(world.counter(1, "ideal_posts"), posts);
    assert_eq!(world.push(1, there, b"fit"), 97, "a refused push has not moved the cursor");
    let reader = demi.open(format!("rdma://{AT}/open"), &read_only()).unwrap();
    assert_eq!(demi.push(reader, world.array(1, b"x")).unwrap_err().error, Error::ReadOnly);
    assert_eq!(demi.fetch_and_add(reader, Position(0), 1), Err(Error::ReadOnly));
    assert_eq!(world.pop(1, reader, 200)[97..], *b"fit");
}

#[test]
fn memory_that_is_not_there_fails_one_pop() {
    let world = World::new(2);
    let _here = world.export(0, "table?size=16000000");
    let there = world.find(1, "table");
    let demi = world.demi(1);
    assert!(matches!(demi.pop_n(there, 16_000_000), Err(Error::OutOfMemory(_))));
    let push = demi.push(there, world.array(1, b"x")).unwrap();
    assert_eq!(world.wait(1, push).pushed(), Ok(Position(0)), "the cursor has not moved");
}

#[test]
fn a_region_that_is_not_there_is_not_found() {
    let world = World::new(2);
    let demi = world.demi(1);
    let nobody = world.open(1, "table");
    let push = demi.push(nobody, world.array(1, b"x")).unwrap();
    assert_eq!(world.error(1, push), Error::ConnectionRefused, "nobody listens there");
    let _other = world.export(0, "other?size=8");
    let missing = world.open(1, "table");
    let tokens = [demi.pop(missing).unwrap(), demi.flush(missing).unwrap()];
    assert_eq!(tokens.map(|token| world.error(1, token)), [Error::NotFound, Error::NotFound]);
    assert_eq!(demi.pop(missing), Err(Error::NotFound), "and so it stays");
    assert_eq!(demi.seek(missing, SeekTo::End), Err(Error::NotFound));
    let far = demi.open("rdma://10.9.9.9:7000/table", &Default::default()).unwrap();
    let pop = demi.pop(far).unwrap();
    assert_eq!(world.error(1, pop), Error::Unreachable);
    for qd in [nobody, missing, far] {
        demi.close(qd).unwrap();
    }
    let bad = ["rdma://0.0.0.0:1/x", "rdma://10.0.0.1:0/x"];
    assert!(bad.iter().all(|path| demi.open(path, &Default::default()) == Err(Error::BadAddress)));
    world.assert_clean(1);
}

#[test]
fn a_region_is_found_where_the_application_listens() {
    let world = World::new(2);
    let demi = world.demi(0);
    let listener = demi.socket(demi_api::Domain::Inet, demi_api::SocketKind::Stream).unwrap();
    demi.bind(listener, AT.parse::<demi_api::Addr>().unwrap()).unwrap();
    demi.listen(listener, 4).unwrap();
    // Without an address, and with the very one of the listener.
    let plain = demi.open("rdma:///plain?size=8", &create()).unwrap();
    let named = world.export(0, "named?size=8");
    assert!(demi.local_addr(plain).is_err());
    for name in ["plain", "named"] {
        let there = world.find(1, name);
        assert_eq!(world.add(1, there, 0, 3), 0);
        world.demi(1).close(there).unwrap();
    }
    demi.close(named).unwrap();
    // The application's listener goes on.
    let near = world.demi(1).socket(demi_api::Domain::Inet, demi_api::SocketKind::Stream).unwrap();
    let connect = world.demi(1).connect(near, AT.parse::<demi_api::Addr>().unwrap()).unwrap();
    assert!(matches!(world.outcome(1, connect), Ok(Done::Connected)));
    demi.close(listener).unwrap();
    // Regions' own addresses are shared, and let go of with the last.
    let first = world.export(0, "first?size=8");
    let second = world.export(0, "second?size=8");
    demi.close(first).unwrap();
    world.find(1, "second");
    demi.close(second).unwrap();
    let gone = world.open(1, "second");
    let pop = world.demi(1).pop(gone).unwrap();
    assert_eq!(world.error(1, pop), Error::ConnectionRefused);
    let any = demi.open("rdma://10.0.0.1:0/any?size=8", &create()).unwrap();
    let addr = demi.local_addr(any).unwrap();
    let there = world.demi(1).open(format!("rdma://{addr}/any"), &Default::default()).unwrap();
    assert_eq!(world.add(1, there, 0, 1), 0);
    let elsewhere = demi.open("rdma://10.0.0.77:1/elsewhere?size=8", &create());
    assert_eq!(elsewhere, Err(Error::AddressNotAvailable));
    assert_eq!(demi.open("rdma:///elsewhere", &Default::default()), Err(Error::NotFound), "it was not made");
}

#[test]
fn an_instance_can_open_its_own_region_from_afar() {
    let world = World::new(1);
    let here = world.export(0, "table?size=64");
    let there = world.find(0, "table");
    assert_eq!(world.push(0, there, b"around"), 0);
    assert_eq!(world.pop(0, here, 6), b"around");
    assert_eq!(world.add(0, there, 8, 1), 0);
    world.demi(0).close(here).unwrap();
    let pop = world.demi(0).pop(there);
    let error = pop.map_or_else(|error| error, |token| world.error(0, token));
    assert_eq!(error, Error::Revoked);
}

#[test]
fn closing_cancels_pops_and_finishes_the_rest() {
    let conditions = Conditions { delay: 10_000..=20_000, ..Conditions::default() };
    let world = World::with(2, conditions, "");
    let here = world.export(0, "table?size=64");
    let demi = world.demi(1);
    // Before it is found, and after.
    for found in [false, true] {
        let there = if found { world.find(1, "table") } else { world.open(1, "table") };
        let pop = demi.pop_n(there, 4).unwrap();
        let push = demi.push(there, world.array(1, b"late")).unwrap();
        let add = demi.fetch_and_add(there, Position(16), 1).unwrap();
        if found {
            assert_eq!(demi.cancel(push), Err(Error::NotCancellable), "it is on its way");
        }
        demi.close(there).unwrap();
        assert_eq!(
            demi.wait(pop, Some(std::time::Duration::ZERO)).unwrap().result.unwrap_err(),
            Error::Cancelled
        );
        assert_eq!(world.wait(1, push).pushed(), Ok(Position(4)), "behind the pop that nobody waits for");
        assert_eq!(world.wait(1, add).fetched(), Ok(u64::from(found)));
        world.settle();
        assert_eq!((world.fabric.queue_pairs(ip(0)), world.fabric.queue_pairs(ip(1))), (0, 0));
    }
    assert_eq!(world.pop(0, here, 8), b"\0\0\0\0late");
    // With nothing to finish it goes at once, found or not.
    for there in [world.open(1, "table"), world.find(1, "table")] {
        demi.close(there).unwrap();
    }
    world.settle();
    assert_eq!((world.fabric.queue_pairs(ip(0)), world.fabric.queue_pairs(ip(1))), (0, 0));
    world.assert_clean(1);
}

#[test]
fn two_instances_count_together_and_take_turns_with_a_lock() {
    let conditions = Conditions { delay: 500..=3_000, seed: 11, ..Conditions::default() };
    let world = World::with(3, conditions, "");
    let here = world.export(0, "words?size=24");
    let there = [1, 2].map(|host| (host, world.find(host, "words")));
    let mut tokens = Vec::new();
    for _ in 0..50 {
        for (host, qd) in there {
            tokens.push((host, world.demi(host).fetch_and_add(qd, Position(0), 1).unwrap()));
        }
        assert!(world.add(0, here, 0, 1) < 150);
    }
    let mut seen: Vec<u64> =
        tokens.into_iter().map(|(host, token)| world.wait(host, token).fetched().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((seen.len(), world.add(0, here, 0, 0)), (100, 150), "each number was had once");
    // A lock in the second word guards the third, which is read and written.
    let mut rounds = [0; 2];
    let mut failed = 0;
    while rounds.iter().sum::<u64>() < 40 {
        // Both try at once.
        let tries = there.map(|(host, qd)| {
            (host, world.demi(host).compare_and_swap(qd, Position(8), 0, host as u64).unwrap())
        });
        let got = tries.map(|(host, token)| world.wait(host, token).fetched().unwrap() == 0);
        assert_ne!(got, [true, true], "both have the lock");
        for ((host, qd), got) in there.into_iter().zip(got) {
            if !got {
                failed += 1;
                continue;
            }
            let demi = world.demi(host);
            demi.seek(qd, SeekTo::Position(Position(16))).unwrap();
            let value = u64::from_ne_bytes(world.pop(host, qd, 8).try_into().unwrap());
            demi.seek(qd, SeekTo::Position(Position(16))).unwrap();
            world.push(host, qd, &(value + 1).to_ne_bytes());
            assert_eq!(world.swap(host, qd, 8, host as u64, 0), host as u64);
            rounds[host - 1] += 1;
        }
    }
    assert!(failed > 0);
    assert_eq!(world.add(0, here, 16, 0), rounds.iter().sum::<u64>());
}
