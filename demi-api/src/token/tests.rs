//! The table against a trivial oracle, and the rules for tokens that are stale, foreign or made up.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::desc::QDesc;
use crate::error::Error;
use crate::op::{Done, Position};

const QD: u32 = 5;

fn reserve(table: &mut Completions) -> QToken {
    table.reserve(QDesc::from_raw(QD), Owner::App).unwrap()
}

fn pushed(n: u64) -> Result<Done, Error> {
    Ok(Done::Pushed(Position(n)))
}

#[derive(Debug, Clone)]
enum Step {
    Reserve,
    /// An operation done on the spot: its result is asked for at once, or another's is, or something else is done.
    Spot(Ask),
    Post(usize),
    Take(usize),
    TakeNext,
    Forget(usize),
    ToSet(usize),
    TakeSet,
    Any(Vec<usize>),
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Itself,
    Another(usize),
    Nothing,
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![2 => Just(Ask::Itself), 1 => any::<usize>().prop_map(Ask::Another), 1 => Just(Ask::Nothing)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Reserve),
        3 => asks().prop_map(Step::Spot),
        3 => any::<usize>().prop_map(Step::Post),
        1 => any::<usize>().prop_map(Step::Take),
        1 => Just(Step::TakeNext),
        1 => any::<usize>().prop_map(Step::Forget),
        1 => any::<usize>().prop_map(Step::ToSet),
        1 => Just(Step::TakeSet),
        1 => prop::collection::vec(any::<usize>(), 1..5).prop_map(Step::Any),
    ];
    prop::collection::vec(step, 0..300)
}

/// What the table should hold: pending and ready tokens, each ready one in its owner's queue, oldest first.
#[derive(Default)]
struct Oracle {
    pending: Vec<(QToken, bool)>,
    ready: BTreeMap<QToken, u64>,
    app: VecDeque<QToken>,
    set: VecDeque<QToken>,
    /// In order of completion.
    age: Vec<QToken>,
}

impl Oracle {
    fn took(&mut self, token: QToken) -> u64 {
        self.app.retain(|other| *other != token);
        self.set.retain(|other| *other != token);
        self.age.retain(|other| *other != token);
        self.ready.remove(&token).expect("the table yields what is ready")
    }

    fn live(&self) -> Vec<QToken> {
        self.pending.iter().map(|(token, _)| *token).chain(self.ready.keys().copied()).collect()
    }
}

fn pick<T: Copy>(items: &[T], n: usize) -> Option<T> {
    (!items.is_empty()).then(|| items[n % items.len()])
}

