//! Damage to what was not being written: a bit turned, a block lost, anywhere in an image.

use demi_libos_cattree::device::mem::Image;

use crate::app::{App, Habits};
use crate::model::{Element, Model};
use crate::power::seeds;
use crate::world::{Options, World};

const SIZE: usize = 256 << 10;
const HABITS: Habits = Habits { unlink: 0, truncate: 1, ..Habits::DEFAULT };

/// Something that happens to a block.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit(usize),
    Zeroes,
    Noise(u64),
    /// It holds what another should.
    Copy(usize),
}

impl Damage {
    fn strike(self, image: &Image, block: usize) {
        let from = match self {
            Damage::Copy(other) => image.bytes()[other * 512..][..512].to_vec(),
            _ => vec![0; 512],
        };
        image.edit(block * 512..(block + 1) * 512, |bytes| match self {
            Damage::Bit(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Damage::Zeroes | Damage::Copy(_) => bytes.copy_from_slice(&from),
            Damage::Noise(seed) => fastrand::Rng::with_seed(seed).fill(bytes),
        });
    }
}

/// What became of a damaged image.
#[derive(Debug, Default)]
struct Outcomes {
    refused: usize,
    damaged: usize,
    harmless: usize,
    shortened: usize,
}

/// Strikes every block, one at a time. What is read was pushed, in its place; what is missing is reported, but for
/// elements behind which nothing was pushed after they were acknowledged.
fn strike_everywhere(seed: u64, closed: bool) -> Outcomes {
    let image = World::make(SIZE, &Options::new(seed));
    let options = Options { delay: Some(seed % 3), ..Options::new(seed) };
    let world = World::open(&image, &options).unwrap();
    let mut app = App::new(world, Model::default(), HABITS, seed);
    app.run(120);
    app.settle();
    let App { world, model, .. } = app;
    if !closed {
        // As it is when the process is gone: what closing writes comes to an image that nobody looks at.
        let left = image.to_vec();
        drop(world);
        image.edit(0..left.len(), |bytes| bytes.copy_from_slice(&left));
    } else {
        drop(world);
    }
    let mut outcomes = Outcomes::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    for block in 0..image.len() / 512 {
        let bit = rng.usize(..4096);
        let kinds =
            [Damage::Bit(bit), Damage::Zeroes, Damage::Noise(seed), Damage::Copy(rng.usize(..SIZE / 512))];
        let blank = image.bytes()[block * 512..][..512].iter().all(|byte| *byte == 0);
        for damage in kinds.into_iter().take(if blank { 1 } else { 4 }) {
            let mark = image.mark();
            damage.strike(&image, block);
            look(&image, &model, closed, &mut outcomes).unwrap_or_else(|why| {
                panic!("{damage:?} in block {block}, seed {seed}, closed: {closed}: {why}")
            });
            image.rewind(mark);
        }
    }
    outcomes
}

fn look(image: &Image, model: &Model, closed: bool, outcomes: &mut Outcomes) -> Result<(), String> {
    let Ok(world) = World::open(image, &Options::new(1)) else {
        outcomes.refused += 1;
        return Ok(());
    };
    let (mut damaged, mut shortened) = (false, false);
    let logs = model.logs();
    let names: Vec<String> =
        world.demi.list().unwrap().iter().map(|path| path.to_string_lossy().into_owned()).collect();
    if !logs.keys().eq(&names) {
        return Err(format!("logs {names:?}"));
    }
    for (name, log) in &logs {
        let (elements, error) = world.read_log(name).map_err(|error| error.to_string())?;
        let there =
            |(place, element): (usize, &Element)| log.get(place).is_some_and(|push| push.element == *element);
        if !elements.iter().enumerate().all(there) {
            return Err(format!("{name} holds what was not pushed there"));
        }
        damaged |= error.is_some();
        // When something was pushed for the last time.
        let last = log.iter().map(|push| push.asked).max().unwrap_or(0);
        let missing = log[elements.len()..].iter();
        if error.is_none() && missing.clone().count() > 0 {
            shortened = true;
            if closed {
                return Err(format!("{name} has lost elements without a word, although it was closed"));
            }
            let known = missing.filter(|push| push.done <= last).count();
            if known > 0 {
                return Err(format!(
                    "{name} has lost {known} elements without a word, with others behind them"
                ));
            }
        }
    }
    match (damaged, shortened) {
        (true, _) => outcomes.damaged += 1,
        (_, true) => outcomes.shortened += 1,
        _ => outcomes.harmless += 1,
    }
    Ok(())
}

#[test]
fn damage_to_a_closed_image_is_reported_or_harmless() {
    for seed in seeds(1) {
        let outcomes = strike_everywhere(seed, true);
        println!("seed {seed}: {outcomes:?}");
        assert!(outcomes.refused > 0 && outcomes.damaged > 10 && outcomes.harmless > 10);
        assert_eq!(outcomes.shortened, 0);
    }
}

#[test]
fn damage_to_an_image_that_was_left_costs_at_most_the_last_batches_without_a_word() {
    for seed in seeds(2) {
        let outcomes = strike_everywhere(seed, false);
        println!("seed {seed}: {outcomes:?}");
        assert!(outcomes.refused > 0 && outcomes.damaged > 10 && outcomes.harmless > 10);
    }
}
