//! Full and read-only devices, positions that name nothing, and many openings one after the other.

use demi_api::error::Error;
use demi_api::libos::{OpenOptions, SeekTo};
use demi_api::op::Position;
use demi_libos_cattree::device::mem::Image;
use proptest::prelude::*;

use crate::app::{App, Habits};
use crate::model::{Element, Found, Model};
use crate::power::seeds;
use crate::world::{Options, World};

const WRITER: OpenOptions = OpenOptions {
    create: true,
    exclusive: false,
    truncate: false,
    read_only: false,
    durable: true,
    mode: None,
};
const READER: OpenOptions = OpenOptions { create: false, read_only: true, ..WRITER };

/// Pushes elements to a new log and waits for each; gives them back with their positions.
fn fill(world: &World, name: &str, lens: &[usize]) -> Vec<(Position, Element)> {
    let log = world.demi.open(name, &WRITER).unwrap();
    let push = |(number, len): (usize, &usize)| {
        let mut element = vec![number as u8; *len];
        fastrand::Rng::with_seed(number as u64).fill(&mut element);
        let token = world.demi.push(log, world.demi.copy_from(&element).unwrap()).unwrap();
        (world.within(100, token).unwrap().pushed().unwrap(), element.into())
    };
    let pushed = lens.iter().enumerate().map(push).collect();
    world.demi.close(log).unwrap();
    pushed
}

#[test]
fn a_full_device_refuses_and_keeps_what_it_has_until_something_is_discarded() {
    for len in [100, 1500, 5000, 20_000] {
        let options = Options::new(1);
        let image = World::make(160 << 10, &options);
        let world = World::open(&image, &options).unwrap();
        let log = world.demi.open("log", &WRITER).unwrap();
        let mut pushed: Vec<(Position, Element)> = Vec::new();
        let full = loop {
            let element: Element = vec![pushed.len() as u8; len].into();
            let token = match world.demi.push(log, world.demi.copy_from(&element).unwrap()) {
                Ok(token) => token,
                Err(refused) => break refused.error,
            };
            match world.within(100, token).expect("a push completes on a full device too").pushed() {
                Ok(position) => pushed.push((position, element)),
                Err(error) => break error,
            }
            assert!(pushed.len() * len < image.len(), "more was pushed than there is room for");
        };
        assert_eq!(full, Error::NoSpace);
        // Each was written by itself: a header, and what fills the last block.
        let used = pushed.len() * (len + 48).next_multiple_of(512);
        assert!(used > image.len() / 2, "{used} of {} bytes are used", image.len());
        let elements: Vec<Element> = pushed.iter().map(|(_, element)| element.clone()).collect();
        assert_eq!(world.read_all().unwrap()["log"], elements);
        drop(world);

        // It is as full for whoever opens it next, but names can be removed, and room be made.
        let world = World::open(&image, &options).unwrap();
        let log = world.demi.open("log", &WRITER).unwrap();
        let keep = pushed.len() - 2;
        world.demi.discard(log, pushed[keep].0).unwrap();
        for (_, element) in &pushed[..keep / 2] {
            let token = world.demi.push(log, world.demi.copy_from(element).unwrap()).unwrap();
            world.within(100, token).unwrap().pushed().unwrap();
        }
        let expected: Vec<Element> = elements[keep..].iter().chain(&elements[..keep / 2]).cloned().collect();
        assert_eq!(world.read_all().unwrap()["log"], expected);
        drop(world);
        assert_eq!(World::open(&image, &options).unwrap().read_all().unwrap()["log"], expected);
    }
}

#[test]
fn a_read_only_device_is_read_and_not_changed() {
    let options = Options::new(1);
    let image = World::make(256 << 10, &options);
    let world = World::open(&image, &options).unwrap();
    let pushed = fill(&world, "log", &[10, 2000, 0, 20_000]);
    // Both as it was closed, and as it was left.
    let left = image.to_vec();
    drop(world);
    for bytes in [image.to_vec(), left] {
        let image = Image::new(bytes.clone());
        let world = World::open(&image, &Options { read_only: true, ..Options::new(1) }).unwrap();
        let elements: Vec<Element> = pushed.iter().map(|(_, element)| element.clone()).collect();
        assert_eq!(world.read_all().unwrap(), Found::from([("log".to_owned(), elements)]));
        assert_eq!(world.demi.open("log", &WRITER), Err(Error::ReadOnly));
        assert_eq!(world.demi.unlink("log"), Err(Error::ReadOnly));
        let log = world.demi.open("log", &READER).unwrap();
        assert!(world.demi.push(log, world.demi.copy_from(&[1]).unwrap()).is_err());
        assert!(
            world.demi.discard(log, pushed[1].0).is_err() && world.demi.truncate(log, pushed[1].0).is_err()
        );
        drop(world);
        assert!(image.to_vec() == bytes, "it was changed");
    }
}

