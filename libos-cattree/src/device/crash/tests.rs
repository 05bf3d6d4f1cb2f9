use std::collections::BTreeSet;
use std::rc::Rc;

use demi_api::memalloc::{HeapConfig, HugePages};
use demi_api::time::Instant;
use demi_api::{Heap, SgArray};

use super::super::fault::{Fault, Rule, Rules, Which};
use super::super::mem::{Image, Mem, MemConfig, Shuffle};
use super::super::{BlockDevice, Command, DeviceCx, Request};
use super::*;

const UNIT: usize = 4;

/// The images of a cut, each unit by its first byte.
fn images(cuts: &mut Cuts, bound: &Bound) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    cuts.each(bound, |image, _| {
        let bytes = image.bytes();
        assert!(bytes.chunks(UNIT).all(|unit| unit.iter().all(|byte| *byte == unit[0])), "a unit is torn");
        all.insert(bytes.chunks(UNIT).map(|unit| unit[0]).collect());
    });
    all
}

fn write(id: u64, first: usize, units: usize, durable: bool) -> Event {
    let bytes = vec![id as u8 + 1; units * UNIT];
    Event::Write { id, offset: first * UNIT, bytes: bytes.into(), durable }
}

fn end(id: u64) -> Event {
    Event::End { id, outcome: Outcome::Done }
}

/// All images at each cut of a trace over `units` zeroes.
fn walk(units: usize, events: &[Event]) -> Vec<BTreeSet<Vec<u8>>> {
    let trace = Trace::default();
    events.iter().for_each(|event| trace.push(event.clone()));
    let mut cuts = Cuts::new(Image::new(vec![0; units * UNIT]), &trace, UNIT, 1);
    let bound = Bound { exhaustive: 1 << 12, samples: 0 };
    let mut all = vec![images(&mut cuts, &bound)];
    while cuts.advance() {
        all.push(images(&mut cuts, &bound));
    }
    all
}

fn set<const N: usize, const M: usize>(images: [[u8; N]; M]) -> BTreeSet<Vec<u8>> {
    images.into_iter().map(Vec::from).collect()
}

#[test]
fn a_write_is_there_in_any_part_until_it_is_durable() {
    let all = walk(3, &[write(0, 1, 2, true), end(0)]);
    assert_eq!(all[0], set([[0, 0, 0]]));
    assert_eq!(all[1], set([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]));
    assert_eq!(all[2], set([[0, 1, 1]]));
}

#[test]
fn a_flush_makes_durable_what_was_complete_when_it_was_submitted() {
    let events = [
        write(0, 0, 1, false),
        write(1, 1, 1, false),
        end(0),
        Event::Flush { id: 2 },
        end(1),
        end(2),
        Event::Flush { id: 3 },
        Event::End { id: 3, outcome: Outcome::Failed },
    ];
    let all = walk(2, &events);
    let any = set([[0, 0], [0, 2], [1, 0], [1, 2]]);
    assert_eq!(all[2..6], [any.clone(), any.clone(), any.clone(), any]);
    let rest = set([[1, 0], [1, 2]]);
    assert_eq!(all[6..], [rest.clone(), rest.clone(), rest]);
}

#[test]
fn what_failed_stays_in_doubt_until_it_is_overwritten_and_what_was_refused_is_not_there() {
    let failed = |id| Event::End { id, outcome: Outcome::Failed };
    let refused = Event::End { id: 1, outcome: Outcome::Refused };
    let all = walk(
        2,
        &[write(0, 0, 2, true), failed(0), write(1, 0, 2, true), refused, write(2, 1, 1, true), end(2)],
    );
    assert_eq!(all[4], set([[0, 0], [0, 1], [1, 0], [1, 1]]));
    assert_eq!(all[6], set([[0, 3], [1, 3]]));
}

