//! Faults of cost, by counts that are the same on every machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use demi_api::{Demikernel, Domain, Done, LibOs, QDesc, QToken, SocketKind};
use demi_libos_catnip::Catnip;
use demi_tests::Loopback;

use super::sys::{allocated, disable_huge_pages};
use super::{PATIENCE, instance, localhost};

/// Fault 2: tokens that nobody reaped made throughput collapse.
///
/// A million pushes, none waited for. With the fault each costs more than the one before: here, every tenth of them
/// must make the libOS look at no more queues, and ask for no more memory, than the first did, and a token must
/// take no more than it is documented to. What is left can be taken, oldest first, without a further allocation.
#[test]
fn fault_02_unreaped_tokens_cost_nothing_but_their_slots() {
    unreaped_tokens_cost_nothing_but_their_slots::<Loopback>();
}

/// Fault 2, on catnip: datagrams that it sends to itself, most of which nobody has room for.
#[test]
fn fault_02_unreaped_tokens_cost_catnip_nothing_but_their_slots() {
    unreaped_tokens_cost_nothing_but_their_slots::<Catnip>();
}

fn unreaped_tokens_cost_nothing_but_their_slots<L: LibOs>() {
    let demi = instance::<L>();
    let (near, _far) = datagrams(&demi);
    let message = demi.copy_from(&[1; 64]).unwrap();
    let tenth = |demi: &Demikernel<L>| {
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
/// that is meant to scale. With the fault in the libOS, more queues are looked at; memory must not be asked for either.
#[test]
fn fault_04_idle_queues_cost_a_wait_nothing() {
    idle_queues_cost_a_wait_nothing::<Loopback>();
}

/// Fault 4, on catnip, whose sockets are all looked at by nobody: so only memory is counted, and what was sent.
#[test]
fn fault_04_idle_queues_cost_a_wait_on_catnip_nothing() {
    idle_queues_cost_a_wait_nothing::<Catnip>();
}

fn idle_queues_cost_a_wait_nothing<L: LibOs>() {
    let costs = |idle| {
        let now = |demi: &Demikernel<L>| (visited(demi), allocated().0);
        beside_idle_queues::<L, _, _>(idle, now, |demi, before| {
            (visited(demi) - before.0, allocated().0 - before.1)
        })
    };
    let (few, many) = (costs(10), costs(100_000));
    assert_eq!(few, many, "visits and allocations for each way of waiting, beside 10 and beside 100,000");
}

/// Fault 4, above the libOS: whoever looks at each of 100,000 tokens touches their memory, some 6 MiB of it.
///
/// The kernel keeps account of the pages that were touched, of the whole process: so each side has one of its own.
#[test]
fn fault_04_a_wait_touches_no_memory_of_idle_tokens() {
    compare_pages("loopback", IDLE, [10, 100_000]);
}

/// Fault 4, in catnip and above it: whoever looks at each of 100,000 sockets touches theirs too.
#[test]
fn fault_04_a_wait_touches_no_memory_of_idle_sockets_of_catnip() {
    compare_pages("catnip", IDLE, [10, 100_000]);
}

/// Fault 2, in the same way: a hundred more pushes and polls do not touch what a million pushes have left unreaped.
#[test]
fn fault_02_unreaped_tokens_are_not_touched() {
    compare_pages("loopback", UNREAPED, [100, 1_000_000]);
}

/// Fault 2, the same on catnip.
#[test]
fn fault_02_unreaped_tokens_of_catnip_are_not_touched() {
    compare_pages("catnip", UNREAPED, [100, 1_000_000]);
}

const IDLE: &str = "DEMI_TEST_IDLE_QUEUES";
const UNREAPED: &str = "DEMI_TEST_UNREAPED_TOKENS";
const LIBOS: &str = "DEMI_TEST_LIBOS";

/// Runs the test below in two processes, and checks that the one with more touches no more memory to speak of.
fn compare_pages(libos: &str, what: &str, counts: [usize; 2]) {
    let [few, many] = counts.map(|count| -> Vec<u64> {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "cost::pages_touched", "--nocapture"]).env(what, count.to_string());
        child.env(LIBOS, libos);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter_map(|line| line.strip_prefix("touched ")?.parse().ok()).collect()
    });
    // Where the kernel does not tell, both are empty.
    assert_eq!(few.len(), many.len());
    for (few, many) in few.iter().zip(&many) {
        // The kernel touches some for reasons of its own; the faults touch 6 MiB and more.
        assert!(*many < few + 4096, "KiB touched beside {counts:?}: {few} and {many}");
    }
}

