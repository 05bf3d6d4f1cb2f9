//! Whom datagrams are for, while sockets come, go and change: what was found for the last one must not be taken for true
//! after that.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::{Domain, QDesc, SocketKind};
use demi_libos_catnip::device::fault::Faults;

use crate::listen::Stuck;
use crate::world::World;

const PORT: u16 = 7;

fn at(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], PORT))
}

fn open(world: &World, host: usize) -> QDesc {
    let demi = &world.hosts[host];
    let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
    demi.bind(qd, at(host)).unwrap();
    qd
}

/// Sends a datagram from host 0, and says which of host 1's sockets it came to.
fn sent_to(world: &World, from: QDesc, sockets: &[QDesc], text: &[u8]) -> Option<usize> {
    let [near, far] = &world.hosts[..] else { unreachable!("there are two hosts") };
    let pops: Vec<_> = sockets.iter().map(|qd| far.pop(*qd).unwrap()).collect();
    let push = near.push_to(from, near.copy_from(text).unwrap(), at(1)).unwrap();
    let (mut found, mut pushed) = (None, false);
    // A few steps are enough for it to arrive, and for a question about its neighbour before that.
    for _ in 0..10 {
        world.step();
        pushed = pushed || world.take(0, push).is_some();
        for (place, pop) in pops.iter().enumerate() {
            if found != Some(place)
                && let Some(done) = world.take(1, *pop)
            {
                let sga = done.popped().unwrap();
                assert_eq!((sga.to_vec(), sga.peer()), (text.to_vec(), Some(at(0).into())));
                assert_eq!(found.replace(place), None, "a datagram comes once");
            }
        }
        if pushed && found.is_some() {
            break;
        }
    }
    assert!(pushed);
    for (place, pop) in pops.into_iter().enumerate() {
        if found != Some(place) {
            far.cancel(pop).unwrap();
            world.take(1, pop).unwrap().popped().unwrap_err();
        }
    }
    found
}

#[test]
fn a_datagram_finds_the_socket_that_there_is_now() {
    let faults = Faults { delay: Duration::from_micros(20), ..Faults::default() };
    let world = World::new(1, &faults, 1500, "");
    let from = open(&world, 0);
    let far = &world.hosts[1];
    let old = open(&world, 1);
    // Often enough for the flow to be known.
    for text in [&b"a"[..], b"bb", b"ccc", b""] {
        assert_eq!(sent_to(&world, from, &[old], text), Some(0));
    }
    far.close(old).unwrap();
    assert_eq!(sent_to(&world, from, &[], b"to nobody"), None);
    let other = open(&world, 1);
    for text in [&b"d"[..], b"ee", b"fff"] {
        assert_eq!(sent_to(&world, from, &[other], text), Some(0));
    }
    // Connected to somebody else, it is for nobody here.
    let connect = far.connect(other, SocketAddr::from(([10, 0, 0, 1], PORT + 1))).unwrap();
    world.take(1, connect).unwrap().result.unwrap();
    assert_eq!(sent_to(&world, from, &[other], b"for another"), None);
    let connect = far.connect(other, at(0)).unwrap();
    world.take(1, connect).unwrap().result.unwrap();
    assert_eq!(sent_to(&world, from, &[other], b"for it"), Some(0));
    assert_eq!(world.counter(1, "udp_received"), 8);
}

#[test]
fn datagrams_are_refused_while_the_device_does_not_keep_up() {
    // Such as go the short way, and others.
    for len in [8, 1000] {
        let stuck = Rc::new(Cell::new(false));
        let world =
            World::over(1, 1500, "", "", |behind, _| Box::new(Stuck { behind, stuck: Rc::clone(&stuck) }));
        let (from, to) = (open(&world, 0), open(&world, 1));
        assert_eq!(sent_to(&world, from, &[to], b"so that the neighbour is known"), Some(0));
        let near = &world.hosts[0];
        let text = near.copy_from(&vec![1; len]).unwrap();
        stuck.set(true);
        let mut taken = 0;
        let refused = loop {
            match near.push_to(from, text.clone(), at(1)) {
                Ok(push) => near.wait(push, None).unwrap().result.unwrap(),
                Err(refused) => break refused,
            };
            taken += 1;
        };
        assert!((4000..4200).contains(&taken), "{taken} datagrams of {len} bytes");
        assert_eq!((refused.error, refused.sga.len()), (Error::NoBuffers, len));
        stuck.set(false);
        near.poll().unwrap();
        assert!(near.push_to(from, text.clone(), at(1)).is_ok());
    }
}
