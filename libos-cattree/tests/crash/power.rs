//! Loss of power at every point.

use demi_api::error::Error;
use demi_libos_cattree::device::crash::{Bound, Cuts, Event};
use demi_libos_cattree::device::fault::{Rule, Rules};
use demi_libos_cattree::device::mem::Image;

use crate::app::{App, Habits};
use crate::model::{Found, Model};
use crate::reference;
use crate::world::{Options, World};

/// A run that is recorded, and then cut everywhere.
#[derive(Clone, Debug)]
struct Plan {
    size: usize,
    options: Options,
    habits: Habits,
    steps: usize,
    bound: Bound,
    /// Of the cuts, so many are left out for each that is made; 0: cut between any two events, not only where there
    /// is most in doubt.
    skipped: usize,
    /// Every so many images are used further, and cut again.
    nested: usize,
}

impl Plan {
    fn new(seed: u64) -> Plan {
        Plan {
            size: 512 << 10,
            options: Options { delay: Some(seed % 4), heap: 8, ..Options::new(seed) },
            habits: Habits::DEFAULT,
            steps: 60,
            bound: Bound { exhaustive: 8, samples: 4 },
            skipped: 0,
            nested: 800,
        }
    }

    /// Runs and cuts; returns how many images were tried.
    fn carry_out(&self) -> usize {
        println!("{self:?}");
        let seed = self.options.seed;
        let image = World::make(self.size, &self.options);
        let before = Image::new(image.to_vec());
        let world = World::open(&image, &self.options).unwrap();
        let trace = world.trace.clone();
        let mut app = App::new(world, Model::default(), self.habits, seed);
        app.run(self.steps);
        let App { world, model, .. } = app;
        drop(world);

        let mut cuts = Cuts::new(before, &trace, 512, seed);
        let reopened = Options { delay: None, heap: 2, rules: Rules::new(seed), ..self.options.clone() };
        let mut images = 0;
        let mut rng = fastrand::Rng::with_seed(seed);
        loop {
            let at = cuts.at();
            let mut test = |image: &Image| {
                images += 1;
                let found = look(image, &reopened, images % self.nested == self.nested / 8);
                if let Err(why) = model.check(at, &found) {
                    tell(&model, &trace.events());
                    panic!("{why}");
                }
            };
            if self.skipped == 0 || cuts.is_last_doubt() && rng.usize(..=self.skipped) == 0 {
                cuts.each(&self.bound, |image, _| test(image));
            }
            if !cuts.advance() {
                return images;
            }
        }
    }
}

/// Shows what was asked for and what happened at the device.
pub(crate) fn tell(model: &Model, events: &[Event]) {
    println!("{model}");
    for (place, event) in events.iter().enumerate() {
        match event {
            Event::Write { id, offset, bytes, durable } => {
                println!("{place}: write {id} of {} bytes at {offset}, durable: {durable}", bytes.len());
            }
            other => println!("{place}: {other:?}"),
        }
    }
}

/// What is found on an image that lost its power, which must be as good as any other.
fn look(image: &Image, options: &Options, further: bool) -> Found {
    let again = image.mark();
    let expected = reference::read(&image.bytes()).unwrap();
    let world = World::open(image, options).unwrap();
    let trace = world.trace.clone();
    let found = world.read_all().unwrap();
    for (name, elements) in &found {
        let expected = &expected[name];
        assert_eq!(elements.len(), expected.len(), "{name} for another reader");
        assert!(elements.iter().zip(expected).all(|(element, (_, other))| element[..] == other[..]));
    }
    if !further {
        drop(world);
        image.rewind(again);
        return found;
    }
    let mut app = App::new(world, Model::of(&found), Habits::DEFAULT, options.seed);
    app.append_to_all(&found).unwrap();
    app.run(10);
    let App { world, model, .. } = app;
    drop(world);
    image.rewind(again);
    let again = image.mark();
    let mut cuts = Cuts::new(image.clone(), &trace, 512, options.seed);
    while cuts.advance() {
        let at = cuts.at();
        if cuts.is_last_doubt() {
            cuts.each(&Bound { exhaustive: 2, samples: 1 }, |image, _| {
                if let Err(why) = model.check(at, &look(image, options, false)) {
                    panic!("after the second loss: {why}");
                }
            });
        }
    }
    image.rewind(again);
    found
}