/// The child of the tests above; by itself it does nothing.
#[test]
fn pages_touched() {
    let touched = match std::env::var(LIBOS).as_deref() {
        Ok("catnip") => pages_touched_by::<Catnip>(),
        Ok(_) => pages_touched_by::<Loopback>(),
        Err(_) => return,
    };
    // The runner of the tests has begun a line of its own.
    println!();
    touched.into_iter().flatten().for_each(|kib| println!("touched {kib}"));
}

fn pages_touched_by<L: LibOs>() -> Vec<Option<u64>> {
    let count = |name| std::env::var(name).ok().and_then(|count| count.parse().ok());
    // On huge pages, two tokens would be all tokens.
    disable_huge_pages();
    match (count(IDLE), count(UNREAPED)) {
        (Some(idle), _) => {
            beside_idle_queues::<L, _, _>(idle, |_| forget_pages(), |_, forgotten| pages(forgotten))
        }
        (None, Some(unreaped)) => vec![behind_unreaped_tokens::<L>(unreaped)],
        (None, None) => Vec::new(),
    }
}

fn behind_unreaped_tokens<L: LibOs>(count: usize) -> Option<u64> {
    let demi = instance::<L>();
    let (near, _far) = datagrams(&demi);
    let message = demi.copy_from(&[1; 64]).unwrap();
    let push = |count: usize| {
        for _ in 0..count {
            demi.push(near, message.clone()).unwrap();
            demi.poll().unwrap();
        }
    };
    push(count);
    let forgotten = forget_pages();
    push(100);
    pages(forgotten)
}

/// Has the kernel forget which pages were touched; false if it does not keep account.
fn forget_pages() -> bool {
    std::fs::write("/proc/self/clear_refs", "1").is_ok()
}

/// KiB touched since then.
fn pages(forgotten: bool) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Referenced:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    forgotten.then_some(kib)
}

/// What a hundred exchanges cost by each way of waiting.
fn beside_idle_queues<L: LibOs, T, C>(
    idle: usize,
    begin: impl Fn(&Demikernel<L>) -> T,
    end: impl Fn(&Demikernel<L>, T) -> C,
) -> Vec<C> {
    let demi = instance::<L>();
    let (near, far) = datagrams(&demi);
    let set = demi.wait_set().unwrap();
    for index in 0..idle {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        let host = u8::try_from(2 + index / 10_000).unwrap();
        demi.bind(qd, SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
        let pop = demi.pop(qd).unwrap();
        // Half of them are in the set, half in nobody's.
        if index % 2 == 0 {
            set.add(pop).unwrap();
        }
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
    let hundred = |way: &mut Box<dyn FnMut(QToken)>| {
        for _ in 0..100 {
            let pop = demi.pop(far).unwrap();
            let push = demi.push(near, message.clone()).unwrap();
            way(push);
            way(pop);
        }
    };
    let mut costs = Vec::with_capacity(ways.len());
    for way in &mut ways {
        hundred(way);
        let before = begin(&demi);
        hundred(way);
        costs.push(end(&demi, before));
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

/// How many queues the libOS has looked at so far; of catnip, how many datagrams it has sent.
fn visited<L: LibOs>(demi: &Demikernel<L>) -> u64 {
    let counters = demi.counters().unwrap().libos;
    counters.into_iter().find(|(name, _)| ["queues_visited", "udp_sent"].contains(name)).unwrap().1
}
