//! Tokens: each completes once, is taken once, and is nobody else's.

use std::collections::HashSet;
use std::time::Duration;

use demi_api::{Error, QToken};

use super::hostile::every_wait_refuses;
use super::rig::{Harness, Rig};

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// What has been waited for cannot be waited for again, by any call.
pub fn a_reaped_token_is_refused<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let push = rig.start_push(queue, b"x");
    rig.completion(push).pushed().unwrap();
    every_wait_refuses(rig, push);
    let pop = rig.demi.pop(queue).unwrap();
    let (offset, done) = rig.demi.wait_any(&[pop], super::PATIENCE).unwrap();
    assert_eq!((offset, done.token, done.qd), (0, pop, queue));
    every_wait_refuses(rig, pop);
    rig.close([queue]);
}

/// The token of another instance is not taken for one of this one's.
pub fn a_foreign_token_is_refused<H: Harness>(rig: &Rig<H>) {
    let other = rig.instance("");
    let [mine, its] = [&rig.demi, &other].map(|demi| demi.queue().unwrap());
    let own: Vec<QToken> = (0..64).map(|_| rig.demi.pop(mine).unwrap()).collect();
    let foreign: Vec<QToken> = (0..64).map(|_| other.pop(its).unwrap()).collect();
    for token in &foreign {
        assert!(!own.contains(token), "{token} names operations of two instances");
        every_wait_refuses(rig, *token);
    }
    rig.close([mine]);
    for token in own {
        assert_eq!(rig.failure(token), Error::Cancelled);
    }
}

/// However slots are reused, a token is not.
pub fn no_token_comes_twice<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let mut seen = HashSet::new();
    for _ in 0..2000 {
        let (push, pop) = (rig.start_push(queue, b"x"), rig.demi.pop(queue).unwrap());
        assert!(seen.insert(push) && seen.insert(pop), "a token came twice");
        rig.completion(pop).popped().unwrap();
        rig.completion(push).pushed().unwrap();
    }
    rig.close([queue]);
}

/// A pending operation can be recalled, once; one that is done cannot.
pub fn cancel_is_final<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let pop = rig.demi.pop(queue).unwrap();
    rig.demi.cancel(pop).unwrap();
    assert_eq!(rig.demi.cancel(pop), Err(Error::NotCancellable));
    assert_eq!(rig.failure(pop), Error::Cancelled);
    assert_eq!(rig.demi.cancel(pop), Err(Error::BadToken));
    let push = rig.start_push(queue, b"x");
    assert_eq!(rig.demi.cancel(push), Err(Error::NotCancellable));
    rig.completion(push).pushed().unwrap();
    assert_eq!(rig.pop(queue).unwrap(), b"x");
    rig.close([queue]);
}

/// As many operations as are configured, and no more; the next one is refused with its array.
pub fn tokens_are_bounded<H: Harness>(rig: &Rig<H>) {
    let demi = rig.instance("[tokens]\nmax = 8\n");
    let queue = demi.queue().unwrap();
    let pops: Vec<QToken> = (0..8).map(|_| demi.pop(queue).unwrap()).collect();
    assert_eq!(demi.pop(queue), Err(Error::TooManyTokens(8)));
    let refused = demi.push(queue, demi.copy_from(b"back").unwrap()).unwrap_err();
    assert_eq!((refused.error, refused.sga.to_vec()), (Error::TooManyTokens(8), b"back".to_vec()));
    demi.cancel(pops[3]).unwrap();
    assert_eq!(demi.wait(pops[3], ZERO).unwrap().result.unwrap_err(), Error::Cancelled);
    let push = demi.push(queue, demi.copy_from(b"room").unwrap()).unwrap();
    demi.wait(push, super::PATIENCE).unwrap().pushed().unwrap();
    assert_eq!(demi.wait(pops[0], super::PATIENCE).unwrap().popped().unwrap().to_vec(), b"room");
    demi.close(queue).unwrap();
}

/// As many queues as are configured, and no more.
pub fn queues_are_bounded<H: Harness>(rig: &Rig<H>) {
    let demi = rig.instance("[queues]\nmax = 3\n");
    let queues = [0, 1, 2].map(|_| demi.queue().unwrap());
    assert_eq!(demi.queue(), Err(Error::TooManyQueues(3)));
    demi.close(queues[1]).unwrap();
    assert_eq!(demi.queue(), Ok(queues[1]));
}
