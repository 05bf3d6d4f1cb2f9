//! The fuzz targets' corpora, and some random bytes, through the same functions as the fuzzer's.
#![forbid(unsafe_code)]

use std::path::Path;

use demi_tests::fuzz;
use proptest::prelude::*;

#[test]
fn the_corpus_of_frames_is_harmless() {
    replay("frames", fuzz::frames);
}

#[test]
fn the_corpus_of_resp_is_harmless() {
    replay("resp", fuzz::resp);
}

#[test]
fn the_corpus_of_config_is_harmless() {
    replay("config", fuzz::config);
}

#[test]
fn the_corpus_of_ingress_is_harmless() {
    replay("ingress", fuzz::ingress);
}

#[test]
fn the_corpus_of_script_is_harmless() {
    replay("script", fuzz::script);
}

#[test]
fn the_corpus_of_middle_is_harmless() {
    replay("middle", fuzz::middle);
}

#[test]
fn the_corpus_of_mint_is_harmless() {
    replay("mint", fuzz::mint);
}

#[test]
fn the_corpus_of_memif_control_is_harmless() {
    replay("memif_control", fuzz::memif_control);
}

#[test]
fn the_corpus_of_memif_rings_is_harmless() {
    replay("memif_rings", fuzz::memif_rings);
}

#[test]
fn the_corpus_of_image_is_harmless() {
    replay("image", fuzz::image);
}

#[test]
fn the_corpus_of_fsck_is_harmless() {
    replay("fsck", fuzz::fsck);
}

#[test]
fn the_corpus_of_roce_wire_is_harmless() {
    replay("roce_wire", fuzz::roce_wire);
}

#[test]
fn the_corpus_of_roce_peer_is_harmless() {
    replay("roce_peer", fuzz::roce_peer);
}

#[test]
fn the_corpus_of_roce_cm_is_harmless() {
    replay("roce_cm", fuzz::roce_cm);
}

/// The corpora with some of their bytes changed, moved and taken from other files, the same ones in each run.
/// `DEMI_MUTATIONS` says how many of each, in place of the usual number.
#[test]
fn mutated_corpora_are_harmless() {
    let targets: [Target; 11] = [
        ("ingress", fuzz::ingress),
        ("script", fuzz::script),
        ("middle", fuzz::middle),
        ("mint", fuzz::mint),
        ("memif_control", fuzz::memif_control),
        ("memif_rings", fuzz::memif_rings),
        ("image", fuzz::image),
        ("fsck", fuzz::fsck),
        ("roce_wire", fuzz::roce_wire),
        ("roce_peer", fuzz::roce_peer),
        ("roce_cm", fuzz::roce_cm),
    ];
    let count = std::env::var("DEMI_MUTATIONS").map_or(100, |count| count.parse().expect("a number"));
    for (target, run) in targets {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let files: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..count {
            let data = mutated(&mut rng, &files);
            // Shown if it fails: it is then a file of the corpus.
            println!("{target}: {data:?}");
            run(&data);
        }
    }
}

/// Its name, and what it runs.
type Target = (&'static str, fn(&[u8]));

fn mutated(rng: &mut fastrand::Rng, files: &[Vec<u8>]) -> Vec<u8> {
    let mut data = rng.choice(files).unwrap().clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=data.len());
        let len = rng.usize(..=8.min(data.len() - at));
        match rng.u8(..6) {
            0 if at < data.len() => data[at] = rng.u8(..),
            1 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
            2 => data.insert(at, rng.u8(..)),
            3 => drop(data.drain(at..at + len)),
            4 => {
                let copy = data[at..at + len].to_vec();
                let to = rng.usize(..=data.len());
                data.splice(to..to, copy);
            }
            _ => {
                let other = rng.choice(files).unwrap();
                let from = rng.usize(..=other.len());
                data.truncate(at);
                data.extend(&other[from..other.len().min(from + 200)]);
            }
        }
    }
    data
}

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 10, "{} has lost its files", dir.display());
}

/// What RESP is made of, and some of what it is not.
const RESP_PARTS: &[&[u8]] = &[
    b"*",
    b"$",
    b":",
    b"+",
    b"-",
    b"\r\n",
    b"\r",
    b"\n",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"9999",
    b"PING",
    b"a",
    b" ",
    b"\0\xff",
    b"*1\r\n",
    b"$1\r\n",
    b"*2\r\n$1\r\nx\r\n",
    b"$3\r\nabc\r\n",
];

const CONFIG_LINES: &[&str] = &[
    "[heap]",
    "[wait]",
    "[queues]",
    "[tokens]",
    "[catnap]",
    "size_mib = 4",
    "size_mib = 0",
    "lock = true",
    "max = 1",
    "max = -1",
    "spin_min_us = 7",
    "spin_max_us = 3",
    "linger_ms = 1e3",
    "x = [",
    "= 3",
    "\u{0}",
    "frame_max_bytes = 18446744073709551616",
    "huge_pages = 'auto'",
    "a.b.c = {}",
    "# remark",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_streams_are_harmless(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::frames(&data);
    }

    #[test]
    fn random_resp_is_harmless(
        parts in prop::collection::vec(
            prop::sample::select(RESP_PARTS),
            0..40,
        ),
    ) {
        let data = parts.concat();
        fuzz::resp(&data);
        fuzz::frames(&[&[7, data.len() as u8 % 7][..], &data].concat());
    }

    #[test]
    fn random_input_to_catnip_is_harmless(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz::ingress(&data);
        fuzz::script(&data);
        fuzz::middle(&data);
    }

    #[test]
    fn random_peers_of_a_memif_are_harmless(data in prop::collection::vec(any::<u8>(), 0..100)) {
        fuzz::memif_control(&data);
        fuzz::memif_rings(&data);
    }

    #[test]
    fn random_rdma_peers_are_harmless(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz::roce_wire(&data);
        fuzz::roce_peer(&data);
        fuzz::roce_cm(&data);
    }

    #[test]
    fn random_changes_to_images_are_harmless(data in prop::collection::vec(any::<u8>(), 0..100)) {
        fuzz::image(&data);
    }

    #[test]
    fn random_changes_to_images_are_repaired(data in prop::collection::vec(any::<u8>(), 0..60)) {
        fuzz::fsck(&data);
    }

    #[test]
    fn random_configurations_are_harmless(
        lines in prop::collection::vec(
            prop::sample::select(CONFIG_LINES),
            0..8,
        ),
    ) {
        fuzz::config(lines.join("\n").as_bytes());
    }
}