#[test]
fn many_openings_one_after_the_other_find_what_was_pushed() {
    for seed in seeds(6) {
        let image = World::make(300 << 10, &Options::new(seed));
        let mut found = Found::new();
        for opening in 0..12 {
            let options = Options { delay: Some(seed % 4), ..Options::new(seed + opening) };
            let world = World::open(&image, &options).unwrap();
            let trace = world.trace.clone();
            let mut app = App::new(world, Model::of(&found), Habits::DEFAULT, 100 * seed + opening);
            app.append_to_all(&found).unwrap();
            app.run(150);
            app.settle();
            let App { world, model, .. } = app;
            drop(world);
            found = World::open(&image, &Options::new(seed)).unwrap().read_all().unwrap();
            if let Err(why) = model.check(trace.len(), &found) {
                panic!("opening {opening}, seed {seed}: {why}\n{model}");
            }
        }
    }
}

/// A position near one that was pushed, or anywhere.
fn near() -> impl Strategy<Value = (usize, i64)> {
    (0usize..12, prop_oneof![Just(0), Just(8), -64i64..64, (-20i64..20).prop_map(|n| 512 * n), any::<i64>()])
}

#[derive(Clone, Debug)]
enum Call {
    Seek((usize, i64)),
    Discard((usize, i64)),
    Truncate((usize, i64)),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![near().prop_map(Call::Seek), near().prop_map(Call::Discard), near().prop_map(Call::Truncate)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Positions are allegations. One that names an element is obeyed, any other refused, or harmless: what is left is
    /// a run of what was pushed, all of it readable, now and after the next opening, and can be appended to.
    #[test]
    fn positions_that_name_nothing_are_harmless(calls in prop::collection::vec(call(), 1..6)) {
        let options = Options::new(1);
        let image = World::make(256 << 10, &options);
        let world = World::open(&image, &options).unwrap();
        let pushed = fill(&world, "log", &[10, 700, 0, 300, 9000, 512, 464, 20_000, 8, 4096, 100, 3000]);
        let log = world.demi.open("log", &WRITER).unwrap();
        let mut left = 0..pushed.len();
        for call in calls {
            let (Call::Seek((number, off)) | Call::Discard((number, off)) | Call::Truncate((number, off))) = call;
            let position = Position(pushed[number].0.0.wrapping_add_signed(off));
            let named = pushed.iter().position(|(place, _)| *place == position).filter(|n| left.contains(n));
            match call {
                Call::Seek(_) => {
                    if world.demi.seek(log, SeekTo::Position(position)).is_ok() {
                        let pop = world.demi.pop(log).unwrap();
                        match (world.within(8, pop).map(|completion| completion.popped()), named) {
                            (Some(Ok(element)), Some(named)) => prop_assert!(element == *pushed[named].1),
                            (Some(Ok(element)), None) => {
                                prop_assert!(pushed[left.clone()].iter().any(|(_, other)| element == **other));
                            }
                            (Some(Err(error)), named) => prop_assert!(named.is_none(), "{error}"),
                            (None, named) => {
                                prop_assert!(named.is_none());
                                world.demi.cancel(pop).unwrap();
                            }
                        }
                    }
                }
                Call::Discard(_) => {
                    let result = world.demi.discard(log, position);
                    if let Some(named) = named {
                        prop_assert_eq!(result, Ok(()));
                        left.start = named;
                    }
                }
                Call::Truncate(_) => {
                    let result = world.demi.truncate(log, position);
                    if let Some(named) = named {
                        prop_assert_eq!(result, Ok(()));
                        left.end = named;
                    }
                }
            }
            // Behind the end and before the head are positions too, at which there is much or little to discard.
            let elements = &world.read_all().unwrap()["log"];
            let is_left = |range: &std::ops::Range<usize>| {
                elements.len() == range.len() && elements.iter().zip(&pushed[range.clone()]).all(|(a, (_, b))| a == b)
            };
            let ranges = (left.start..=left.end).flat_map(|start| (start..=left.end).map(move |end| start..end));
            let now = if is_left(&left) { Some(left.clone()) } else { ranges.into_iter().find(is_left) };
            prop_assert!(now.is_some(), "what is left is no run of what was pushed");
            prop_assert!(named.is_none() || now == Some(left.clone()), "{:?} in place of {:?}", now, left);
            left = now.unwrap_or(0..0);
        }
        let token = world.demi.push(log, world.demi.copy_from(b"last").unwrap()).unwrap();
        world.within(100, token).unwrap().pushed().unwrap();
        let before = world.read_all().unwrap();
        prop_assert_eq!(&before["log"].last().unwrap()[..], b"last");
        drop(world);
        prop_assert_eq!(World::open(&image, &options).unwrap().read_all().unwrap(), before);
    }
}
