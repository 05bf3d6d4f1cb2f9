//! Requests that fail: each of a run, once, whatever was done of it; and devices that go on failing.

use demi_libos_cattree::device::crash::{Bound, Cuts};
use demi_libos_cattree::device::fault::{Portion, Rule, Rules, Which};
use demi_libos_cattree::device::mem::Image;

use crate::app::{App, Habits};
use crate::model::{Found, Model};
use crate::power::{seeds, tell};
use crate::world::{Options, World};

const SIZE: usize = 384 << 10;
const HABITS: Habits = Habits { truncate: 5, reopen: 4, ..Habits::DEFAULT };

/// Runs on a device with these rules, which go then; what is left must be in order, with or without a loss of power.
/// Returns how many requests there were, and how many failed.
fn endure(seed: u64, rules: &Rules) -> (u64, u64) {
    let image = World::make(SIZE, &Options::new(seed));
    let before = Image::new(image.to_vec());
    let options = Options { delay: Some(seed % 3), rules: rules.clone(), ..Options::new(seed) };
    let Ok(world) = World::open(&image, &options) else {
        rules.clear();
        assert_eq!(World::open(&image, &Options::new(seed)).unwrap().read_all().unwrap(), Found::new());
        return (rules.seen(), rules.struck());
    };
    let trace = world.trace.clone();
    let mut app = App::new(world, Model::default(), HABITS, seed);
    app.run(40);
    app.settle();
    let App { world, model, .. } = app;
    drop(world);
    let counts = (rules.seen(), rules.struck());

    let reopened = Options::new(seed);
    let check = |image: &Image, at: usize, when: &str| {
        let mark = image.mark();
        let world = World::open(image, &reopened).unwrap();
        let found = world.read_all().unwrap();
        let mut app = App::new(world, Model::of(&found), HABITS, seed);
        app.append_to_all(&found).unwrap();
        drop(app);
        image.rewind(mark);
        if let Err(why) = model.check(at, &found) {
            tell(&model, &trace.events());
            panic!("{when}: {why}");
        }
    };
    check(&image, trace.len(), "without a loss of power");
    let mut cuts = Cuts::new(before, &trace, 512, seed);
    let mut struck = false;
    while cuts.advance() {
        struck |= cuts.has_failed();
        // Before the first failure it is a run as any other.
        if struck && (cuts.is_last_doubt() || cuts.at() == trace.len()) {
            let at = cuts.at();
            cuts.each(&Bound { exhaustive: 2, samples: 1 }, |image, _| {
                check(image, at, "after a loss of power")
            });
        }
    }
    counts
}

#[test]
fn every_request_may_fail() {
    for seed in seeds(1) {
        let requests = endure(seed, &Rules::new(seed)).0;
        assert!(requests > 40, "{requests}");
        for number in 0..requests {
            // Which request meets which portion changes with the seed.
            let portions = [Portion::Nothing, Portion::Part, Portion::All];
            let portion = portions[((number + seed) % 3) as usize];
            println!("request {number} of {requests}, {portion:?}, seed {seed}");
            let rules = Rules::new(seed).with(Rule::once(Which::Any, number).doing(portion));
            // What fails changes what comes after it, but not what came before.
            assert_eq!(endure(seed, &rules).1, 1);
        }
    }
}

#[test]
fn a_device_may_die_become_read_only_or_fill_up_at_any_request() {
    for seed in seeds(1) {
        let requests = endure(seed, &Rules::new(seed)).0;
        for number in (0..requests).step_by(6) {
            for rule in [
                Rule::dead(number),
                Rule::dead(number).doing(Portion::Part),
                Rule::read_only(number / 2),
                Rule::full(number / 2, 3),
            ] {
                println!("{rule:?}, seed {seed}");
                endure(seed, &Rules::new(seed).with(rule));
            }
        }
    }
}

#[test]
fn requests_may_fail_by_chance() {
    for seed in seeds(6) {
        for chance in [0.02, 0.2] {
            println!("{chance} of all, seed {seed}");
            let rule = Rule::chance(Which::Any, chance).doing(Portion::Part);
            endure(seed, &Rules::new(seed).with(rule));
        }
    }
}