/// The seeds to run with: `usual` ones, or what the environment says.
pub(crate) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |number| number.parse().expect("a number in the environment"))
    };
    let first = number("DEMI_SEED", 0);
    first..first + number("DEMI_SEEDS", usual)
}

fn carry_out(seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan) {
    for seed in seeds {
        let images = plan(seed).carry_out();
        println!("seed {seed}: {images} images");
        assert!(images > 50, "{images}");
    }
}

/// A process dies with writes in the device's memory, the next one finds them there, and then the power fails: what
/// has been found once is there for good.
#[test]
fn what_a_process_has_found_survives_the_next_loss_of_power() {
    let mut found_more = 0;
    for seed in seeds(6) {
        println!("seed {seed}");
        let options = Options { delay: Some(seed % 4), heap: 8, ..Options::new(seed) };
        let image = World::make(256 << 10, &options);
        let before = Image::new(image.to_vec());
        let world = World::open(&image, &options).unwrap();
        let trace = world.trace.clone();
        let mut app = App::new(world, Model::default(), Habits { flush: 1, ..Habits::DEFAULT }, seed);
        app.run(40);
        // What a process that is gone no longer asks for does not happen.
        options.rules.add(Rule { error: Error::ReadOnly, ..Rule::dead(0) });
        let App { world, model, .. } = app;
        drop(world);

        let reopened = Options::new(seed);
        let world = World::open_onto(&image, &reopened, trace.clone()).unwrap();
        let opened = trace.len();
        let found = world.read_all().unwrap();
        model.check(opened, &found).unwrap();
        let mut app = App::new(world, Model::of(&found), Habits::DEFAULT, seed);
        app.append_to_all(&found).unwrap();
        let App { world, model: after, .. } = app;
        drop(world);

        let mut cuts = Cuts::new(before, &trace, 512, seed);
        while cuts.advance() {
            let at = cuts.at();
            let expected = if at < opened { &model } else { &after };
            if cuts.is_last_doubt() && at + 20 > opened {
                cuts.each(&Bound { exhaustive: 4, samples: 2 }, |image, _| {
                    let again = look(image, &reopened, false);
                    if let Err(why) = expected.check(at, &again) {
                        tell(expected, &trace.events());
                        panic!("seed {seed}, opened again after {opened} events: {why}");
                    }
                    found_more += usize::from(at < opened && again != found);
                });
            }
        }
    }
    assert!(found_more > 0, "nothing that was found was in doubt");
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power_at_any_point() {
    carry_out(seeds(3), Plan::new);
}

#[test]
fn it_does_where_segments_are_used_again_and_again() {
    carry_out(seeds(2), |seed| Plan {
        size: 192 << 10,
        habits: Habits { discard: 15, truncate: 5, logs: 2, len: 2500, ..Habits::DEFAULT },
        steps: 120,
        bound: Bound { exhaustive: 4, samples: 2 },
        skipped: 1,
        ..Plan::new(seed)
    });
}

#[test]
fn it_does_where_checkpoints_set_only_a_part_aside() {
    carry_out(seeds(2), |seed| Plan {
        size: 900 << 10,
        habits: Habits { push: 80, discard: 1, len: 6000, ..Habits::DEFAULT },
        steps: 150,
        bound: Bound { exhaustive: 2, samples: 1 },
        skipped: 9,
        ..Plan::new(seed)
    });
}

#[test]
fn it_does_in_large_blocks() {
    carry_out(seeds(2), |seed| Plan {
        size: 2 << 20,
        options: Options { block: 4096, segment: 64 << 10, ..Plan::new(seed).options },
        habits: Habits { len: 20_000, ..Habits::DEFAULT },
        bound: Bound { exhaustive: 2, samples: 1 },
        skipped: 3,
        ..Plan::new(seed)
    });
}
