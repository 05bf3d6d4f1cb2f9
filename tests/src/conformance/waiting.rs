//! Waiting: for one, for any, for all, for whatever is next; for a while, or until interrupted.

use std::time::{Duration, Instant};

use demi_api::{Error, QDesc, QToken};

use super::PATIENCE;
use super::rig::{Harness, Rig};

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// A time limit that passes leaves the token valid; a limit of nothing does not wait.
pub fn a_time_limit_leaves_the_token_valid<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let pop = rig.demi.pop(queue).unwrap();
    let begin = Instant::now();
    assert_eq!(rig.demi.wait(pop, ZERO).unwrap_err(), Error::TimedOut);
    assert_eq!(rig.demi.wait(pop, Some(Duration::from_millis(5))).unwrap_err(), Error::TimedOut);
    assert!(begin.elapsed() >= Duration::from_millis(5), "the limit was cut short");
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_any(&[pop], ZERO).unwrap_err(), Error::TimedOut);
    assert_eq!(rig.demi.wait_all(&[pop], &mut results, ZERO), Err(Error::TimedOut));
    assert_eq!(rig.demi.wait_next_n(&mut results, 4, ZERO), Err(Error::TimedOut));
    rig.push(queue, b"late").unwrap();
    assert_eq!(rig.popped(pop), b"late");
    rig.close([queue]);
}

/// A wait that could never end says so instead.
pub fn a_hopeless_wait_is_refused<H: Harness>(rig: &Rig<H>) {
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_next_n(&mut results, 1, None), Err(Error::NothingOutstanding));
    assert_eq!(rig.demi.wait_any(&[], None).unwrap_err(), Error::NothingOutstanding);
    assert_eq!(rig.demi.wait_set().unwrap().wait(None).unwrap_err(), Error::NothingOutstanding);
    assert_eq!(rig.demi.wait_next_n(&mut results, 0, None), Ok(0));
    assert_eq!(rig.demi.wait_all(&[], &mut results, None), Ok(()));
    assert_eq!(rig.demi.wait_next_n(&mut results, 1, ZERO), Err(Error::TimedOut));
    assert!(results.is_empty());
}

/// `wait_any` says which; of several that are done, the one that has been for longest.
pub fn wait_any_says_which<H: Harness>(rig: &Rig<H>) {
    let (queues, pops) = outstanding(rig, 5);
    rig.push(queues[3], b"d").unwrap();
    assert_eq!(any(rig, &pops), 3);
    let rest = [pops[0], pops[1], pops[2], pops[4]];
    rig.push(queues[4], b"e").unwrap();
    rig.push(queues[1], b"b").unwrap();
    assert_eq!(any(rig, &rest), 3);
    assert_eq!(any(rig, &rest[..3]), 1);
    assert_eq!(rig.demi.wait_any(&pops, ZERO).unwrap_err(), Error::BadToken, "one of them is reaped");
    rig.close(queues);
}

/// An operation that is always ready again does not keep another from being returned.
pub fn wait_any_starves_nobody<H: Harness>(rig: &Rig<H>) {
    let [busy, rare] = [0, 1].map(|_| rig.demi.queue().unwrap());
    let again = || {
        rig.completion(rig.start_push(busy, b"busy")).pushed().unwrap();
        rig.demi.pop(busy).unwrap()
    };
    let mut tokens = [again(), rig.demi.pop(rare).unwrap()];
    rig.push(rare, b"rare").unwrap();
    for round in 0.. {
        assert!(round < 3, "the rare one starves");
        if any(rig, &tokens) == 1 {
            break;
        }
        tokens[0] = again();
    }
    rig.close([busy, rare]);
}

/// The same goes for whatever is next.
pub fn wait_next_n_starves_nobody<H: Harness>(rig: &Rig<H>) {
    let [busy, rare] = [0, 1].map(|_| rig.demi.queue().unwrap());
    let awaited = rig.demi.pop(rare).unwrap();
    for _ in 0..4 {
        rig.start_push(busy, b"busy");
    }
    let rare_push = rig.start_push(rare, b"rare");
    let mut results = Vec::new();
    for _ in 0..8 {
        rig.demi.wait_next_n(&mut results, 1, PATIENCE).unwrap();
        rig.start_push(busy, b"busy");
        if results.iter().any(|done| done.token == awaited)
            && results.iter().any(|done| done.token == rare_push)
        {
            rig.close([busy, rare]);
            return;
        }
    }
    panic!("the rare one starves");
}

/// `wait_all` gives results in the order of its tokens; when it times out, it has taken none.
pub fn wait_all_takes_all_or_nothing<H: Harness>(rig: &Rig<H>) {
    let (queues, pops) = outstanding(rig, 3);
    let mut results = Vec::new();
    for index in [2, 0] {
        rig.push(queues[index], &[index as u8]).unwrap();
        let limit = Some(Duration::from_millis(2));
        assert_eq!(rig.demi.wait_all(&pops, &mut results, limit), Err(Error::TimedOut));
        assert!(results.is_empty());
    }
    rig.push(queues[1], &[1]).unwrap();
    rig.demi.wait_all(&pops, &mut results, PATIENCE).unwrap();
    for (index, done) in results.into_iter().enumerate() {
        assert_eq!((done.token, done.qd), (pops[index], queues[index]));
        assert_eq!(done.popped().unwrap().to_vec(), [index as u8]);
    }
    rig.close(queues);
}

