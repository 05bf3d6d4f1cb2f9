//! Faults of cost, by counts that are the same on every machine.

use std::net::{Ipv4Addr, SocketAddr};

use demi_api::{Demikernel, Domain, Done, LibOs, QDesc, QToken, SocketKind};
use demi_tests::Loopback;

use super::sys::allocated;
use super::{PATIENCE, instance, localhost};

/// Fault 2: tokens that nobody reaped made throughput collapse.
///
/// A million pushes, none waited for. With the fault each costs more than the one before: here, every tenth of them
/// must make the libOS look at no more queues, and ask for no more memory, than the first did, and a token must
/// take no more than it is documented to. What is left can be taken, oldest first, without a further allocation.
#[test]
fn fault_02_unreaped_tokens_cost_nothing_but_their_slots() {
    let demi = instance::<Loopback>();
    let (near, _far) = datagrams(&demi);
    let message = demi.copy_from(&[1; 64]).unwrap();
    let tenth = |demi: &Demikernel<Loopback>| {
        let (visits, (allocations, bytes)) = (visited(demi), allocated());
        for index in 0..100_000 {
            demi.push(near, message.clone()).unwrap();
            if index % 32 == 0 {
                demi.poll().unwrap();
            }
        }
        demi.poll().unwrap();
        let (after, after_bytes) = allocated();
        (visited(demi) - visits, after - allocations, after_bytes - bytes)
    };
    let first = tenth(&demi);
    for _ in 1..10 {
        let (visits, allocations, bytes) = tenth(&demi);
        assert!(visits <= first.0 + 16, "{visits} queues were looked at, {} at first", first.0);
        assert!(allocations <= first.1 + 16, "{allocations} allocations, {} at first", first.1);
        assert!(bytes <= 100_000 * 100, "{} bytes a token", bytes / 100_000);
    }
    assert_eq!(demi.counters().unwrap().operations_unreaped, 1_000_000);
    let mut results = Vec::with_capacity(64);
    let (before, _) = allocated();
    for _ in 0..1000 {
        assert_eq!(demi.wait_next_n(&mut results, 64, PATIENCE), Ok(64));
        results.clear();
    }
    assert_eq!(allocated().0, before, "taking results allocates");
}

/// Fault 4: a wait cost what existed, not what was ready.
///
/// The same exchange beside 10 and beside 100,000 idle queues, each with a pop outstanding, by every way of waiting
/// that is meant to scale. With the fault, in the libOS or above it, more queues are looked at, or memory is asked for.
#[test]
fn fault_04_idle_queues_cost_a_wait_nothing() {
    let few = beside_idle_queues(10);
    let many = beside_idle_queues(100_000);
    assert_eq!(few, many, "visits and allocations for each way of waiting, beside 10 and beside 100,000");
}

fn beside_idle_queues(idle: usize) -> Vec<(u64, u64)> {
    let demi = instance::<Loopback>();
    let (near, far) = datagrams(&demi);
    let set = demi.wait_set().unwrap();
    for index in 0..idle {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        let host = u8::try_from(2 + index / 10_000).unwrap();
        demi.bind(qd, SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
        set.add(demi.pop(qd).unwrap()).unwrap();
    }
    for _ in 0..=idle / 64 {
        demi.poll().unwrap();
    }
    let mut results = Vec::with_capacity(4);
    let mut ways: Vec<Box<dyn FnMut(QToken)>> = vec![
        Box::new(|token| drop(demi.wait(token, PATIENCE).unwrap())),
        Box::new(|token| {
            demi.wait_next_n(&mut results, 1, PATIENCE).unwrap();
            assert_eq!(results.pop().unwrap().token, token);
        }),
        Box::new(|token| {
            set.add(token).unwrap();
            assert_eq!(set.wait(PATIENCE).unwrap().token, token);
        }),
        Box::new(|token| {
            let (_, done) = demi.wait_any(&[token], PATIENCE).unwrap();
            assert_eq!(done.token, token);
        }),
    ];
    let message = demi.copy_from(b"x").unwrap();
    let mut costs = Vec::new();
    for way in &mut ways {
        for round in 0..200 {
            let pop = demi.pop(far).unwrap();
            let push = demi.push(near, message.clone()).unwrap();
            way(push);
            way(pop);
            if round == 99 {
                costs.push((visited(&demi), allocated().0));
            }
        }
        let (visits, allocations) = costs.pop().unwrap();
        costs.push((visited(&demi) - visits, allocated().0 - allocations));
    }
    costs
}

/// Two datagram sockets, the first connected to the second.
fn datagrams<L: LibOs>(demi: &Demikernel<L>) -> (QDesc, QDesc) {
    let [near, far] = [0, 1].map(|_| {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        demi.bind(qd, localhost()).unwrap();
        qd
    });
    let connect = demi.connect(near, demi.local_addr(far).unwrap()).unwrap();
    assert!(matches!(demi.wait(connect, PATIENCE).unwrap().result, Ok(Done::Connected)));
    (near, far)
}

/// How many queues the libOS has looked at so far.
fn visited<L: LibOs>(demi: &Demikernel<L>) -> u64 {
    let counters = demi.counters().unwrap().libos;
    counters.into_iter().find(|(name, _)| *name == "queues_visited").unwrap().1
}
