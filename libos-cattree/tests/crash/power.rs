//! Loss of power at every point.

use std::cell::Cell;

use demi_libos_cattree::device::crash::{Bound, Cuts, Event};
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
    /// Every so many images are used further, and cut again.
    nested: usize,
}

impl Plan {
    fn new(seed: u64) -> Plan {
        Plan {
            size: 512 << 10,
            options: Options { delay: Some(seed % 4), ..Options::new(seed) },
            habits: Habits::default(),
            steps: 60,
            bound: Bound { exhaustive: 8, samples: 4 },
            nested: 199,
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
        let (images, reopened) = (Cell::new(0), Options::new(seed));
        loop {
            let at = cuts.at();
            cuts.each(&self.bound, |image, _| {
                images.set(images.get() + 1);
                let found = look(image, &reopened, images.get() % self.nested == 0);
                if let Err(why) = model.check(at, &found) {
                    tell(&model, &trace.events());
                    panic!("{why}");
                }
            });
            if !cuts.advance() {
                break;
            }
        }
        images.get()
    }
}

/// Shows what was asked for and what happened at the device.
fn tell(model: &Model, events: &[Event]) {
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
    let mut app = App::new(world, Model::of(&found), Habits::default(), options.seed);
    app.append_to_all(&found).unwrap();
    app.run(20);
    let App { world, model, .. } = app;
    drop(world);
    image.rewind(again);
    let again = image.mark();
    let mut cuts = Cuts::new(image.clone(), &trace, 512, options.seed);
    while cuts.advance() {
        let at = cuts.at();
        if cuts.is_last_doubt() {
            cuts.each(&Bound { exhaustive: 4, samples: 1 }, |image, _| {
                if let Err(why) = model.check(at, &look(image, options, false)) {
                    panic!("after the second loss: {why}");
                }
            });
        }
    }
    image.rewind(again);
    found
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power_at_any_point() {
    let seeds = std::env::var("DEMI_SEEDS").map_or(3, |seeds| seeds.parse().expect("a number"));
    let first = std::env::var("DEMI_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    for seed in first..first + seeds {
        let images = Plan::new(seed).carry_out();
        println!("seed {seed}: {images} images");
        assert!(images > 100);
    }
}
