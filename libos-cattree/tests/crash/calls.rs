//! Calls that meet operations under way, and what is told of failures that are not the caller's.

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::{OpenOptions, SeekTo};
use demi_api::op::Position;
use demi_api::token::QToken;
use demi_libos_cattree::device::fault::{Rule, Rules, Which};
use demi_libos_cattree::device::mem::Image;

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
const SIZE: usize = 512 << 10;

fn world() -> World {
    let options = Options::new(1);
    World::open(&World::make(SIZE, &options), &options).unwrap()
}

fn start(world: &World, log: QDesc, element: &[u8]) -> Result<QToken, Error> {
    world.demi.push(log, world.demi.copy_from(element).unwrap()).map_err(|refused| refused.error)
}

fn push(world: &World, log: QDesc, element: &[u8]) -> Result<Position, Error> {
    let token = start(world, log, element)?;
    world.within(200, token).expect("a push completes").pushed()
}

fn pop(world: &World, log: QDesc) -> Option<Result<Vec<u8>, Error>> {
    let token = world.demi.pop(log).unwrap();
    let popped = world.within(8, token).map(|completion| completion.popped().map(|sga| sga.to_vec()));
    if popped.is_none() {
        world.demi.cancel(token).unwrap();
    }
    popped
}

#[test]
fn a_pop_that_waits_at_the_end_is_served_where_a_seek_goes() {
    let world = world();
    let log = world.demi.open("log", &WRITER).unwrap();
    push(&world, log, b"first").unwrap();
    assert_eq!(pop(&world, log).unwrap().unwrap(), b"first");
    let waits = world.demi.pop(log).unwrap();
    assert!(world.within(8, waits).is_none());
    world.demi.seek(log, SeekTo::Head).unwrap();
    let served = world.within(8, waits).expect("there is an element at the cursor").popped().unwrap();
    assert_eq!(served.to_vec(), b"first");
}

#[test]
fn a_seek_to_what_is_there_does_not_end_the_batch_that_is_filled() {
    let world = world();
    let log = world.demi.open("log", &WRITER).unwrap();
    push(&world, log, b"first").unwrap();
    let first = start(&world, log, b"second").unwrap();
    world.demi.seek(log, SeekTo::Head).unwrap();
    let second = start(&world, log, b"third").unwrap();
    let [first, second] = [first, second].map(|token| world.within(8, token).unwrap().pushed().unwrap().0);
    assert!(second - first < 512, "they are in different blocks: {first}, {second}");
}

#[test]
fn the_end_of_a_log_that_failed_is_where_it_goes_on() {
    let rules = Rules::new(1);
    let options = Options { rules: rules.clone(), ..Options::new(1) };
    let world = World::open(&World::make(SIZE, &options), &options).unwrap();
    let log = world.demi.open("log", &WRITER).unwrap();
    push(&world, log, b"first").unwrap();
    rules.add(Rule::once(Which::Writes, 0));
    assert_eq!(push(&world, log, &[2; 3000]), Err(Error::Io));
    let end = world.demi.seek(log, SeekTo::End).unwrap();
    world.demi.close(log).unwrap();
    let log = world.demi.open("log", &WRITER).unwrap();
    assert_eq!(push(&world, log, b"second"), Ok(end));
}

#[test]
fn a_log_is_not_cut_by_who_may_not_write() {
    let world = world();
    let log = world.demi.open("log", &WRITER).unwrap();
    push(&world, log, b"first").unwrap();
    let opened = world.demi.open("log", &OpenOptions { truncate: true, ..READER });
    assert!(matches!(opened, Err(Error::Invalid(_))), "{opened:?}");
    assert_eq!(pop(&world, log).unwrap().unwrap(), b"first");
}

