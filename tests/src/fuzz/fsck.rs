//! Images of cattree's logs that were changed in any way, checked and repaired.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use demi_api::libos::OpenOptions;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::op::Position;
use demi_api::time::Clock;
use demi_api::{Config, Demikernel, Error};
use demi_libos_cattree::device::mem::{Image, Mem, MemConfig};
use demi_libos_cattree::format::{HEADER_LEN, Header, SUPERBLOCK_LEN, Superblock};
use demi_libos_cattree::fsck::{Checked, Ends, Image as Examined, Piece};
use demi_libos_cattree::{Cattree, CattreeSection, OpenError};

use super::input::Input;

const BLOCK: usize = 512;
const SEGMENT: usize = 8192;
const SIZE: usize = 256 << 10;
/// Most changes.
const MAX_CHANGES: usize = 64;

/// Elements of each log.
type Logs = BTreeMap<String, Vec<Vec<u8>>>;

thread_local! {
    /// Images as a closing, and as a loss of power leaves them, and what is in both.
    static SAMPLES: [(Vec<u8>, Logs); 2] = [sample(true), sample(false)];
    static HEAP: Heap =
        Heap::new(&HeapConfig { size: 8 << 20, huge_pages: HugePages::Never, lock: false }).expect("memory");
}

/// Changes an image as the bytes say, and checks it, shows it, and repairs it. Then it is clean, and opens; what it had not
/// lost it has still, and nothing that was never pushed.
pub fn fsck(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut bytes, logs) = SAMPLES.with(|samples| samples[usize::from(input.byte() & 1)].clone());
    let mut is_forged = false;
    for _ in 0..MAX_CHANGES {
        if input.is_empty() {
            break;
        }
        is_forged |= change(&mut bytes, &mut input);
    }
    let heap = HEAP.with(Clone::clone);
    let image = Image::new(bytes);
    let Ok(checked) = check(&image, &heap) else { return };
    show(&image, &heap, &checked);
    let is_clean = checked.report.is_clean();
    let is_rebuilt = checked.report.summary.rebuilt;
    // Counters that have come to their end cannot be counted on from, and a full image has no room for what is copied.
    let is_exhausted = |error: &OpenError| matches!(error, OpenError::Device(Error::NoSpace));
    if !is_clean {
        let _plan = (checked.plan(false), checked.plan(true));
        for ends in [Ends::Behind, Ends::Before] {
            let checked = check(&image, &heap).expect("it could be checked before");
            match over(&image, &heap).mend(&checked, ends) {
                Ok(()) => {}
                Err(error) if is_exhausted(&error) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
    match over(&image, &heap).open_and_close() {
        Ok(()) => {}
        Err(error) if is_exhausted(&error) => return,
        Err(error) => panic!("clean before: {is_clean}: {error}\n{:?}", checked.report.findings),
    }
    let again = check(&image, &heap).expect("it opens");
    let (before, after) = (&checked.report, &again.report);
    assert!(after.is_clean(), "{:?}\nand then\n{:?}", before.findings, after.findings);
    if !is_forged && !is_rebuilt {
        let found = show(&image, &heap, &again);
        for (name, elements) in &found {
            let whole = logs.get(name).unwrap_or_else(|| panic!("log {name} was never made"));
            assert!(
                whole.starts_with(elements),
                "log {name} has what was never pushed: {:?}",
                before.findings
            );
        }
        assert_eq!(found.len(), logs.len());
        assert!(!is_clean || before.logs.iter().zip(&after.logs).all(|(a, b)| a.elements == b.elements));
    }
}

fn over(image: &Image, heap: &Heap) -> Examined {
    let config = MemConfig { block_size: BLOCK, ..MemConfig::default() };
    Examined::new(Box::new(Mem::over(image.clone(), &config).expect("whole blocks")), heap)
}

fn check(image: &Image, heap: &Heap) -> Result<Checked, OpenError> {
    over(image, heap).check(&mut |done, total| assert!(done <= total))
}

/// All elements, put together. Their number is that of the report, and no part comes out of order.
fn show(image: &Image, heap: &Heap, checked: &Checked) -> Logs {
    let mut logs = Logs::new();
    for (log, report) in checked.report.logs.iter().enumerate() {
        let mut elements = Vec::new();
        let mut element = Vec::new();
        over(image, heap)
            .elements(checked, log, 0, &mut |piece| {
                if let Piece::Part { total, got, bytes, .. } = piece {
                    if got == 0 {
                        element.clear();
                    }
                    assert_eq!(element.len(), got);
                    element.extend_from_slice(bytes);
                    if element.len() == total {
                        elements.push(std::mem::take(&mut element));
                    }
                }
                ControlFlow::Continue(())
            })
            .expect("memory does not fail");
        assert_eq!(elements.len() as u64, report.elements, "{report:?} {:?}", checked.report.findings);
        over(image, heap).headers(checked, log, &mut |_, _, _| ControlFlow::Continue(())).expect("nor here");
        logs.insert(report.name.clone(), elements);
    }
    logs
}

/// One change. True: with a right checksum, so that no damage but a lie.
fn change(bytes: &mut [u8], input: &mut Input<'_>) -> bool {
    let len = bytes.len();
    let superblock = Superblock::parse(bytes).ok();
    let seed = superblock.map_or(0, |superblock| superblock.seed());
    match input.byte() % 9 {
        0 => bytes[input.word() as usize % len] ^= 1 << (input.byte() % 8),
        1 => {
            let at = input.word() as usize % len;
            let run = input.run();
            let run = &run[..run.len().min(len - at)];
            bytes[at..at + run.len()].copy_from_slice(run);
        }
        2 => {
            let (from, to) = (input.half() as usize * BLOCK % len, input.half() as usize * BLOCK % len);
            bytes.copy_within(from..from + BLOCK, to);
        }
        3 => {
            let (at, count) = (input.half() as usize * BLOCK % len, 1 + input.byte() as usize % 16);
            bytes[at..len.min(at + count * BLOCK)].fill(0);
        }
        4 => {
            let slot = input.byte() as usize % 2 * BLOCK;
            set(&mut bytes[slot..slot + SUPERBLOCK_LEN], input, SUPERBLOCK_LEN - 4);
            let crc = crc32c::crc32c(&bytes[slot..slot + SUPERBLOCK_LEN - 4]);
            bytes[slot + SUPERBLOCK_LEN - 4..slot + SUPERBLOCK_LEN].copy_from_slice(&crc.to_le_bytes());
            return true;
        }
        5 => {
            let Some(superblock) = superblock else { return false };
            let at = superblock.geometry.checkpoint_at(input.byte().into()) as usize;
            let Some(area) = bytes.get_mut(at..) else { return false };
            let Some(field) = area.get(12..16) else { return false };
            let used = u32::from_le_bytes(field.try_into().expect("four bytes were taken")) as usize;
            let Some(area) = area.get_mut(..used).filter(|area| area.len() > 16) else { return false };
            set(area, input, used);
            let crc = crc32c::crc32c_append(seed, &area[12..]);
            area[8..12].copy_from_slice(&crc.to_le_bytes());
            return true;
        }
        7 | 8 => {
            // Where something was written.
            let used: Vec<usize> = (0..len)
                .step_by(BLOCK)
                .filter(|at| bytes[*at..at + BLOCK].iter().any(|byte| *byte != 0))
                .collect();
            let Some(block) = used.get(input.half() as usize % used.len().max(1)) else { return false };
            bytes[block + input.half() as usize % BLOCK] ^= 1 << (input.byte() % 8);
        }
        _ => {
            let Some(superblock) = superblock else { return false };
            // The first header at or behind a place.
            let from = input.word() as usize % len / 8 * 8;
            let is_header = |at: &usize| Header::parse(&bytes[*at..], &superblock.geometry, seed).is_ok();
            let Some(at) = (from..len).step_by(8).take(4096).find(is_header) else { return false };
            let header = &mut bytes[at..at + HEADER_LEN];
            set(header, input, HEADER_LEN);
            let crc = crc32c::crc32c_append(seed, &header[4..]);
            header[..4].copy_from_slice(&crc.to_le_bytes());
            return true;
        }
    }
    false
}

/// Sets, or adds to, a number of four bytes.
fn set(bytes: &mut [u8], input: &mut Input<'_>, len: usize) {
    let at = input.half() as usize % (len - 3);
    let field = &mut bytes[at..at + 4];
    let old = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
    let value = input.offset();
    let new = if input.byte() & 1 == 0 { value } else { old.wrapping_add(value) };
    field.copy_from_slice(&new.to_le_bytes());
}

/// Logs of small elements, of large ones, and one that was cut at both ends, after two openings.
fn sample(is_closed: bool) -> (Vec<u8>, Logs) {
    let image = Image::new(vec![0; SIZE]);
    let mut logs = Logs::new();
    for opening in 0..2 {
        let demi = instance(&image);
        for (name, count, len) in [("small", 14, 90), ("large", 3, 9000), ("cut", 9, 700)] {
            let options = OpenOptions { create: true, durable: true, ..OpenOptions::default() };
            let qd = demi.open(name, &options).expect("a log");
            let log = logs.entry(name.to_owned()).or_default();
            let mut positions = Vec::new();
            for number in 0..count {
                let element = vec![b'a' + number as u8 + 10 * opening; len + 31 * number % len];
                let token = demi.push(qd, demi.copy_from(&element).expect("memory")).expect("room");
                let done = demi.wait(token, Some(Duration::from_secs(10))).expect("it ends");
                positions.push(done.pushed().expect("it is written"));
                log.push(element);
            }
            if name == "cut" && opening == 0 {
                let [head, tail] = [positions[2], positions[6]];
                demi.discard(qd, Position(head.0)).expect("it is an element's");
                demi.truncate(qd, tail).expect("it is an element's");
                *log = log[2..6].to_vec();
            }
            demi.close(qd).expect("it is open");
        }
        if opening == 1 && !is_closed {
            return (image.to_vec(), logs);
        }
    }
    (image.to_vec(), logs)
}

fn instance(image: &Image) -> Demikernel<Cattree> {
    let config = Config::parse("[heap]\nsize_mib = 8\nlock = false\n", "fuzz").expect("it is one");
    let device = MemConfig { block_size: BLOCK, ..MemConfig::default() };
    let device = Mem::over(image.clone(), &device).expect("whole blocks");
    let section = CattreeSection {
        block_size: BLOCK,
        segment_size: SEGMENT,
        zero_copy_threshold: 4096,
        ..CattreeSection::default()
    };
    Demikernel::assemble(&config, Clock::start(), fastrand::Rng::with_seed(3), |setup, rng| {
        Cattree::over(&setup, &section, Box::new(device), rng)
    })
    .expect("an instance")
}
