//! Faults of waiting and of tokens.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use demi_api::{Error, QDesc, QToken};
use demi_libos_catnap::Catnap;

use super::sys::{ThreadId, count_signals, signals};
use super::{PATIENCE, connected, instance, localhost, send, within_limit};

/// Fault 1: whoever waited for its oldest push waited for ever, because any push could take any acknowledgement.
///
/// Pushes pile up behind a peer that does not read. Then it reads just what the oldest pending one ends with, and stops:
/// with the fault, the completion that this yields goes to another token, and the wait for the oldest times out.
#[test]
fn fault_01_waiting_for_the_oldest_push_makes_progress() {
    let demi = instance::<Catnap>();
    let (qd, mut peer) = connected(&demi);
    let block = demi.copy_from(&vec![7; 512 << 10]).unwrap();
    let pushes: Vec<QToken> = (0..64).map(|_| demi.push(qd, block.clone()).unwrap()).collect();
    let is_pending = |push: QToken| demi.wait(push, Some(Duration::ZERO)).is_err();
    let oldest = pushes.iter().position(|push| is_pending(*push)).expect("something piles up");
    let (length, newest) = (block.len(), pushes[63]);
    let (resume, resumed) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        peer.read_exact(&mut vec![0; (oldest + 1) * length]).unwrap();
        let () = resumed.recv().unwrap();
        peer.read_exact(&mut vec![0; (63 - oldest) * length]).unwrap();
    });
    demi.wait(pushes[oldest], PATIENCE).unwrap().pushed().unwrap();
    assert!(is_pending(newest), "all of it was taken, so this says nothing");
    resume.send(()).unwrap();
    for push in &pushes[oldest + 1..] {
        demi.wait(*push, PATIENCE).unwrap().pushed().unwrap();
    }
    reader.join().unwrap();
    demi.close(qd).unwrap();
}

/// Fault 1, from the other side: the newest is waited for, and all before it are done then.
#[test]
fn fault_01_waiting_for_the_newest_push_completes_all() {
    let demi = instance::<Catnap>();
    let (qd, mut peer) = connected(&demi);
    let block = demi.copy_from(&vec![7; 256 << 10]).unwrap();
    let mut pushes: Vec<QToken> = (0..64).map(|_| demi.push(qd, block.clone()).unwrap()).collect();
    let total = pushes.len() * block.len();
    let reader = std::thread::spawn(move || peer.read_exact(&mut vec![0; total]).unwrap());
    let newest = pushes.pop().unwrap();
    demi.wait(newest, PATIENCE).unwrap().pushed().unwrap();
    for push in pushes {
        demi.wait(push, Some(Duration::ZERO)).unwrap().pushed().unwrap();
    }
    reader.join().unwrap();
    demi.close(qd).unwrap();
}

/// Fault 11: a signal that arrived during the sleep ended the poll loop with an error.
///
/// A waiting thread is shot at while it sleeps. With the fault the wait returns an error, or never wakes again.
#[test]
fn fault_11_signals_do_not_end_a_wait() {
    count_signals();
    let (send_target, target) = mpsc::channel();
    let (finish, finished) = mpsc::channel();
    let shooter = std::thread::spawn(move || {
        let (thread, peer): (ThreadId, _) = target.recv().unwrap();
        for _ in 0..100 {
            thread.signal();
            std::thread::sleep(Duration::from_millis(1));
        }
        send(&peer, b"still there?");
        let () = finished.recv().unwrap();
    });
    within_limit(move || {
        let demi = instance::<Catnap>();
        let (qd, peer) = connected(&demi);
        let pop = demi.pop(qd).unwrap();
        send_target.send((ThreadId::current(), peer)).unwrap();
        let popped = demi.wait(pop, None).unwrap().popped().unwrap();
        assert_eq!(popped.to_vec(), b"still there?");
        assert!(demi.counters().unwrap().sleeps > 10, "it did not sleep when it was shot at");
        finish.send(()).unwrap();
    });
    shooter.join().unwrap();
    assert!(signals() > 10, "the signals did not arrive");
}