#[test]
fn who_reads_where_a_log_is_cut_goes_on_at_its_end() {
    // The cut is at the beginning of a batch, and inside one; what is before it is discarded first, or has been read.
    for (keep, discards) in [(0, true), (1, true), (1, false), (2, true), (2, false)] {
        let world = world();
        let log = world.demi.open("log", &WRITER).unwrap();
        let tokens = [b"a", b"b", b"c"].map(|element| start(&world, log, element).unwrap());
        let pushed = tokens.map(|token| world.within(8, token).unwrap().pushed().unwrap());
        if discards {
            world.demi.discard(log, pushed[keep]).unwrap();
        }
        let reader = world.demi.open("log", &READER).unwrap();
        world.demi.seek(reader, SeekTo::Position(pushed[keep])).unwrap();
        world.demi.truncate(log, pushed[keep]).unwrap();
        assert_eq!(pop(&world, reader), None, "{keep}, {discards}");
        push(&world, log, b"d").unwrap();
        assert_eq!(pop(&world, reader), Some(Ok(b"d".to_vec())), "{keep}, {discards}");
    }
}

#[test]
fn many_small_elements_find_room_where_there_is_room() {
    let world = world();
    let log = world.demi.open("log", &WRITER).unwrap();
    // What no batch has room for waits, and is a tenth of the device with all that is around it.
    let tokens: Vec<QToken> = (0..500)
        .map(|number| match start(&world, log, &[number as u8; 100]) {
            Ok(token) => token,
            Err(error) => panic!("element {number}: {error}"),
        })
        .collect();
    for token in tokens {
        world.within(200, token).unwrap().pushed().unwrap();
    }
}

#[test]
fn one_checkpoint_that_fails_is_written_again_before_anybody_is_told() {
    let mut checkpoints = 0;
    for number in (30..130).step_by(3) {
        let rules = Rules::new(1);
        let options = Options { rules: rules.clone(), ..Options::new(1) };
        let world = World::open(&World::make(4 * SIZE, &options), &options).unwrap();
        let log = world.demi.open("log", &WRITER).unwrap();
        rules.add(Rule::once(Which::Writes, number));
        let results: Vec<_> = (0..100).map(|_| push(&world, log, &[1; 7000]).is_ok()).collect();
        // Of a failed write of its own a log does not recover by itself.
        let failed = results.iter().filter(|ok| !**ok).count();
        let first = results.iter().position(|ok| !*ok).unwrap_or(results.len());
        assert_eq!(failed, results.len() - first, "write {number}: {results:?}");
        checkpoints += usize::from(failed == 0 && rules.struck() == 1);
    }
    assert!(checkpoints > 0, "no checkpoint was struck");
}

#[test]
fn a_log_that_was_made_is_there_whatever_fails_meanwhile() {
    let mut refused = 0;
    let image = World::make(900 << 10, &Options::new(1));
    for first in 30..36 {
        for turns in 9..16 {
            for second in 0..12 {
                let image = Image::new(image.to_vec());
                let rules = Rules::new(1);
                let options = Options { rules: rules.clone(), depth: 4, heap: 4, ..Options::new(1) };
                let world = World::open(&image, &options).unwrap();
                let busy = world.demi.open("busy", &WRITER).unwrap();
                // The first strikes the checkpoint that is written in good time, so that segments run out.
                rules.add(Rule::once(Which::Writes, first));
                let token = start(&world, busy, &[1; 560_000]).unwrap();
                for _ in 0..turns {
                    world.turn();
                }
                if world.take(token).is_some() || rules.struck() == 0 {
                    break;
                }
                rules.add(Rule::once(Which::Writes, second));
                let made = world.demi.open("new", &WRITER);
                // As it is at this moment.
                let left = Image::new(image.to_vec());
                let there = World::open(&left, &Options::new(1)).unwrap().demi.list().unwrap();
                let is_there = there.iter().any(|name| name.as_os_str() == "new");
                assert!(made.is_err() || is_there, "it would be lost: {first}, {turns}, {second}");
                refused += u32::from(made.is_err());
            }
        }
    }
    assert!(refused > 0, "no checkpoint was struck");
}

fn free(world: &World) -> u64 {
    let counters = world.demi.counters().unwrap();
    counters.libos.iter().find(|(name, _)| *name == "segments_free").unwrap().1
}

