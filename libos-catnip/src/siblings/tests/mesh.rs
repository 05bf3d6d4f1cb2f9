//! Sockets between siblings, in one process: who meets whom, who leaves, who is no sibling.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketType, bind, connect, listen, send, socket,
};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use super::super::*;

/// Long enough for nothing.
const PAUSE: Duration = Duration::from_millis(1);
use crate::device::Checksum;
use crate::device::xdp::tests::net::announce;
use crate::ip::Cast;

/// An interface that there cannot be, of this process's own.
fn interface() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    0x8000_0000 | std::process::id() << 6 | NEXT.fetch_add(1, Ordering::Relaxed)
}

fn join(interface: u32, own: &[u32], wait: Duration) -> Result<Box<Siblings>, Error> {
    Siblings::join(&Shares { interface, queues: 8, parts: vec![own.to_vec()], wait, spread: None })
}

/// What one has heard, with greetings and ends taken care of.
fn hear(siblings: &mut Siblings) -> Vec<Vec<u8>> {
    siblings.look(Instant::default());
    std::iter::from_fn(|| siblings.receive(Instant::default()))
        .map(|(room, len)| room[..len].to_vec())
        .collect()
}

fn ids(siblings: &Siblings) -> Vec<u16> {
    let mut ids: Vec<u16> = siblings.mesh.ids().collect();
    ids.sort_unstable();
    ids
}

#[test]
fn those_who_come_meet_those_who_are_there() {
    let interface = interface();
    let mut all: Vec<_> = [&[0, 4], &[1, 5], &[2, 6], &[3, 7]]
        .into_iter()
        .map(|own| join(interface, own, Duration::ZERO).unwrap())
        .collect();
    for one in &mut all {
        // The call, and then the greeting.
        assert!(hear(one).is_empty() && hear(one).is_empty() && hear(one).is_empty());
    }
    for (place, one) in all.iter().enumerate() {
        let others: Vec<u16> = (0..4).filter(|id| usize::from(*id) != place).collect();
        assert_eq!(ids(one), others);
    }
    // Everyone is told, and once.
    all[1].tell_all(|batch| message::put_hello(batch, 77));
    all[1].flush(Instant::default());
    for (place, one) in all.iter_mut().enumerate() {
        assert_eq!(hear(one).len(), usize::from(place != 1), "{place}");
    }
    // One dies: the others hear of it, and its name is free for the next.
    assert!(join(interface, &[2], Duration::ZERO).unwrap_err().to_string().contains("has its instance"));
    drop(all.remove(2));
    assert!(hear(&mut all[0]).is_empty());
    assert_eq!(ids(&all[0]), [1, 3]);
    let mut back = join(interface, &[2, 6], Duration::ZERO).unwrap();
    assert_eq!(ids(&back), [0, 1, 3]);
    back.tell_all(|batch| message::put_hello(batch, 78));
    back.flush(Instant::default());
    // The call, the greeting, what is told.
    let heard: usize = (0..3).map(|_| hear(&mut all[0]).len()).sum();
    assert_eq!((heard, ids(&all[0])), (1, vec![1, 2, 3]));
}

#[test]
fn parts_without_an_owner_are_served_by_the_next() {
    let shares = Shares {
        interface: interface(),
        queues: 6,
        parts: vec![vec![0, 3], vec![1, 4], vec![2, 5]],
        wait: PAUSE,
        spread: None,
    };
    let join = || Siblings::join(&shares);
    let at = Instant::from_nanos(1_000_000_000);
    let wanted = |one: &mut Siblings| {
        (0..3).for_each(|_| drop(hear(one)));
        let wanted = one.wanted(at).map(|mut queues| {
            queues.sort_unstable();
            queues
        });
        assert_eq!(one.wanted(at), None, "once");
        wanted
    };
    let mut zero = join().unwrap();
    assert_eq!(wanted(&mut zero), Some(vec![0, 1, 2, 3, 4, 5]));
    let mut one = join().unwrap();
    assert_eq!(wanted(&mut one), Some(vec![1, 4]));
    assert_eq!(one.own(), [1, 4]);
    assert_eq!(wanted(&mut zero), Some(vec![0, 2, 3, 5]));
    let mut two = join().unwrap();
    assert_eq!(
        [&mut zero, &mut one, &mut two].map(|one| wanted(one)),
        [Some(vec![0, 3]), Some(vec![1, 4]), Some(vec![2, 5])]
    );
    assert!(join().unwrap_err().to_string().contains("each of the 3 parts"));
    assert!(two.ports().has(49_154) == (49_154 % 6 == 2) && !two.ports().has(6));
    drop(zero);
    assert_eq!([&mut one, &mut two].map(|one| wanted(one)), [Some(vec![0, 1, 3, 4]), Some(vec![2, 5])]);
    // What could not be had is asked for again, less and less often.
    assert_eq!(one.next_deadline(), None);
    for millis in [5, 10, 20] {
        one.try_again(at);
        assert_eq!(one.next_deadline(), Some(at + Duration::from_millis(millis)));
        assert_eq!(one.wanted(at), None);
        assert!(one.wanted(at + Duration::from_millis(millis)).is_some());
    }
    (0..20).for_each(|_| one.try_again(at));
    assert_eq!(one.next_deadline(), Some(at + Duration::from_secs(1)));
    drop(one);
    assert_eq!(wanted(&mut two), Some(vec![0, 1, 2, 3, 4, 5]));
    assert_eq!(join().unwrap().own(), [0, 3]);
}

