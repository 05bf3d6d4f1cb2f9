//! Images of logs, of which somebody has changed something and made the checksums right again.

use std::cell::OnceCell;
use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::libos::{OpenOptions, SeekTo};
use demi_api::op::{Completion, Position};
use demi_api::time::{Clock, Instant};
use demi_api::token::QToken;
use demi_libos_cattree::device::mem::{Image, Mem, MemConfig};
use demi_libos_cattree::{Cattree, CattreeSection};

use super::input::Input;

const SIZE: usize = 160 << 10;
const BLOCK: usize = 512;
const SEGMENT: usize = 8192;
/// Bytes of a record's header.
const HEADER: usize = 48;
/// Most changes to an image.
const CHANGES: usize = 24;
/// Most elements that are read of a log.
const ELEMENTS: usize = 300;
/// Polls after which whatever was asked of a device in memory is done.
const TURNS: usize = 64;

thread_local! {
    /// One that was closed, and the same as it was left before.
    static BASES: OnceCell<[Vec<u8>; 2]> = const { OnceCell::new() };
}

/// An image is refused, or opened; one that was opened is read, written to, cut, and opened again.
pub fn image(data: &[u8]) {
    let mut input = Input::new(data);
    let which = usize::from(input.byte() & 1);
    let mut bytes = BASES.with(|bases| bases.get_or_init(bases_of).clone())[which].clone();
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        change(&mut bytes, &mut input);
    }
    let image = Image::new(bytes);
    let Ok(demi) = open(&image, false) else { return };
    use_all(&demi);
    drop(demi);
    let demi =
        open(&image, false).expect("what was opened once, and written by us alone since, is opened again");
    use_all(&demi);
}

fn open(image: &Image, make: bool) -> Result<Demikernel<Cattree>, Error> {
    let text = format!(
        "[heap]\nsize_mib = 2\nlock = false\nhuge_pages = \"never\"\n\
         [cattree]\nmake = {make}\nblock_size = {BLOCK}\nsegment_size = {SEGMENT}\nzero_copy_threshold = 2048\n"
    );
    let config = Config::parse(&text, "fuzz")?;
    let section = CattreeSection::load(&config)?;
    let device = Mem::over(image.clone(), &MemConfig { block_size: BLOCK, ..MemConfig::default() })?;
    let clock = Clock::manual(Instant::from_nanos(1));
    Demikernel::assemble(&config, clock, fastrand::Rng::with_seed(1), |setup, rng| {
        Cattree::over(&setup, &section, Box::new(device), rng)
    })
}

fn bases_of() -> [Vec<u8>; 2] {
    let image = Image::new(vec![0; SIZE]);
    let demi = open(&image, true).expect("an image is made");
    for (name, lens) in
        [("empty", &[][..]), ("small", &[0, 1, 100, 500, 8, 3000]), ("long", &[20_000, 5, 9000, 700])]
    {
        let log = demi.open(name, &writer()).expect("a log is made");
        for (number, len) in lens.iter().enumerate() {
            let element = demi.copy_from(&vec![number as u8; *len]).expect("there is memory");
            let push = demi.push(log, element).expect("there is space");
            let position = finish(&demi, push).expect("it ends").pushed().expect("it succeeds");
            if number == 2 {
                demi.discard(log, position).expect("it is the position of an element");
            }
        }
    }
    let left = image.to_vec();
    drop(demi);
    [image.to_vec(), left]
}

fn writer() -> OpenOptions {
    OpenOptions { create: true, durable: true, ..OpenOptions::default() }
}

fn finish(demi: &Demikernel<Cattree>, token: QToken) -> Option<Completion> {
    (0..TURNS).find_map(|_| demi.wait(token, Some(Duration::ZERO)).ok())
}

