//! What people see: help, tables, elements, errors that say what to do next, and exit codes.
//!
//! The help text stands in `tests/help`; `UPDATE_HELP=1 cargo test -p demi-fsck` writes it anew.

use std::path::Path;

use demi_api::libos::OpenOptions;
use demi_api::{Config, Demikernel};
use demi_libos_cattree::Cattree;
use demi_libos_cattree::format::{HEADER_LEN, Head, Header, Kind, payload_crc};

use crate::support::{
    CLEAN, ERRORS, Left, OPERATIONAL, REPAIRED, USAGE, expect, file, newest, place, sample, superblock,
};

#[test]
fn help_is_as_recorded() {
    let (help, _) = expect(Path::new("--help"), &[], CLEAN);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help/demi-fsck.txt");
    if std::env::var_os("UPDATE_HELP").is_some() {
        std::fs::write(&path, &help).unwrap();
    }
    assert_eq!(help, std::fs::read_to_string(&path).unwrap_or_default(), "{} is out of date", path.display());
}

#[test]
fn wrong_arguments_name_the_argument() {
    for (first, args, part) in [
        ("--list", &[][..], "<IMAGE|--nvme <ADDRESS>>"),
        ("x.img", &["--nvme", "0000:00:04.0"], "--nvme"),
        ("x.img", &["--list", "--repair"], "--repair"),
        ("x.img", &["--from", "3"], "--dump <LOG>"),
        ("x.img", &["--salvage"], "--repair"),
        ("x.img", &["--dump", "a", "--hex", "--raw"], "--raw"),
        ("x.img", &["--namespace", "2"], "--nvme"),
        ("x.img", &["--frob"], "--frob"),
    ] {
        let (out, said) = expect(Path::new(first), args, USAGE);
        assert!(out.is_empty() && said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn what_cannot_be_worked_on_is_said_in_a_line() {
    let nothing = file(&vec![0; 1 << 20]);
    let foreign = file(&vec![7; 1 << 20]);
    let mut sample = sample(512, Left::Closed).bytes;
    let mut both = sample.clone();
    both[30] ^= 1;
    both[512 + 30] ^= 1;
    let torn = file(&both);
    sample.truncate(4 << 20);
    let short = file(&sample);
    for (path, args, part) in [
        (Path::new("/nonexistent/image"), &[][..], "there is no such file"),
        (Path::new("/dev/null"), &[], "neither a regular file nor a block device"),
        (nothing.path(), &[], "there are no logs on the device yet"),
        (nothing.path(), &["--repair", "--yes"], "there are no logs on the device yet"),
        (foreign.path(), &["--json"], "holds something, but no logs"),
        (short.path(), &[], "does not fit the device"),
        (torn.path(), &["--repair", "--yes"], "no slot of the superblock can be read"),
        (Path::new("/nonexistent/image"), &["--repair", "--yes"], "there is no such file"),
        (Path::new("/nonexistent/image"), &["--make"], "`--make --size BYTES`"),
        (nothing.path(), &["--make", "--block-size", "1000"], "power of two"),
        (nothing.path(), &["--make", "--segment-size", "1024"], "segment size 1024"),
    ] {
        let (out, said) = expect(path, args, OPERATIONAL);
        assert!(out.is_empty() && said.lines().count() == 1, "{out}{said}");
        assert!(said.starts_with("demi-fsck: ") && said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn an_image_is_made_but_nothing_overwritten() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("logs.img");
    let made = &["--make", "--size", "16777216", "--block-size", "512", "--segment-size", "65536"];
    let (said, _) = expect(&path, made, CLEAN);
    assert!(said.contains("segments of 65536 bytes, blocks of 512 bytes"), "{said}");
    expect(&path, &[], CLEAN);
    let before = std::fs::read(&path).unwrap();
    let (_, said) = expect(&path, &["--make"], OPERATIONAL);
    assert!(said.contains("there are logs already") && said.contains("--force"), "{said}");
    assert!(std::fs::read(&path).unwrap() == before);
    let (said, _) = expect(&path, &["--make", "--force"], CLEAN);
    assert!(said.contains("blocks of 4096 bytes"), "{said}");
    // A file system has its superblock further behind.
    let mut bytes = vec![0; 8 << 20];
    bytes[1080] = 0x53;
    let other = file(&bytes);
    let (_, said) = expect(other.path(), &["--make"], OPERATIONAL);
    assert!(said.contains("something else"), "{said}");
    assert!(std::fs::read(other.path()).unwrap() == bytes);
    expect(other.path(), &["--make", "--force"], CLEAN);
    expect(other.path(), &[], CLEAN);
}

#[test]
fn logs_are_listed_and_elements_shown() {
    let sample = sample(4096, Left::Closed);
    let file = file(&sample.bytes);
    let (table, _) = expect(file.path(), &["--list"], CLEAN);
    let (json, _) = expect(file.path(), &["--list", "--json"], CLEAN);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (log, listed) in sample.logs.iter().zip(["big", "cut", "orders"]) {
        assert_eq!(log.0, listed);
        let entry = json.as_array().unwrap().iter().find(|entry| entry["name"] == listed).unwrap();
        assert_eq!(entry["elements"], log.1.len());
        assert_eq!(entry["bytes"], log.1.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
        let line = table.lines().find(|line| line.trim_start().starts_with(listed)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((words[4], words[2]), (&*log.1.len().to_string(), &*entry["head"].to_string()));
    }
    let (position, bytes) = &sample.logs["orders"][3];
    let from = position.to_string();
    let (text, _) = expect(file.path(), &["--dump", "orders", "--from", &from, "--count", "1"], CLEAN);
    assert_eq!(text, format!("{position} {} {}\n", bytes.len(), bytes.escape_ascii()));
    let (hex, _) =
        expect(file.path(), &["--dump", "orders", "--from", &from, "--count", "1", "--hex"], CLEAN);
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, format!("{position} {} {digits}\n", bytes.len()));
    let (raw, _) = expect(file.path(), &["--dump", "big", "--raw"], CLEAN);
    assert!(
        raw.as_bytes() == sample.logs["big"].iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>()
    );
    let (_, said) = expect(file.path(), &["--dump", "ordres"], OPERATIONAL);
    assert!(said.contains("--list"), "{said}");
}

#[test]
fn the_format_is_shown_field_by_field() {
    let sample = sample(512, Left::Crashed);
    let file = file(&sample.bytes);
    let (said, _) = expect(file.path(), &["--dump-format"], CLEAN);
    let superblock = superblock(&sample.bytes, 512);
    for line in [
        format!("{:>12} generation: {}", superblock.generation % 2 * 512 + 56, superblock.generation),
        format!("{:>12} segment_size: 65536", 16),
        format!("newest complete checkpoint: {}", superblock.checkpoint),
        format!("length of the name: {}", "orders".len()),
        "checkpoint area 1: valid".to_owned(),
    ] {
        assert!(said.contains(&line), "{line:?} is missing in: {said}");
    }
    let (position, bytes) = &sample.logs["orders"][5];
    let at = place(&sample.bytes, 512, "orders", *position);
    let record = format!(
        "record of \"orders\" at position {position}, byte {at}: kind 2 (Whole), length {},",
        bytes.len()
    );
    assert!(said.contains(&record), "{record}");
}

#[test]
fn nothing_is_repaired_unasked() {
    let mut bytes = sample(512, Left::Closed).bytes;
    bytes[60] ^= 1;
    let file = file(&bytes);
    let (out, said) = expect(file.path(), &["--repair"], OPERATIONAL);
    assert!(out.contains("superblock slot 0") && said.contains("--yes"), "{out}{said}");
    assert!(std::fs::read(file.path()).unwrap() == bytes);
    let (json, _) = expect(file.path(), &["--json"], ERRORS);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["errors"], &json["findings"][0]["severity"]), (&1.into(), &"error".into()));
    assert_eq!(json["findings"][0]["offset"], 0);
    expect(file.path(), &["--repair", "--yes", "--json"], REPAIRED);
    // What is clean is left alone.
    let clean = std::fs::read(file.path()).unwrap();
    expect(file.path(), &["--repair", "--yes"], CLEAN);
    assert!(std::fs::read(file.path()).unwrap() == clean);
}

#[test]
fn a_segment_from_a_later_time_is_an_orphan() {
    let mut bytes = sample(512, Left::Closed).bytes;
    let superblock = superblock(&bytes, 512);
    let (geometry, seed) = (superblock.geometry, superblock.seed());
    let checkpoint = newest(&bytes, 512);
    let head = Head { ordinal: 900, head: 0, checkpoint: 1 }.emit();
    let header = Header {
        kind: Kind::Head,
        ends_batch: true,
        lead: 0,
        length: Head::LEN as u32,
        total: Head::LEN as u32,
        log: checkpoint.logs[0].id,
        sequence: checkpoint.next_sequence + 5,
        offset: 0,
        epoch: checkpoint.epoch,
        stable: 0,
        payload_crc: payload_crc(seed, &head),
    };
    let at = geometry.segment_at(geometry.segments - 1) as usize;
    header.emit(&mut bytes[at..], seed);
    bytes[at + HEADER_LEN..at + HEADER_LEN + Head::LEN].copy_from_slice(&head);
    let file = file(&bytes);
    let (said, _) = expect(file.path(), &[], ERRORS);
    assert!(said.contains("no log has it") && said.contains(&format!("byte {at}")), "{said}");
    expect(file.path(), &["--repair", "--yes"], REPAIRED);
    expect(file.path(), &[], CLEAN);
}

#[test]
fn an_image_that_io_uring_wrote_is_checked_and_kept_from_two() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("logs.img");
    expect(&path, &["--make", "--size", "16777216"], CLEAN);
    let text =
        format!("[heap]\nsize_mib = 16\nlock = false\n[cattree.device]\nkind = \"uring\"\npath = {path:?}\n");
    let demi = Demikernel::<Cattree>::new(&Config::parse(&text, "test").unwrap()).unwrap();
    let options = OpenOptions { create: true, durable: true, ..OpenOptions::default() };
    let qd = demi.open("events", &options).unwrap();
    for number in 0..500 {
        let element = format!("event {number}\n").repeat(number % 90);
        let token = demi.push(qd, demi.copy_from(element.as_bytes()).unwrap()).unwrap();
        demi.wait(token, None).unwrap().pushed().unwrap();
    }
    let (_, said) = expect(&path, &[], OPERATIONAL);
    assert!(said.contains("another instance has it open"), "{said}");
    drop(demi);
    let (said, _) = expect(&path, &[], CLEAN);
    assert!(said.contains("1 logs, 500 elements"), "{said}");
}