proptest! {
    #[test]
    fn agrees_with_the_oracle(steps in steps()) {
        let mut table = Completions::new(64);
        let set = table.open_set();
        let mut oracle = Oracle::default();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Reserve => match table.reserve(QDesc::from_raw(QD), Owner::App) {
                    Ok(token) => oracle.pending.push((token, false)),
                    Err(error) => {
                        prop_assert_eq!(error, Error::TooManyTokens(64));
                        prop_assert_eq!(oracle.live().len(), 64);
                    }
                },
                Step::Spot(ask) => match table.ask(QDesc::from_raw(QD)) {
                    Ok(token) => {
                        prop_assert!(!oracle.live().contains(&token));
                        prop_assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
                        prop_assert!(table.take_held(token).is_none());
                        if next % 2 == 0 {
                            table.hold_pushed(Position(next));
                        } else {
                            table.hold(pushed(next));
                        }
                        if let Ask::Another(n) = ask && let Some(other) = pick(&oracle.live(), n) {
                            prop_assert!(table.take_held(other).is_none());
                        }
                        if matches!(ask, Ask::Itself) {
                            let completion = table.take_held(token).expect("it is in hand");
                            prop_assert_eq!((completion.token, completion.qd.raw()), (token, QD));
                            prop_assert_eq!(completion.pushed(), Ok(Position(next)));
                            prop_assert!(table.take_held(token).is_none());
                            prop_assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
                        } else {
                            table.put_down();
                            prop_assert!(table.take_held(token).is_none());
                            oracle.ready.insert(token, next);
                            oracle.app.push_back(token);
                            oracle.age.push(token);
                        }
                        next += 1;
                    }
                    Err(error) => {
                        prop_assert_eq!(error, Error::TooManyTokens(64));
                        prop_assert_eq!(oracle.live().len(), 64);
                    }
                },
                Step::Post(n) => if !oracle.pending.is_empty() {
                    let (token, in_set) = oracle.pending.remove(n % oracle.pending.len());
                    table.post(token, pushed(next));
                    oracle.ready.insert(token, next);
                    if in_set { oracle.set.push_back(token) } else { oracle.app.push_back(token) }
                    oracle.age.push(token);
                    next += 1;
                },
                Step::Take(n) => if let Some(token) = pick(&oracle.live(), n) {
                    match table.take(token).unwrap() {
                        Some(completion) => {
                            let expected = oracle.took(token);
                            prop_assert_eq!(completion.pushed(), Ok(Position(expected)));
                            prop_assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
                        }
                        None => prop_assert!(!oracle.ready.contains_key(&token)),
                    }
                },
                Step::TakeNext => {
                    let taken = table.take_next();
                    prop_assert_eq!(taken.as_ref().map(|c| c.token), oracle.app.front().copied());
                    if let Some(completion) = taken {
                        let expected = oracle.took(completion.token);
                        prop_assert_eq!(completion.pushed(), Ok(Position(expected)));
                    }
                }
                Step::TakeSet => {
                    let taken = table.take_next_of(set);
                    prop_assert_eq!(taken.as_ref().map(|c| c.token), oracle.set.front().copied());
                    if let Some(completion) = taken {
                        oracle.took(completion.token);
                    }
                }
                Step::Forget(n) => if let Some(token) = pick(&oracle.live(), n) {
                    table.give_to(token, Owner::Discard).unwrap();
                    if oracle.ready.contains_key(&token) {
                        oracle.took(token);
                    } else {
                        oracle.pending.retain(|(other, _)| *other != token);
                        prop_assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
                        table.post(token, pushed(0));
                    }
                },
                Step::ToSet(n) => if let Some(token) = pick(&oracle.live(), n) {
                    table.give_to(token, Owner::Set(set)).unwrap();
                    if let Some(entry) = oracle.pending.iter_mut().find(|(other, _)| *other == token) {
                        entry.1 = true;
                    } else {
                        oracle.app.retain(|other| *other != token);
                        oracle.set.retain(|other| *other != token);
                        oracle.set.push_back(token);
                    }
                },
                Step::Any(picks) => {
                    let live = oracle.live();
                    let tokens: Vec<_> = picks.iter().filter_map(|n| pick(&live, *n)).collect();
                    let oldest = oracle.age.iter().find(|token| tokens.contains(token)).copied();
                    let taken = table.watch_any(&tokens).unwrap();
                    prop_assert_eq!(taken.as_ref().map(|(_, c)| c.token), oldest);
                    if let Some((offset, completion)) = taken {
                        prop_assert_eq!(tokens[offset], completion.token);
                        oracle.took(completion.token);
                    } else if let Some(n) = tokens.first() {
                        let place = oracle.pending.iter().position(|(token, _)| token == n).unwrap();
                        let (token, _) = oracle.pending.remove(place);
                        table.post(token, pushed(next));
                        let (offset, completion) = table.take_watched().expect("a watched token was posted");
                        prop_assert_eq!((offset, completion.token), (0, token));
                        prop_assert!(table.take_watched().is_none());
                    }
                }
            }
            prop_assert_eq!(table.live(), oracle.live().len());
            prop_assert_eq!(table.pending(), oracle.pending.len());
        }
        table.close_set(set);
        let rest = std::iter::from_fn(|| table.take_next()).count();
        prop_assert_eq!(rest, oracle.ready.len());
        prop_assert_eq!(table.stale_posts(), 0);
    }

    #[test]
    fn made_up_tokens_are_refused(raws in prop::collection::vec(any::<u64>(), 1..50)) {
        let mut table = Completions::new(64);
        let real: Vec<_> = (0..32).map(|_| reserve(&mut table)).collect();
        for raw in raws.into_iter().chain([0, u64::MAX, 1 << 32, 32, 1]) {
            let token = QToken::from_raw(raw);
            if !real.contains(&token) {
                prop_assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
                prop_assert_eq!(table.check(token), Err(Error::BadToken));
                prop_assert!(table.watch_any(&[real[0], token]).is_err());
                prop_assert!(table.watch_all(&[real[0], token]).is_err());
            }
        }
    }
}

