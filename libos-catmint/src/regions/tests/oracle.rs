//! Random operations on one region from both sides, beside an array of bytes.

use demi_api::{Done, Error, Position, QDesc, QToken, SeekTo};

use super::world::World;
use crate::device::ideal::Conditions;

const SIZE: u64 = 512;

/// What a region must be.
struct Model {
    bytes: Vec<u8>,
    cursors: [u64; 2],
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    At(u64),
    Bytes(Vec<u8>),
    Word(u64),
    Fails,
}

impl Model {
    fn push(&mut self, side: usize, data: &[u8]) -> Expected {
        let at = self.cursors[side];
        if at + data.len() as u64 > SIZE && !(data.is_empty()) {
            return Expected::Fails;
        }
        if !data.is_empty() {
            self.bytes[at as usize..][..data.len()].copy_from_slice(data);
        }
        self.cursors[side] += data.len() as u64;
        Expected::At(at)
    }

    fn pop(&mut self, side: usize, limit: usize) -> Expected {
        let at = self.cursors[side].min(SIZE) as usize;
        let end = (at + limit).min(SIZE as usize);
        self.cursors[side] += (end - at) as u64;
        Expected::Bytes(self.bytes[at..end].to_vec())
    }

    fn word(&mut self, at: u64, change: impl FnOnce(u64) -> u64) -> Expected {
        if at + 8 > SIZE {
            return Expected::Fails;
        }
        let word = &mut self.bytes[at as usize..][..8];
        let before = u64::from_ne_bytes(word.try_into().unwrap());
        word.copy_from_slice(&change(before).to_ne_bytes());
        Expected::Word(before)
    }
}

fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let conditions = Conditions {
        seed,
        delay: 0..=rng.u64(1..5_000),
        depth: rng.usize(1..20),
        full: rng.u32(0..4),
        ..Conditions::default()
    };
    let world = World::with(2, conditions, "");
    let here = world.export(0, &format!("table?size={SIZE}"));
    let there = world.open(1, "table");
    let queues = [here, there];
    let mut model = Model { bytes: vec![0; SIZE as usize], cursors: [0; 2] };
    let mut flying: Vec<(QToken, Expected)> = Vec::new();
    for _ in 0..rng.usize(1..40) {
        // One side at a time, as the two have no order between them; several operations at once.
        let side = rng.usize(..2);
        for _ in 0..rng.usize(1..12) {
            if let Some(started) = step(&world, &mut rng, &mut model, side, queues[side]) {
                flying.push(started);
            }
            if rng.bool() {
                world.turn();
            }
        }
        for (token, expected) in flying.drain(..) {
            let outcome = match world.outcome(side, token) {
                Ok(Done::Pushed(Position(at))) => Expected::At(at),
                Ok(Done::Popped(sga)) => Expected::Bytes(sga.to_vec()),
                Ok(Done::Fetched(word)) => Expected::Word(word),
                Err(Error::NoSpace | Error::Invalid(_)) => Expected::Fails,
                other => panic!("seed {seed}: {other:?}"),
            };
            assert_eq!(outcome, expected, "seed {seed}");
        }
    }
    world.demi(0).seek(here, SeekTo::Head).unwrap();
    assert_eq!(world.pop(0, here, SIZE as usize), model.bytes, "seed {seed}");
}

fn step(
    world: &World,
    rng: &mut fastrand::Rng,
    model: &mut Model,
    side: usize,
    qd: QDesc,
) -> Option<(QToken, Expected)> {
    let demi = world.demi(side);
    let (started, expected) = match rng.u8(..6) {
        0 | 1 => {
            let data: Vec<u8> = (0..rng.usize(..100)).map(|_| rng.u8(..)).collect();
            let started = demi.push(qd, world.array(side, &data));
            (started.map_err(|refused| refused.error), model.push(side, &data))
        }
        2 => {
            let limit = rng.usize(1..150);
            (demi.pop_n(qd, limit), model.pop(side, limit))
        }
        3 => {
            let at = 8 * rng.u64(..=SIZE / 8);
            let add = rng.u64(..);
            let started = demi.fetch_and_add(qd, Position(at), add);
            (started, model.word(at, |word| word.wrapping_add(add)))
        }
        4 => {
            let at = 8 * rng.u64(..=SIZE / 8);
            let (expected, new) = (rng.u64(..2), rng.u64(..2));
            let started = demi.compare_and_swap(qd, Position(at), expected, new);
            (started, model.word(at, |word| if word == expected { new } else { word }))
        }
        _ => {
            let at = rng.u64(..SIZE + 20);
            model.cursors[side] = at;
            assert_eq!(demi.seek(qd, SeekTo::Position(Position(at))), Ok(Position(at)));
            return None;
        }
    };
    match started {
        Ok(token) => Some((token, expected)),
        Err(error) => {
            assert_eq!(expected, Expected::Fails, "{error}");
            None
        }
    }
}

#[test]
fn a_region_is_an_array_of_bytes_to_both_sides() {
    for seed in 0..150 {
        run(seed);
    }
}