#[test]
fn devices_of_every_kind_take_elements_of_every_kind() {
    for (seed, (block, max_transfer)) in
        (0..).zip([(512, 2048), (512, 64 << 10), (4096, 16 << 10), (4096, 20 << 10), (65536, 256 << 10)])
    {
        for (depth, delay) in [(1, None), (2, Some(3)), (32, Some(5))] {
            let options = Options {
                block,
                max_transfer,
                segment: 16 * block,
                depth,
                delay,
                heap: 32,
                ..Options::new(seed)
            };
            let image = World::make(80 * 16 * block, &Options { delay: None, ..options.clone() });
            let world = World::open(&image, &options).unwrap();
            let before = free(&world);
            let log = world.demi.open("log", &WRITER).unwrap();
            let tail = world.demi.open("log", &READER).unwrap();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut left = 40 * 16 * block;
            let (mut pushed, mut tokens) = (Vec::new(), Vec::new());
            loop {
                let len = match rng.u8(..6) {
                    0 => 0,
                    1 => rng.usize(..200),
                    2 => rng.usize(..2 * block),
                    3 => block * rng.usize(1..4) - 48,
                    4 => block * rng.usize(1..9),
                    _ => rng.usize(..5 * 16 * block / 4),
                };
                let Some(rest) = left.checked_sub(len + 4 * block) else { break };
                left = rest;
                let element: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
                let mut sga = demi_api::sga::SgArray::new();
                let parts = rng.usize(1..=8);
                for part in element.chunks(len.div_ceil(parts).max(1)) {
                    world.demi.copy_from(part).unwrap().drain_to(|part| sga.push(part).unwrap());
                }
                let token = world.demi.push(log, sga).map_err(|refused| refused.error);
                tokens.push(token.unwrap_or_else(|error| panic!("{block} {max_transfer} {depth}: {error}")));
                pushed.push(element);
                if rng.u8(..4) == 0 {
                    world.turn();
                }
            }
            for element in &pushed {
                let pop = world.demi.pop(tail).unwrap();
                let popped = world.within(2000, pop).expect("a pop ends").popped().unwrap();
                assert!(popped.to_vec() == *element, "{block} {max_transfer} {depth}");
            }
            let mut end = 0;
            for token in tokens {
                end = world.within(2000, token).unwrap().pushed().unwrap().0;
            }
            // Nothing stays promised: what is not free is the log's.
            let last = (end + pushed.last().unwrap().len() as u64 + 4096) / (16 * block as u64) + 1;
            assert!(free(&world) + last >= before, "{} and {last} of {before}", free(&world));
            drop(world);
            let world = World::open(&image, &Options { delay: None, ..options }).unwrap();
            let log = world.demi.open("log", &READER).unwrap();
            for element in &pushed {
                let pop = world.demi.pop(log).unwrap();
                assert!(world.within(100, pop).unwrap().popped().unwrap().to_vec() == *element);
            }
        }
    }
}

#[test]
fn who_finds_no_memory_waits_for_what_is_with_the_device() {
    let options = Options { delay: Some(6), ..Options::new(1) };
    let world = World::open(&World::make(SIZE, &Options::new(1)), &options).unwrap();
    let [one, other] = ["one", "other"].map(|name| world.demi.open(name, &WRITER).unwrap());
    let element = world.demi.copy_from(&[1; 100]).unwrap();
    let first = start(&world, one, &[2; 6000]).unwrap();
    world.turn();
    let mut taken = Vec::new();
    for len in [1 << 20, 256 << 10, 64 << 10, 16 << 10, 4 << 10] {
        taken.extend(std::iter::from_fn(|| world.demi.alloc(len).ok()));
    }
    let second = world.demi.push(other, element).map_err(|refused| refused.error).unwrap();
    assert_eq!(world.take(first).map(|_| ()), None, "it is under way");
    world.within(200, second).unwrap().pushed().unwrap();
    world.within(200, first).unwrap().pushed().unwrap();
    drop(taken);
}
