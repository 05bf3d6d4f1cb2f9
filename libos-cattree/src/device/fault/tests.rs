use demi_api::Heap;
use demi_api::memalloc::{HeapConfig, HugePages};

use super::super::mem::{Image, Mem, MemConfig};
use super::*;

const BLOCK: usize = 4096;

struct World {
    heap: Heap,
    device: Fault<Mem>,
    image: Image,
    now: Instant,
}

impl World {
    fn new(rules: &Rules, delay: Duration, jitter: Duration) -> World {
        let heap =
            Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
        let config = MemConfig { size: 16 * BLOCK, depth: 8, ..MemConfig::default() };
        let mem = Mem::new(&config).unwrap();
        let image = mem.image();
        World { heap, device: Fault::late(mem, rules.clone(), delay, jitter), image, now: Instant::default() }
    }

    fn submit(&mut self, tag: u64, command: Command) -> Result<(), Request> {
        let cx = DeviceCx { heap: &self.heap, now: self.now };
        self.device.submit(&cx, Request { tag, command })
    }

    fn poll(&mut self) -> Vec<Completion> {
        let cx = DeviceCx { heap: &self.heap, now: self.now };
        let mut done = Vec::new();
        self.device.poll(&cx, &mut done);
        done
    }

    fn write(&self, block: u64, byte: u8, blocks: usize) -> Command {
        let data = SgArray::copy_from(&self.heap, &vec![byte; blocks * BLOCK]).unwrap();
        Command::Write { offset: block * BLOCK as u64, data, durable: true }
    }

    fn read(&self) -> Command {
        Command::Read { offset: 0, into: self.heap.alloc(BLOCK).unwrap() }
    }

    /// Runs one request; whether it failed, and with what.
    fn run(&mut self, command: Command) -> Result<(), Error> {
        self.submit(77, command).unwrap();
        let mut done = self.poll();
        assert_eq!((done.len(), done[0].tag), (1, 77));
        done.remove(0).result
    }
}

fn at_once(rules: &Rules) -> World {
    World::new(rules, Duration::ZERO, Duration::ZERO)
}

#[test]
fn the_nth_request_of_a_kind_fails_and_changes_nothing() {
    let rules = Rules::new(1).with(Rule::once(Which::Writes, 2));
    let mut world = at_once(&rules);
    for number in 0..5 {
        let write = world.write(number, 9, 1);
        let expected = if number == 2 { Err(Error::Io) } else { Ok(()) };
        assert_eq!(world.run(write), expected);
        let read = world.read();
        assert_eq!(world.run(read), Ok(()));
        let block = number as usize * BLOCK;
        assert_eq!(world.image.bytes()[block], if number == 2 { 0 } else { 9 });
    }
    assert_eq!((rules.seen(), rules.struck()), (10, 1));
}

#[test]
fn a_device_dies_fills_up_and_becomes_read_only() {
    let commands = |world: &World| {
        [world.write(0, 1, 1), world.read(), Command::Flush, Command::Discard { offset: 0, len: 4096 }]
    };
    let outcome = |rule: Rule| {
        let mut world = at_once(&Rules::new(1).with(rule));
        let all: Vec<Command> = (0..2).flat_map(|_| commands(&world)).collect();
        all.into_iter().map(|command| world.run(command)).collect::<Vec<_>>()
    };
    let (ok, io) = (Ok(()), Err(Error::Io));
    let mut dead = vec![ok.clone(); 3];
    dead.resize(8, io);
    assert_eq!(outcome(Rule::dead(3)), dead);
    let mut full = vec![ok.clone(); 8];
    full[4] = Err(Error::NoSpace);
    assert_eq!(outcome(Rule::full(1, 3)), full);
    let mut read_only = vec![ok; 8];
    for place in [3, 4, 7] {
        read_only[place] = Err(Error::ReadOnly);
    }
    assert_eq!(outcome(Rule::read_only(1)), read_only);
}

#[test]
fn a_write_that_fails_gives_its_buffers_back_whatever_was_done_of_it() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        for portion in [Portion::Nothing, Portion::Part, Portion::All] {
            let rules = Rules::new(seed).with(Rule::once(Which::Any, 0).doing(portion));
            let mut world = at_once(&rules);
            let write = world.write(1, 7, 4);
            world.submit(5, write).unwrap();
            let done = world.poll();
            assert_eq!(done[0].result, Err(Error::Io));
            let Buffers::Written(data) = &done[0].buffers else { panic!("{done:?}") };
            assert!(*data == [7; 4 * BLOCK][..]);
            let bytes = world.image.to_vec();
            let blocks: Vec<u8> = bytes.chunks(BLOCK).map(|block| block[0]).collect();
            assert!(bytes.chunks(BLOCK).zip(&blocks).all(|(block, byte)| block.iter().all(|b| b == byte)));
            match portion {
                Portion::Nothing => assert_eq!(blocks, [0; 16]),
                Portion::All => assert_eq!(blocks[..6], [0, 7, 7, 7, 7, 0]),
                Portion::Part => drop(seen.insert(blocks[1..5].to_vec())),
            }
        }
    }
    // None, all, and three of each end.
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[test]
fn chance_is_repeated_by_its_seed() {
    let outcome = |seed| {
        let mut world = at_once(&Rules::new(seed).with(Rule::chance(Which::Any, 0.3)));
        (0..100).map(|_| world.run(Command::Flush).is_err()).collect::<Vec<_>>()
    };
    assert_eq!(outcome(1), outcome(1));
    assert_ne!(outcome(1), outcome(2));
    let failed = outcome(3).into_iter().filter(|failed| *failed).count();
    assert!((15..45).contains(&failed), "{failed}");
}

#[test]
fn late_completions_come_once_when_they_are_due() {
    let (delay, jitter) = (Duration::from_micros(10), Duration::from_micros(5));
    let mut world = World::new(&Rules::new(4).with(Rule::once(Which::Any, 1)), delay, jitter);
    for tag in 0..8 {
        let write = world.write(tag, 1, 1);
        world.submit(tag, write).unwrap();
    }
    assert_eq!(world.submit(8, Command::Flush).unwrap_err().tag, 8);
    let mut tags = Vec::new();
    for _ in 0..100 {
        tags.extend(world.poll().into_iter().map(|completion| completion.tag));
        let cx = DeviceCx { heap: &world.heap, now: world.now };
        assert!(world.device.arm(&cx));
        let Some(next) = world.device.next_deadline() else { break };
        assert!(next > world.now && next - Instant::default() <= delay + jitter);
        world.now = next;
    }
    assert_ne!(tags, (0..8).collect::<Vec<_>>());
    tags.sort_unstable();
    assert_eq!(tags, (0..8).collect::<Vec<_>>());
    world.submit(8, Command::Flush).unwrap();
}

#[test]
fn rules_are_changed_while_the_device_is_in_use() {
    let rules = Rules::new(1);
    let mut world = at_once(&rules);
    assert_eq!(world.run(Command::Flush), Ok(()));
    rules.add(Rule::dead(1));
    assert_eq!(world.run(Command::Flush), Ok(()));
    assert_eq!(world.run(Command::Flush), Err(Error::Io));
    rules.clear();
    assert_eq!(world.run(Command::Flush), Ok(()));
}