/// Fault 13: two operations that were alive at the same time had one token.
///
/// Operations of all kinds are kept alive together; with the fault a token occurs twice, or completes with another's
/// queue or element.
#[test]
fn fault_13_operations_do_not_share_tokens() {
    let demi = instance::<Catnap>();
    let mut alive: HashMap<QToken, (QDesc, u32)> = HashMap::new();
    let mut pops = VecDeque::new();
    for number in 0..3000_u32 {
        let (from, to) = (demi.queue().unwrap(), demi.queue().unwrap());
        let pop = demi.pop(to).unwrap();
        let connect = demi.qconnect(from, to).unwrap();
        let push = demi.push(from, demi.copy_from(&number.to_be_bytes()).unwrap()).unwrap();
        for (token, qd) in [(pop, to), (connect, from), (push, from)] {
            assert!(alive.insert(token, (qd, number)).is_none(), "{token} is two operations'");
        }
        pops.push_back(pop);
        // Every other turn the oldest is taken, so that slots are reused while their neighbours live.
        while number % 2 == 0 && pops.len() > 1000 || number == 2999 && !pops.is_empty() {
            let pop = pops.pop_front().unwrap();
            let (qd, number) = alive.remove(&pop).unwrap();
            let done = demi.wait(pop, PATIENCE).unwrap();
            assert_eq!((done.qd, done.token), (qd, pop));
            assert_eq!(done.popped().unwrap().to_vec(), number.to_be_bytes());
        }
    }
    let mut rest = Vec::new();
    while demi.wait_next_n(&mut rest, 64, Some(Duration::ZERO)).is_ok() {}
    for done in rest {
        let (qd, _) = alive.remove(&done.token).expect("each token completes once");
        assert_eq!(done.qd, qd);
        done.pushed().unwrap();
    }
    assert_eq!(alive.len(), 3000, "of each, the connection goes on");
}

/// Fault 14: no limit meant 256 seconds.
///
/// The kernel is asked what the sleeping thread is sleeping in: with the fault, that has a time limit.
#[test]
fn fault_14_no_limit_means_no_limit() {
    let (send_thread, thread) = mpsc::channel();
    let (send_interrupter, interrupter) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let demi = instance::<Catnap>();
        let listener = demi.socket(demi_api::Domain::Inet, demi_api::SocketKind::Stream).unwrap();
        demi.bind(listener, localhost()).unwrap();
        demi.listen(listener, 1).unwrap();
        let accept = demi.accept(listener).unwrap();
        send_interrupter.send(demi.interrupter().unwrap()).unwrap();
        send_thread.send(ThreadId::current()).unwrap();
        demi.wait(accept, None).unwrap_err()
    });
    let thread = thread.recv().unwrap();
    let path = format!("/proc/self/task/{}/syscall", thread.number());
    let mut limits = Vec::new();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(2));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut fields = text.split_whitespace();
        if fields.next() == Some(&libc::SYS_ppoll.to_string()) {
            limits.push(fields.nth(2).unwrap_or_default().to_owned());
        }
    }
    assert!(!waiter.is_finished(), "a wait without limit has ended");
    interrupter.recv().unwrap().interrupt();
    assert_eq!(waiter.join().unwrap(), Error::Interrupted);
    // Where the kernel does not tell, only that much can be said.
    assert!(limits.iter().all(|limit| limit == "0x0"), "the thread slept with time limits: {limits:?}");
}

/// Fault 14, at the other end: a limit that no clock can hold is none.
#[test]
fn fault_14_an_endless_limit_is_accepted() {
    let demi = instance::<Catnap>();
    let queue = demi.queue().unwrap();
    let pop = demi.pop(queue).unwrap();
    let interrupter = demi.interrupter().unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        interrupter.interrupt();
    });
    assert_eq!(demi.wait(pop, Some(Duration::MAX)).unwrap_err(), Error::Interrupted);
    thread.join().unwrap();
}