#[test]
fn writes_under_way_together_come_in_any_order_and_one_after_the_other_in_theirs() {
    let last = |events: &[Event], pattern| {
        let trace = Trace::default();
        events.iter().for_each(|event| trace.push(event.clone()));
        let mut cuts = Cuts::new(Image::new(vec![0; UNIT]), &trace, UNIT, 1);
        while cuts.advance() {}
        [false, true].map(|reversed| {
            let mut byte = 0;
            cuts.with(Choice { pattern, reversed }, |image| byte = image.bytes()[0]);
            byte
        })
    };
    let together = [write(0, 0, 1, false), write(1, 0, 1, false), end(0), end(1)];
    assert_eq!(last(&together, Pattern::All), [2, 1]);
    let in_turn = [write(0, 0, 1, false), end(0), write(1, 0, 1, false), end(1)];
    assert_eq!(last(&in_turn, Pattern::All), [2, 2]);
    assert_eq!(last(&in_turn, Pattern::Only(0)), [1, 1]);
}

#[test]
fn what_is_discarded_is_zero_or_what_it_was() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let trace = Trace::default();
        for event in
            [write(0, 0, 2, true), end(0), Event::Discard { id: 1, offset: 0, len: 2 * UNIT }, end(1)]
        {
            trace.push(event);
        }
        let mut cuts = Cuts::new(Image::new(vec![0; 2 * UNIT]), &trace, UNIT, seed);
        (0..3).for_each(|_| assert!(cuts.advance()));
        let any = set([[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(images(&mut cuts, &Bound::default()), any);
        assert!(cuts.advance() && !cuts.advance());
        let certain = images(&mut cuts, &Bound::default());
        assert_eq!(certain.len(), 1);
        seen.extend(certain);
    }
    assert_eq!(seen.len(), 4);
}

/// What each unit can hold at the end of the trace, straight from the rules: the last write that is certain, or any that
/// is in doubt and had not completed before that one did.
fn oracle(units: usize, events: &[Event]) -> BTreeSet<Vec<u8>> {
    let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted);
    let ended = |id: u64| place(&|event| *event == end(id));
    let certain = |id: u64, durable: bool| {
        let Some(end) = ended(id) else { return false };
        durable
            || events
                .iter()
                .enumerate()
                .any(|(at, event)| matches!(event, Event::Flush { id } if at > end && ended(*id).is_some()))
    };
    let mut images = BTreeSet::from([Vec::new()]);
    for unit in 0..units {
        let mut over: Vec<(u64, bool)> = Vec::new();
        for event in events {
            if let Event::Write { id, offset, bytes, durable } = event
                && (*offset..offset + bytes.len()).contains(&(unit * UNIT))
            {
                over.push((*id, certain(*id, *durable)));
            }
        }
        let last = over.iter().filter(|(_, certain)| *certain).filter_map(|(id, _)| ended(*id)).max();
        let mut can_be = BTreeSet::new();
        if last.is_none() {
            can_be.insert(0);
        }
        for (id, _) in over {
            if last.is_none_or(|last| ended(id).is_none_or(|end| end >= last)) {
                can_be.insert(id as u8 + 1);
            }
        }
        images = images
            .iter()
            .flat_map(|image| can_be.iter().map(move |byte| [&image[..], &[*byte]].concat()))
            .collect();
    }
    images
}

#[test]
fn random_traces_leave_exactly_the_images_that_the_rules_allow() {
    const UNITS: usize = 5;
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut events, mut under_way) = (Vec::new(), Vec::new());
        for id in 0..6 {
            let flush = rng.u8(..4) == 0;
            let first = rng.usize(..UNITS);
            let units = rng.usize(1..=2.min(UNITS - first));
            events.push(if flush { Event::Flush { id } } else { write(id, first, units, rng.bool()) });
            under_way.push(id);
            while !under_way.is_empty() && rng.bool() {
                events.push(end(under_way.swap_remove(rng.usize(..under_way.len()))));
            }
        }
        for (cut, images) in walk(UNITS, &events).into_iter().enumerate() {
            assert_eq!(images, oracle(UNITS, &events[..cut]), "seed {seed}, {:?}", &events[..cut]);
        }
    }
}