#[test]
fn an_operators_tokens_are_not_the_applications() {
    let mut table = Completions::new(4);
    let node = QDesc::from_raw(4);
    let token = table.reserve(node, Owner::Node { node, port: 1 }).unwrap();
    assert_eq!(table.check(token), Err(Error::BadToken));
    table.post(token, pushed(9));
    assert_eq!(table.take(token).unwrap_err(), Error::BadToken);
    assert!(table.take_next().is_none());
    let (at, port, posted, result) = table.take_node().unwrap();
    assert_eq!((at, port, posted), (node, 1, token));
    assert!(matches!(result, Ok(Done::Pushed(Position(9)))));
    assert_eq!(table.live(), 0);
}

#[test]
fn wait_all_refuses_the_same_token_twice() {
    let mut table = Completions::new(4);
    let [a, b] = [(); 2].map(|()| reserve(&mut table));
    assert_eq!(table.watch_all(&[a, b, a]), Err(Error::DuplicateToken));
    assert_eq!(table.watch_all(&[a, b]), Ok(2));
    table.post(b, pushed(0));
    assert_eq!(table.watch_hits(), 1);
}

#[test]
fn wait_any_twice_over_one_token_reports_its_first_place() {
    let mut table = Completions::new(4);
    let [a, b] = [(); 2].map(|()| reserve(&mut table));
    assert!(table.watch_any(&[a, b, b]).unwrap().is_none());
    table.post(b, pushed(0));
    assert_eq!(table.take_watched().unwrap().0, 1);
}

#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    let mut table = Completions::new(2);
    let token = reserve(&mut table);
    table.exhaust(token);
    let last = QToken::from_raw(u64::from(u32::MAX) << 32 | token.raw() & 0xffff_ffff);
    table.unreserve(last);
    let other = reserve(&mut table);
    assert_ne!(other.raw() as u32, token.raw() as u32, "the slot must not come back under generation 0 or 1");
    assert_eq!(table.reserve(QDesc::from_raw(QD), Owner::App), Err(Error::TooManyTokens(2)));
}

#[test]
fn a_slot_is_retired_by_results_taken_from_the_hand_too() {
    let mut table = Completions::beginning_at(2, u32::MAX - 1);
    let tokens = [(); 3].map(|()| {
        let token = table.ask(QDesc::from_raw(QD)).unwrap();
        table.hold_pushed(Position(7));
        assert_eq!(table.take_held(token).unwrap().pushed(), Ok(Position(7)));
        token.raw()
    });
    let last = u64::from(u32::MAX) << 32;
    assert_eq!(tokens, [last - (1 << 32), last, last - (1 << 32) + 1]);
}

#[test]
fn an_operation_may_be_posted_while_it_is_started() {
    let mut table = Completions::new(4);
    let token = table.ask(QDesc::from_raw(QD)).unwrap();
    table.post(token, pushed(3));
    table.begun(token);
    assert_eq!((table.live(), table.pending()), (1, 0));
    let completion = table.take(token).unwrap().expect("it is done");
    assert_eq!((completion.qd.raw(), completion.pushed()), (QD, Ok(Position(3))));
    let refused = table.ask(QDesc::from_raw(QD)).unwrap();
    table.refused();
    assert_eq!(table.take(refused).unwrap_err(), Error::BadToken);
    let other = table.ask(QDesc::from_raw(QD)).unwrap();
    assert_ne!(other, refused, "the libOS has seen it, and might post it late");
    table.hold_pushed(Position(4));
    assert_eq!(table.take_held(other).unwrap().pushed(), Ok(Position(4)));
}

#[test]
fn a_round_ends_with_each_result_that_is_handed_out() {
    let mut table = Completions::new(4);
    let [a, b] = [(); 2].map(|()| reserve(&mut table));
    let first = table.round();
    table.post(a, pushed(0));
    let spot = table.ask(QDesc::from_raw(QD)).unwrap();
    table.hold_pushed(Position(0));
    table.put_down();
    assert_eq!(table.round(), first, "nothing was handed out yet");
    for token in [a, spot] {
        let before = table.round();
        table.take(token).unwrap().unwrap();
        assert_ne!(table.round(), before);
    }
    let before = table.round();
    assert!(table.take(b).unwrap().is_none());
    assert_eq!(table.round(), before);
}