/// Whatever can be done to logs. Errors are allowed, and ends.
fn use_all(demi: &Demikernel<Cattree>) {
    let names = demi.list().expect("logs are listed without the device");
    for name in &names {
        let Ok(log) = demi.open(name, &OpenOptions { create: false, ..writer() }) else { continue };
        for _ in 0..ELEMENTS {
            let Ok(pop) = demi.pop(log) else { break };
            match finish(demi, pop).map(Completion::popped) {
                Some(Ok(element)) => assert!(element.len() <= SIZE),
                Some(Err(_)) => break,
                None => {
                    // There is no more: it waits for a push.
                    demi.cancel(pop).expect("a pop that waits is recalled");
                    break;
                }
            }
        }
        let push = demi.copy_from(&[7; 600]).ok().and_then(|element| demi.push(log, element).ok());
        let pushed = push.map(|push| finish(demi, push).expect("a push ends").pushed());
        if let Some(Ok(position)) = pushed {
            assert_eq!(demi.seek(log, SeekTo::Position(position)), Ok(position));
            let pop = demi.pop(log).expect("a log is popped from");
            let element = finish(demi, pop).expect("the element is there").popped().expect("it is sound");
            assert!(element == [7; 600][..]);
            let _refused = demi.discard(log, Position(position.0 / 2 / 8 * 8));
            let _refused = demi.truncate(log, position);
        }
        demi.close(log).expect("it is open");
    }
    if let [first, .., last] = &names[..] {
        let _refused = demi.unlink(first);
        let _refused = demi.open(last, &OpenOptions { truncate: true, ..writer() });
    }
    let _refused = demi.open("new", &writer());
}

/// Changes something, as the input says, and makes the checksums over it right.
fn change(bytes: &mut [u8], input: &mut Input<'_>) {
    let area = word(bytes, 24).clamp(1, 60) as usize * BLOCK;
    match input.byte() % 6 {
        0 => {
            let at = input.word() as usize % bytes.len();
            put(bytes, at, input);
        }
        1 => {
            let slot = usize::from(input.byte() & 1) * BLOCK;
            put(bytes, slot + usize::from(input.byte()) % 124, input);
            let sum = crc32c::crc32c(&bytes[slot..slot + 124]);
            bytes[slot + 124..slot + 128].copy_from_slice(&sum.to_le_bytes());
        }
        2 => {
            let start = 2 * BLOCK + usize::from(input.byte() & 1) * area;
            let len = (word(bytes, start + 12) as usize).clamp(64, area);
            put(bytes, start + usize::from(input.half()) % len, input);
            let len = (word(bytes, start + 12) as usize).clamp(64, area);
            let sum = crc32c::crc32c_append(seed(bytes), &bytes[start + 12..start + len]);
            bytes[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
        }
        kind @ (3 | 4) => {
            let places = records(bytes, 2 * BLOCK + 2 * area);
            let Some(at) = places.get(usize::from(input.byte()) % places.len().max(1)).copied() else {
                return;
            };
            let within = if kind == 3 { HEADER } else { HEADER + word(bytes, at + 4) as usize };
            put(bytes, at + usize::from(input.half()) % within, input);
            seal(bytes, at, seed(bytes));
        }
        _ => {
            let (from, to) = (usize::from(input.half()), usize::from(input.half()));
            let (from, to) = (from % (SIZE / BLOCK) * BLOCK, to % (SIZE / BLOCK) * BLOCK);
            bytes.copy_within(from..from + BLOCK, to);
        }
    }
}

/// Overwrites as many bytes as the input says.
fn put(bytes: &mut [u8], at: usize, input: &mut Input<'_>) {
    let run = input.run();
    let end = (at + run.len()).min(bytes.len());
    bytes[at..end].copy_from_slice(&run[..end - at]);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

/// What all checksums but the superblock's begin with.
fn seed(bytes: &[u8]) -> u32 {
    crc32c::crc32c(&bytes[40..56])
}

/// Where there is something like a record.
fn records(bytes: &[u8], first: usize) -> Vec<usize> {
    let is_record = |at: &usize| {
        let offset = (at - first) % SEGMENT;
        (1..=5).contains(&bytes[at + 40])
            && word(bytes, at + 24) as usize == offset
            && offset + HEADER + word(bytes, at + 4) as usize <= SEGMENT
    };
    (first..bytes.len().saturating_sub(SEGMENT)).step_by(8).filter(is_record).collect()
}

fn seal(bytes: &mut [u8], at: usize, seed: u32) {
    let lead = usize::from(u16::from_le_bytes([bytes[at + 42], bytes[at + 43]]));
    let payload = at + HEADER + lead;
    let end = payload.saturating_add(word(bytes, at + 4) as usize).min(bytes.len());
    if let Some(payload) = bytes.get(payload..end) {
        let sum = crc32c::crc32c_append(seed, payload);
        bytes[at + 44..at + 48].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc32c::crc32c_append(seed, &bytes[at + 4..at + HEADER]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}