#[test]
fn one_that_does_not_listen_loses_and_holds_nobody_up() {
    let interface = interface();
    let mut one = join(interface, &[0], Duration::ZERO).unwrap();
    let mut other = join(interface, &[1], Duration::ZERO).unwrap();
    let frame = [0; 60_000];
    for _ in 0..100 {
        for _ in 0..3 {
            other.tell_all(|batch| batch.extend(frame));
        }
        other.flush(Instant::default());
    }
    let lost = other.counters.lost;
    assert!((200..300).contains(&lost), "two of three exceed a batch, and most batches the buffer: {lost}");
    let heard: usize = (0..40).map(|_| hear(&mut one).len()).sum();
    assert_eq!(heard as u64, 300 - lost);
    // And goes on.
    other.tell_all(|batch| message::put_hello(batch, 5));
    other.flush(Instant::default());
    assert_eq!(hear(&mut one).len(), 1);
}

fn packet() -> (About, SgArray) {
    let (local, remote) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let about =
        About { local, remote, protocol: 6, ecn: 0, checksum: Checksum::Verified, cast: Cast::Unicast };
    let heap = Heap::new(&HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
    (about, heap.copy_from(&[0; 20]).unwrap().into())
}

/// How far the datagrams had got that one has heard of.
fn rounds(siblings: &mut Siblings) -> Vec<Round> {
    let packets = hear(siblings);
    let all = packets.iter().flat_map(|packet| messages(packet));
    all.map(|message| match message {
        Ok(Message::Datagram { round, .. }) => round,
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn one_that_does_not_turn_is_passed_over_and_may_be_whom_it_is_for() {
    let interface = interface();
    let mut all = [0, 1, 2].map(|own| join(interface, &[own], Duration::ZERO).unwrap());
    for one in &mut all {
        (0..3).for_each(|_| assert!(hear(one).is_empty()));
    }
    let [zero, one, two] = &mut all;
    let (about, data) = packet();
    let at = |millis| Instant::from_nanos(1_000_000_000) + Duration::from_millis(millis);
    let pass_on = |zero: &mut Siblings, millis, round| {
        let passed = zero.pass_on(at(millis), round, &about, &data);
        zero.flush(at(millis));
        passed
    };
    let plain = Round { origin: 0, skipped: false, aside: false };
    // The first is asked, and is given the time that a turn may take.
    assert!(pass_on(zero, 0, None) && pass_on(zero, 4, None));
    assert!(rounds(two).is_empty());
    // Then the second is, too, and is not to refuse it.
    assert!(pass_on(zero, 6, None));
    assert_eq!(rounds(two), [Round { skipped: true, ..plain }]);
    let over = rounds(two);
    assert!(over.is_empty() && two.pass_on(at(6), Some(Round { skipped: true, ..plain }), &about, &data));
    assert_eq!(two.counters.unanswered, 1);
    // When both are deaf, there is nobody to be asked, and nobody refuses it either.
    assert!(pass_on(zero, 7, None) && pass_on(zero, 13, None));
    assert_eq!(zero.counters.unanswered, 1);
    // Who turns again finds what may be its own, and is asked as before.
    let aside = Round { aside: true, ..plain };
    assert_eq!(rounds(one), [plain]);
    let later: Vec<Round> = (0..4).flat_map(|_| rounds(one)).collect();
    assert_eq!(later, [plain, aside, aside, aside]);
    assert!(!rounds(two).is_empty());
    assert!(pass_on(zero, 14, None));
    assert_eq!(
        (rounds(one), rounds(two)),
        (vec![plain], vec![Round { skipped: true, aside: true, ..plain }])
    );
    // And one that is last refuses.
    assert!(!two.pass_on(at(15), Some(plain), &about, &data));
}

#[test]
fn nobody_refuses_what_may_be_a_newcomers() {
    let interface = interface();
    let mut one = join(interface, &[0], Duration::ZERO).unwrap();
    let (about, data) = packet();
    let at = Instant::from_nanos(1_000_000_000);
    assert!(!one.pass_on(at, None, &about, &data));
    // It has called and said who it is, and there was no look since.
    let mut two = join(interface, &[1], Duration::ZERO).unwrap();
    assert!(one.pass_on(at, None, &about, &data));
    one.flush(at);
    assert_eq!(rounds(&mut two), [Round { origin: 0, skipped: false, aside: false }]);
    drop(two);
    (0..2).for_each(|_| drop(hear(&mut one)));
    assert!(!one.pass_on(at, None, &about, &data));
    // One that has yet to say who it is holds refusals up for a while, and no longer.
    let stranger = call(interface, 0);
    assert!(one.pass_on(at, None, &about, &data));
    assert!(one.pass_on(at + Duration::from_millis(900), None, &about, &data));
    assert!(!one.pass_on(at + Duration::from_millis(1100), None, &about, &data));
    assert_eq!(one.counters.unanswered, 2);
    drop(stranger);
}

fn name(interface: u32, queue: u16) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(format!("demi-xdp-{interface}-{queue}").as_bytes()).unwrap()
}

fn call(interface: u32, queue: u16) -> OwnedFd {
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&fd, &name(interface, queue)).unwrap();
    fd
}

#[test]
fn one_that_never_answers_keeps_nobody_from_starting() {
    let interface = interface();
    let silent = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&silent, &name(interface, 1)).unwrap();
    listen(&silent, 0).unwrap();
    // It has room for one call, and for no other.
    let _first = call(interface, 1);
    let one = join(interface, &[0], Duration::ZERO).unwrap();
    assert!(ids(&one).is_empty());
}

#[test]
fn other_users_are_no_siblings() {
    if !rustix::process::geteuid().is_root() {
        announce("becoming another user needs root");
        return;
    }
    let interface = interface();
    // A thread of another user takes a name, and calls.
    let other = std::thread::spawn(move || {
        let user = Uid::from_raw(65534);
        set_thread_res_uid(user, user, user).unwrap();
        let squatter = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        bind(&squatter, &name(interface, 1)).unwrap();
        listen(&squatter, 10).unwrap();
        squatter
    });
    let squatter = other.join().unwrap();
    let mut one = join(interface, &[0], Duration::ZERO).unwrap();
    assert!(ids(&one).is_empty(), "what is for siblings is not for the squatter");
    assert!(join(interface, &[1], Duration::ZERO).is_err());
    let caller = std::thread::spawn(move || {
        let user = Uid::from_raw(65534);
        set_thread_res_uid(user, user, user).unwrap();
        let fd = call(interface, 0);
        let mut hello = Vec::new();
        message::put_hello(&mut hello, 3);
        let _ = send(&fd, &hello, SendFlags::NOSIGNAL);
        fd
    });
    let caller = caller.join().unwrap();
    (0..3).for_each(|_| drop(hear(&mut one)));
    assert!(ids(&one).is_empty());
    assert!(send(&caller, b"more", SendFlags::NOSIGNAL).is_err(), "it is gone");
    drop(squatter);
    assert!(join(interface, &[1], Duration::ZERO).is_ok());
}

#[test]
fn strangers_are_not_heard() {
    let interface = interface();
    let mut one = join(interface, &[0], Duration::ZERO).unwrap();
    let call = || call(interface, 0);
    let mut hello = Vec::new();
    message::put_hello(&mut hello, 3);
    let mut old = hello.clone();
    old[12] = b'0';
    for greeting in [&old[..], b"noise", &[0; 200_000]] {
        let stranger = call();
        send(&stranger, greeting, SendFlags::empty()).unwrap();
        assert!((0..3).all(|_| hear(&mut one).is_empty()));
        assert!(ids(&one).is_empty());
        assert!(send(&stranger, &hello, SendFlags::NOSIGNAL).is_err(), "it is gone");
    }
    // One who has nothing to say takes a place, and no more than there are.
    let silent: Vec<_> = (0..520)
        .map(|_| {
            let fd = call();
            hear(&mut one);
            fd
        })
        .collect();
    assert!(ids(&one).is_empty());
    drop(silent);
    (0..40).for_each(|_| drop(hear(&mut one)));
    let friend = call();
    send(&friend, &hello, SendFlags::empty()).unwrap();
    (0..3).for_each(|_| drop(hear(&mut one)));
    assert_eq!(ids(&one), [3]);
}
