//! Images that are damaged in every way that the format knows: what is said of them, and what a repair leaves.

use std::collections::BTreeMap;

use crate::support::{
    CLEAN, ERRORS, Left, REPAIRED, Sample, expect, file, newest, place, read_all, sample, superblock,
};

const BLOCKS: [usize; 2] = [512, 4096];

fn elements(sample: &Sample) -> BTreeMap<String, Vec<Vec<u8>>> {
    let of = |elements: &Vec<(u64, Vec<u8>)>| elements.iter().map(|(_, bytes)| bytes.clone()).collect();
    sample.logs.iter().map(|(name, log)| (name.clone(), of(log))).collect()
}

/// Damages an image; the check finds errors and writes nothing, a repair leaves a clean one. What it says, and the logs
/// after it.
#[track_caller]
fn repaired(bytes: &[u8], block: usize, args: &[&str]) -> (String, BTreeMap<String, Vec<Vec<u8>>>) {
    let file = file(bytes);
    let (found, _) = expect(file.path(), &[], ERRORS);
    assert!(std::fs::read(file.path()).unwrap() == bytes, "the check has written");
    let (_, said) = expect(file.path(), &[&["--repair", "--yes"], args].concat(), REPAIRED);
    expect(file.path(), &[], CLEAN);
    (found + &said, read_all(file.path(), block))
}

#[test]
fn what_was_left_in_order_or_by_a_crash_is_clean() {
    for block in BLOCKS {
        for left in [Left::Closed, Left::Crashed] {
            let sample = sample(block, left);
            let file = file(&sample.bytes);
            let (said, _) = expect(file.path(), &[], CLEAN);
            assert!(said.ends_with("clean\n") && !said.contains("warning"), "{said}");
            for (name, log) in &sample.logs {
                let (lines, _) = expect(file.path(), &["--dump", name, "--lines"], CLEAN);
                let wanted: Vec<u8> =
                    log.iter().flat_map(|(_, bytes)| [&bytes[..], b"\n"].concat()).collect();
                assert!(lines.as_bytes() == wanted, "{name}");
            }
            assert!(std::fs::read(file.path()).unwrap() == sample.bytes);
            assert!(read_all(file.path(), block) == elements(&sample));
        }
    }
}

#[test]
fn a_slot_of_the_superblock_is_made_from_the_other() {
    for block in BLOCKS {
        let sample = sample(block, Left::Closed);
        for slot in 0..2 {
            let mut bytes = sample.bytes.clone();
            bytes[slot * block + 60] ^= 1;
            if superblock(&bytes, block).checkpoint + 1 == superblock(&sample.bytes, block).checkpoint {
                // The older slot names the checkpoint before; the newest is complete all the same.
                assert_eq!(superblock(&sample.bytes, block).generation as usize % 2, slot);
            }
            let (said, logs) = repaired(&bytes, block, &[]);
            assert!(said.contains(&format!("superblock slot {slot}")), "{said}");
            assert!(logs == elements(&sample));
        }
    }
}

#[test]
fn a_checkpoint_is_rebuilt_with_the_names_of_the_one_before() {
    for (block, left) in BLOCKS.into_iter().flat_map(|block| [(block, Left::Closed), (block, Left::Crashed)])
    {
        let sample = sample(block, left);
        let superblock = superblock(&sample.bytes, block);
        let mut bytes = sample.bytes.clone();
        bytes[superblock.geometry.checkpoint_at(superblock.checkpoint) as usize + 70] ^= 4;
        let (said, logs) = repaired(&bytes, block, &[]);
        assert!(said.contains(&format!("checkpoint {} is damaged", superblock.checkpoint)), "{said}");
        let whole = elements(&sample);
        for (name, log) in &whole {
            assert!(logs.get(name) == Some(log), "{name} of {:?}: {said}", logs.keys());
        }
    }
}

#[test]
fn without_any_checkpoint_logs_are_found_by_their_segments() {
    for block in BLOCKS {
        let sample = sample(block, Left::Closed);
        let geometry = superblock(&sample.bytes, block).geometry;
        let mut bytes = sample.bytes.clone();
        for area in 0..2 {
            bytes[geometry.checkpoint_at(area) as usize + 9] ^= 4;
        }
        let (said, logs) = repaired(&bytes, block, &[]);
        assert!(said.contains("names are lost"), "{said}");
        for entry in newest(&sample.bytes, block).logs {
            let name = String::from_utf8(entry.name).unwrap();
            let lost = &logs[&format!("lost-{}", entry.id)];
            let whole = &elements(&sample)[&name];
            // What was given up at the head may be there again.
            assert!(lost.ends_with(whole), "{name}: {} and {}", lost.len(), whole.len());
        }
    }
}

#[test]
fn a_log_damaged_in_the_middle_is_cut_there() {
    for block in BLOCKS {
        let sample = sample(block, Left::Closed);
        for (log, at) in [("orders", 37), ("big", 6), ("cut", 1), ("orders", 0)] {
            let (position, element) = &sample.logs[log][at];
            // A bit of the header, and one of the payload or what is behind it.
            for byte in [17, 48 + element.len() as u64 / 4] {
                let mut bytes = sample.bytes.clone();
                let byte_at = place(&bytes, block, log, position + byte);
                bytes[byte_at] ^= 0x10;
                let (said, logs) = repaired(&bytes, block, &[]);
                let is_lead = logs[log].len() == sample.logs[log].len();
                assert!(!is_lead, "{log} {at} {byte}: {said}");
                assert!(said.contains(&format!("log {log:?} at position {position}")), "{said}");
                assert!(said.contains("LOST"), "{said}");
                let mut whole = elements(&sample);
                whole.get_mut(log).unwrap().truncate(at);
                assert!(logs == whole, "{log} {at} {byte}: {} left; {said}", logs[log].len());
            }
        }
    }
}

