//! Images that real workloads leave, as files, and the program run on them.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use demi_api::libos::OpenOptions;
use demi_api::time::Clock;
use demi_api::{Config, Demikernel};
use demi_libos_cattree::device::mem::{Image, Mem, MemConfig};
use demi_libos_cattree::format::{Checkpoint, HEADER_LEN, Head, Header, Superblock};
use demi_libos_cattree::{Cattree, CattreeSection};
use tempfile::NamedTempFile;

pub(crate) const CLEAN: i32 = 0;
pub(crate) const REPAIRED: i32 = 1;
pub(crate) const ERRORS: i32 = 4;
pub(crate) const OPERATIONAL: i32 = 8;
pub(crate) const USAGE: i32 = 16;

/// An image, and what was pushed to its logs.
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    /// Positions and elements.
    pub(crate) logs: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
}

/// How an image is left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Closed,
    /// As the loss of power leaves it.
    Crashed,
}

fn section(block_size: usize) -> CattreeSection {
    CattreeSection { block_size, segment_size: 64 << 10, zero_copy_threshold: 32 << 10, ..Default::default() }
}

pub(crate) fn instance(image: &Image, block_size: usize) -> Demikernel<Cattree> {
    let config = Config::parse("[heap]\nsize_mib = 32\nlock = false\n", "test").unwrap();
    let device = MemConfig { block_size, ..MemConfig::default() };
    let device = Mem::over(image.clone(), &device).unwrap();
    Demikernel::assemble(&config, Clock::start(), fastrand::Rng::with_seed(5), |setup, rng| {
        Cattree::over(&setup, &section(block_size), Box::new(device), rng)
    })
    .unwrap()
}

/// Three logs: small elements in batches, large ones in fragments, and one that was cut at both ends; two openings.
pub(crate) fn sample(block_size: usize, left: Left) -> Sample {
    let image = Image::new(vec![0; 8 << 20]);
    let mut logs: BTreeMap<String, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for opening in 0..2 {
        let demi = instance(&image, block_size);
        let mut rng = fastrand::Rng::with_seed(opening);
        let most = if opening == 0 { 60 } else { 25 };
        for (name, sizes, count) in
            [("orders", 0..700, 2 * most), ("big", 20_000..90_000, most / 4), ("cut", 1000..3000, most)]
        {
            let elements = push(&demi, &mut rng, name, sizes, count);
            logs.entry(name.to_owned()).or_default().extend(elements);
        }
        if opening == 0 {
            let options = OpenOptions { create: true, ..OpenOptions::default() };
            let qd = demi.open("cut", &options).unwrap();
            let cut = logs.get_mut("cut").unwrap();
            demi.discard(qd, demi_api::op::Position(cut[31].0)).unwrap();
            demi.truncate(qd, demi_api::op::Position(cut[50].0)).unwrap();
            *cut = cut[31..50].to_vec();
            demi.open("gone", &options).and_then(|qd| demi.close(qd)).unwrap();
            demi.unlink("gone").unwrap();
        } else if left == Left::Crashed {
            return Sample { bytes: image.to_vec(), logs };
        }
    }
    Sample { bytes: image.to_vec(), logs }
}

/// Pushes in turns of a few, as applications do.
fn push(
    demi: &Demikernel<Cattree>,
    rng: &mut fastrand::Rng,
    name: &str,
    sizes: Range<usize>,
    count: usize,
) -> Vec<(u64, Vec<u8>)> {
    let qd = demi.open(name, &OpenOptions { create: true, durable: true, ..OpenOptions::default() }).unwrap();
    let mut pushed = Vec::new();
    while pushed.len() < count {
        let turn: Vec<Vec<u8>> = (0..rng.usize(1..5))
            .map(|_| {
                let len = rng.usize(sizes.clone());
                std::iter::repeat_with(|| rng.u8(b' '..b'~')).take(len).collect()
            })
            .collect();
        let tokens: Vec<_> =
            turn.iter().map(|bytes| demi.push(qd, demi.copy_from(bytes).unwrap()).unwrap()).collect();
        for (token, bytes) in tokens.into_iter().zip(turn) {
            pushed.push((demi.wait(token, None).unwrap().pushed().unwrap().0, bytes));
        }
    }
    demi.close(qd).unwrap();
    pushed
}

/// All that a file's logs hold, as an instance reads it.
pub(crate) fn read_all(path: &Path, block_size: usize) -> BTreeMap<String, Vec<Vec<u8>>> {
    let demi = instance(&Image::new(std::fs::read(path).unwrap()), block_size);
    let mut logs = BTreeMap::new();
    for name in demi.list().unwrap() {
        let qd = demi.open(&name, &OpenOptions { read_only: true, ..OpenOptions::default() }).unwrap();
        let mut elements = Vec::new();
        let token = loop {
            let token = demi.pop(qd).unwrap();
            match demi.wait(token, Some(std::time::Duration::from_millis(20))) {
                Ok(done) => elements.push(done.popped().unwrap().to_vec()),
                Err(_) => break token,
            }
        };
        demi.cancel(token).unwrap();
        logs.insert(name.to_str().unwrap().to_owned(), elements);
    }
    logs
}

pub(crate) fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn fsck(path: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demi-fsck"));
    command.arg(path).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs it, and expects this exit code.
#[track_caller]
pub(crate) fn expect(path: &Path, args: &[&str], code: i32) -> (String, String) {
    let output = fsck(path, args);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}:\n{out}\n{err}");
    (out, err)
}

pub(crate) fn superblock(bytes: &[u8], block_size: usize) -> Superblock {
    let slots = [0, block_size].map(|at| Superblock::parse(&bytes[at..]).ok());
    slots.into_iter().flatten().max_by_key(|slot| slot.generation).unwrap()
}

pub(crate) fn newest(bytes: &[u8], block_size: usize) -> Checkpoint {
    let superblock = superblock(bytes, block_size);
    let at = superblock.geometry.checkpoint_at(superblock.checkpoint) as usize;
    Checkpoint::parse(&bytes[at..], &superblock.geometry, superblock.seed()).unwrap()
}

/// Where a position of a log is in the image, as the newest head of a segment says.
pub(crate) fn place(bytes: &[u8], block_size: usize, log: &str, position: u64) -> usize {
    let superblock = superblock(bytes, block_size);
    let (geometry, seed) = (superblock.geometry, superblock.seed());
    let checkpoint = newest(bytes, block_size);
    let id = checkpoint.logs.iter().find(|entry| entry.name == log.as_bytes()).unwrap().id;
    let (ordinal, offset) = geometry.split(position);
    let head = |index: &u32| {
        let at = geometry.segment_at(*index) as usize;
        let header = Header::parse(&bytes[at..], &geometry, seed).ok().filter(|header| header.log == id)?;
        let head = Head::parse(&header, &bytes[at + HEADER_LEN..], seed).ok()?;
        (head.ordinal == ordinal).then_some((header.sequence, at + offset))
    };
    (0..geometry.segments).filter_map(|index| head(&index)).max().unwrap().1
}