#[test]
fn where_there_are_too_many_images_the_extremes_are_among_them() {
    let trace = Trace::default();
    trace.push(write(0, 0, 8, true));
    trace.push(write(1, 8, 8, true));
    trace.push(write(2, 4, 8, true));
    let mut cuts = Cuts::new(Image::new(vec![0; 16 * UNIT]), &trace, UNIT, 1);
    while cuts.advance() {}
    let seen = images(&mut cuts, &Bound { exhaustive: 64, samples: 10 });
    let image = |parts: [(u8, usize); 4]| -> Vec<u8> {
        parts.into_iter().flat_map(|(byte, count)| vec![byte; count]).collect()
    };
    for wanted in [
        image([(0, 16), (0, 0), (0, 0), (0, 0)]),
        image([(1, 4), (3, 8), (2, 4), (0, 0)]),
        image([(1, 8), (2, 8), (0, 0), (0, 0)]),
        image([(1, 8), (0, 8), (0, 0), (0, 0)]),
        image([(0, 4), (3, 8), (0, 4), (0, 0)]),
        image([(1, 4), (0, 12), (0, 0), (0, 0)]),
        image([(0, 4), (3, 8), (2, 4), (0, 0)]),
        image([(0, 1), (1, 3), (3, 8), (2, 4)]),
    ] {
        assert!(seen.contains(&wanted), "{wanted:?}");
    }
    assert!(seen.len() < 100, "{}", seen.len());
}

#[test]
fn a_recorded_device_is_cut_between_any_two_of_its_events() {
    let heap = Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
    let cx = DeviceCx { heap: &heap, now: Instant::default() };
    let config =
        MemConfig { size: 16 << 12, shuffle: Some(Shuffle { seed: 1, delay: 3 }), ..MemConfig::default() };
    let rules = Rules::new(1).with(Rule::once(Which::Writes, 5));
    let mem = Mem::new(&config).unwrap();
    let live = mem.image();
    let mut device = Recorder::new(Fault::new(mem, rules));
    let trace = device.trace();
    let mut done = Vec::new();
    for tag in 0..16 {
        let data = SgArray::copy_from(&heap, &[tag as u8 + 1; 4096]).unwrap();
        let command = Command::Write { offset: tag << 12, data, durable: true };
        device.submit(&cx, Request { tag, command }).unwrap();
        let into = heap.alloc(4096).unwrap();
        device.submit(&cx, Request { tag: 100, command: Command::Read { offset: 0, into } }).unwrap();
        device.poll(&cx, &mut done);
    }
    while done.len() < 32 {
        device.poll(&cx, &mut done);
    }
    assert_eq!(done.iter().filter(|completion| completion.tag < 16).count(), 16);
    assert_eq!(trace.len(), 32);
    assert_eq!(done.iter().find(|completion| completion.result.is_err()).unwrap().tag, 5);

    let mut cuts = Cuts::new(Image::new(vec![0; 16 << 12]), &trace, 512, 1);
    let mut count = 0;
    loop {
        let mut certain = Vec::new();
        for event in &trace.events()[..cuts.at()] {
            if let Event::End { id, outcome: Outcome::Done } = event {
                certain.push(*id as usize / 2);
            }
        }
        count += cuts.each(&Bound::default(), |image, _| {
            for block in &certain {
                assert!(
                    image.bytes()[block << 12..][..4096].iter().all(|byte| usize::from(*byte) == block + 1)
                );
            }
        });
        if !cuts.advance() {
            break;
        }
    }
    assert!(count > 300, "{count}");
    cuts.with(Choice { pattern: Pattern::None, reversed: false }, |image| {
        assert!(*image.bytes() == *live.bytes());
    });
}

#[test]
fn images_within_images_are_taken_back() {
    let trace = Trace::default();
    trace.push(write(0, 0, 4, true));
    let inner = Trace::default();
    inner.push(write(7, 2, 4, true));
    inner.push(end(7));
    let mut cuts = Cuts::new(Image::new(vec![0; 8 * UNIT]), &trace, UNIT, 1);
    cuts.advance();
    let bytes: Rc<[u8]> = vec![9; UNIT].into();
    cuts.each(&Bound::default(), |image, _| {
        let before = image.to_vec();
        let mark = image.mark();
        let mut nested = Cuts::new(image.clone(), &inner, UNIT, 1);
        while nested.advance() {
            nested.each(&Bound::default(), |image, _| image.write(7 * UNIT, &bytes));
        }
        image.rewind(mark);
        assert_eq!(image.to_vec(), before);
    });
}