#[test]
fn what_is_behind_the_damage_can_be_salvaged() {
    for block in BLOCKS {
        let sample = sample(block, Left::Closed);
        for (log, at) in [("orders", 37), ("big", 6), ("cut", 20)] {
            let (position, element) = &sample.logs[log][at];
            for byte in [17, 48 + element.len() as u64 / 4] {
                let mut bytes = sample.bytes.clone();
                let byte_at = place(&bytes, block, log, position + byte);
                bytes[byte_at] ^= 0x10;
                let (said, logs) = repaired(&bytes, block, &["--salvage"]);
                let whole = &elements(&sample)[log];
                assert!(logs[log] == whole[..at], "{log} {at} {byte}: {said}");
                let salvaged = &logs[&format!("{log}.salvaged")];
                assert!(
                    *salvaged == whole[at + 1..],
                    "{log} {at} {byte}: {} salvaged; {said}",
                    salvaged.len()
                );
            }
        }
    }
}

#[test]
fn what_was_salvaged_before_is_kept() {
    let sample = sample(512, Left::Closed);
    let mut bytes = sample.bytes.clone();
    for at in [20, 50] {
        let byte_at = place(&sample.bytes, 512, "orders", sample.logs["orders"][at].0);
        bytes[byte_at + 9] ^= 1;
    }
    let (_, logs) = repaired(&bytes, 512, &["--salvage"]);
    let whole = &elements(&sample)["orders"];
    assert!(logs["orders.salvaged"] == [&whole[21..50], &whole[51..]].concat());
    let file = file(&bytes);
    expect(file.path(), &["--repair", "--yes", "--salvage"], REPAIRED);
    let mut bytes = std::fs::read(file.path()).unwrap();
    let byte_at = place(&bytes, 512, "orders", sample.logs["orders"][10].0);
    bytes[byte_at + 9] ^= 1;
    let (_, logs) = repaired(&bytes, 512, &["--salvage"]);
    assert!(logs["orders.salvaged"] == [&whole[21..50], &whole[51..]].concat());
    assert!(logs["orders.salvaged.2"] == whole[11..20]);
    assert!(logs["orders"] == whole[..10]);
}

#[test]
fn a_damaged_head_of_a_segment_costs_what_lies_across_it() {
    for block in BLOCKS {
        let sample = sample(block, Left::Closed);
        let segment = 64 << 10;
        for log in ["orders", "big"] {
            let ordinal = sample.logs[log].last().unwrap().0 / segment;
            let position = ordinal * segment;
            let mut bytes = sample.bytes.clone();
            let byte_at = place(&bytes, block, log, position) + 20;
            bytes[byte_at] ^= 1;
            let (said, logs) = repaired(&bytes, block, &["--salvage"]);
            let whole = &elements(&sample)[log];
            let kept = logs[log].len();
            assert!(logs[log] == whole[..kept], "{log}: {said}");
            let salvaged = &logs[&format!("{log}.salvaged")];
            assert!(whole.ends_with(salvaged) && kept + salvaged.len() + 1 >= whole.len(), "{log}: {said}");
        }
    }
}

#[test]
fn what_opening_refuses_opens_after_a_repair() {
    for block in BLOCKS {
        let sample = sample(block, Left::Crashed);
        let before = newest(&sample.bytes, block);
        let tail = before.logs.iter().find(|log| log.name == b"orders").unwrap().tail;
        // The first element behind the checkpoint's tail, which others follow.
        let log = &sample.logs["orders"];
        let at = log.iter().position(|(position, _)| *position >= tail).unwrap();
        let position = log[at].0;
        assert!(at + 3 < log.len());
        let mut bytes = sample.bytes.clone();
        let byte_at = place(&bytes, block, "orders", position) + 5;
        bytes[byte_at] ^= 2;
        for salvage in [&[][..], &["--salvage"]] {
            let (said, logs) = repaired(&bytes, block, salvage);
            assert!(said.contains("opening refuses"), "{said}");
            let whole = &elements(&sample)["orders"];
            assert!(logs["orders"] == whole[..at], "{said}");
            if !salvage.is_empty() {
                assert!(logs["orders.salvaged"] == whole[at + 1..], "{said}");
            }
        }
    }
}

#[test]
fn a_torn_end_is_no_error() {
    for block in BLOCKS {
        let sample = sample(block, Left::Crashed);
        let (position, _) = sample.logs["orders"].last().unwrap();
        let mut bytes = sample.bytes.clone();
        let byte_at = place(&bytes, block, "orders", *position) + 5;
        bytes[byte_at] ^= 2;
        let file = file(&bytes);
        expect(file.path(), &[], CLEAN);
        let left = &read_all(file.path(), block)["orders"];
        let (lines, _) = expect(file.path(), &["--dump", "orders", "--lines"], CLEAN);
        assert_eq!(lines.lines().count(), left.len());
        assert!(left.len() < sample.logs["orders"].len());
    }
}