/// The same token twice could not both be given: an error, and nothing is consumed.
pub fn wait_all_refuses_duplicates<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let push = rig.start_push(queue, b"x");
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_all(&[push, push], &mut results, PATIENCE), Err(Error::DuplicateToken));
    let stale = QToken::from_raw(push.raw() + (1 << 40));
    assert_eq!(rig.demi.wait_all(&[push, stale], &mut results, PATIENCE), Err(Error::BadToken));
    rig.demi.wait_all(&[push], &mut results, PATIENCE).unwrap();
    assert_eq!(results.len(), 1);
    rig.close([queue]);
}

/// `wait_next_n` takes what is done, oldest first, and no more than asked.
pub fn wait_next_n_takes_the_oldest_first<H: Harness>(rig: &Rig<H>) {
    let (queues, pops) = outstanding(rig, 6);
    let order = [4, 0, 5, 2, 1, 3];
    for index in order {
        rig.push(queues[index], &[index as u8]).unwrap();
    }
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_next_n(&mut results, 4, PATIENCE), Ok(4));
    assert_eq!(rig.demi.wait_next_n(&mut results, 4, PATIENCE), Ok(2));
    let tokens: Vec<QToken> = results.iter().map(|done| done.token).collect();
    assert_eq!(tokens, order.map(|index| pops[index]));
    rig.close(queues);
}

/// A set returns its own, and `wait_next_n` leaves these alone; a dropped set gives them back.
pub fn a_wait_set_keeps_its_tokens<H: Harness>(rig: &Rig<H>) {
    let (queues, pops) = outstanding(rig, 4);
    let [first, second] = [0, 1].map(|_| rig.demi.wait_set().unwrap());
    for pop in &pops[..3] {
        first.add(*pop).unwrap();
    }
    second.add(pops[2]).unwrap();
    assert_eq!(first.remove(pops[2]), Err(Error::BadToken), "it is in the other set");
    first.remove(pops[1]).unwrap();
    for (index, queue) in queues.iter().enumerate() {
        rig.push(*queue, &[index as u8]).unwrap();
    }
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_next_n(&mut results, 9, PATIENCE), Ok(2));
    assert_eq!([results[0].token, results[1].token], [pops[1], pops[3]]);
    assert_eq!(first.wait(PATIENCE).unwrap().token, pops[0]);
    assert_eq!(first.wait(ZERO).unwrap_err(), Error::TimedOut);
    assert_eq!(first.wait(None).unwrap_err(), Error::NothingOutstanding);
    drop(second);
    assert_eq!(rig.demi.wait_next_n(&mut results, 9, PATIENCE), Ok(1));
    assert_eq!(results[2].token, pops[2]);
    rig.close(queues);
}

/// A done operation can still join a set; a set gives several at once, oldest first.
pub fn a_wait_set_gives_several_at_once<H: Harness>(rig: &Rig<H>) {
    let (queues, pops) = outstanding(rig, 5);
    let set = rig.demi.wait_set().unwrap();
    rig.push(queues[2], b"2").unwrap();
    for pop in &pops {
        set.add(*pop).unwrap();
    }
    rig.push(queues[4], b"4").unwrap();
    rig.push(queues[0], b"0").unwrap();
    let mut results = Vec::new();
    assert_eq!(set.wait_n(&mut results, 2, PATIENCE), Ok(2));
    assert_eq!(set.wait_n(&mut results, 2, PATIENCE), Ok(1));
    let tokens: Vec<QToken> = results.iter().map(|done| done.token).collect();
    assert_eq!(tokens, [pops[2], pops[4], pops[0]]);
    rig.close(queues);
    assert_eq!(set.wait_n(&mut results, 9, PATIENCE), Ok(2));
    assert!(results[3..].iter().all(|done| matches!(done.result, Err(Error::Cancelled))));
}

/// Another thread can end a wait without limit; its tokens stay valid.
pub fn an_interrupter_ends_a_wait<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let pop = rig.demi.pop(queue).unwrap();
    for delay in [0, 10] {
        let interrupter = rig.demi.interrupter().unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            interrupter.interrupt();
        });
        assert_eq!(rig.demi.wait(pop, None).unwrap_err(), Error::Interrupted);
        thread.join().unwrap();
    }
    rig.demi.interrupter().unwrap().interrupt();
    assert_eq!(rig.demi.wait(pop, None).unwrap_err(), Error::Interrupted, "also one that has not begun");
    rig.stays_pending(pop);
    rig.push(queue, b"x").unwrap();
    assert_eq!(rig.popped(pop), b"x");
    rig.close([queue]);
}

/// An instance with nothing to do sleeps until its time is up.
pub fn an_idle_wait_sleeps<H: Harness>(rig: &Rig<H>) {
    let demi = rig.instance("");
    let queue = demi.queue().unwrap();
    let pop = demi.pop(queue).unwrap();
    let before = demi.counters().unwrap();
    assert_eq!(demi.wait(pop, Some(Duration::from_millis(50))).unwrap_err(), Error::TimedOut);
    let after = demi.counters().unwrap();
    let (sleeps, turns) = (after.sleeps - before.sleeps, after.turns - before.turns);
    assert!(sleeps > 0, "{turns} turns and not one sleep");
    assert!(sleeps < 1000, "{sleeps} sleeps in 50 ms");
}

/// Queues with a pop outstanding on each.
fn outstanding<H: Harness>(rig: &Rig<H>, count: usize) -> (Vec<QDesc>, Vec<QToken>) {
    let queues: Vec<QDesc> = (0..count).map(|_| rig.demi.queue().unwrap()).collect();
    let pops = queues.iter().map(|queue| rig.demi.pop(*queue).unwrap()).collect();
    (queues, pops)
}

#[track_caller]
fn any<H: Harness>(rig: &Rig<H>, tokens: &[QToken]) -> usize {
    let (offset, done) = rig.demi.wait_any(tokens, PATIENCE).unwrap();
    assert_eq!(done.token, tokens[offset]);
    offset
}