#[test]
fn a_wait_hears_of_operations_that_futures_own() {
    let mut table = Completions::new(4);
    let tokens = [(); 2].map(|()| reserve(&mut table));
    for token in tokens {
        table.give_to(token, Owner::Task).unwrap();
    }
    assert_eq!(table.watch_all(&tokens), Ok(2));
    table.post(tokens[1], pushed(1));
    assert_eq!(table.watch_hits(), 1);
    assert!(table.watch_any(&tokens[..1]).unwrap().is_none());
    table.post(tokens[0], pushed(0));
    let (offset, completion) = table.take_watched().expect("a watched token was posted");
    assert_eq!((offset, completion.token), (0, tokens[0]));
}

/// An operation that is in hand, and under way.
fn begin(table: &mut Completions) -> QToken {
    let token = table.ask(QDesc::from_raw(QD)).unwrap();
    table.begun(token);
    token
}

#[test]
fn what_is_waited_for_at_once_never_enters_the_table() {
    let mut table = Completions::new(1);
    for round in 0..3 {
        let token = begin(&mut table);
        assert!(table.take_held(token).is_none() && table.take_held_push(token).is_none());
        assert!(table.await_held(token) || table.await_filed(token));
        table.post(token, pushed(round));
        assert_eq!((table.live(), table.pending()), (0, 0));
        let completion = table.take_arrived().expect("it has come");
        assert_eq!((completion.token, completion.qd.raw()), (token, QD));
        assert_eq!(completion.pushed(), Ok(Position(round)));
        assert_eq!(table.take(token).unwrap_err(), Error::BadToken, "it is taken once");
    }
    assert_eq!(table.stale_posts(), 0);
}

#[test]
fn what_outlasts_the_turn_enters_the_table_under_its_token() {
    for awaits in [false, true] {
        let mut table = Completions::new(4);
        let token = begin(&mut table);
        if awaits {
            assert!(table.await_held(token) || table.await_filed(token));
            assert!(table.take_arrived().is_none());
        }
        table.put_down();
        assert_eq!((table.live(), table.pending()), (1, 1));
        assert_eq!(table.location(token).unwrap().raw(), QD);
        let next = begin(&mut table);
        assert_ne!(next, token);
        // It is another that is asked for: the one in hand is put down.
        assert!(table.await_held(token) || table.await_filed(token));
        assert_eq!(table.pending(), 2);
        table.post(token, pushed(1));
        assert_eq!(table.take_arrived().unwrap().token, token);
        table.post(next, pushed(2));
        assert_eq!(table.take(next).unwrap().unwrap().pushed(), Ok(Position(2)));
        assert_eq!((table.live(), table.stale_posts()), (0, 0));
    }
}

#[test]
fn a_slot_that_has_had_its_last_generation_is_not_used_again() {
    let mut table = Completions::beginning_at(2, u32::MAX);
    let token = begin(&mut table);
    assert!(table.await_held(token) || table.await_filed(token));
    table.post(token, pushed(1));
    assert_eq!(table.take_arrived().unwrap().token, token);
    let other = begin(&mut table);
    assert_ne!(other.slot(), token.slot());
    table.put_down();
    assert_eq!(table.ask(QDesc::from_raw(QD)).unwrap_err(), Error::TooManyTokens(2));
}

#[test]
fn what_begins_during_the_turn_has_a_token_of_its_own() {
    let mut table = Completions::new(2);
    let token = begin(&mut table);
    assert!(table.await_held(token) || table.await_filed(token));
    let meanwhile = reserve(&mut table);
    assert_ne!(meanwhile.slot(), token.slot());
    // The slot of either is used again, under another generation.
    table.post(token, pushed(1));
    assert_eq!(table.take_arrived().unwrap().token, token);
    let after = begin(&mut table);
    assert_eq!((after.slot(), after != token), (token.slot(), true));
    table.put_down();
    assert_eq!(table.ask(QDesc::from_raw(QD)).unwrap_err(), Error::TooManyTokens(2));
    for token in [meanwhile, after] {
        table.post(token, pushed(2));
        assert_eq!(table.take(token).unwrap().unwrap().pushed(), Ok(Position(2)));
    }
    assert_eq!((table.live(), table.stale_posts()), (0, 0));
}
