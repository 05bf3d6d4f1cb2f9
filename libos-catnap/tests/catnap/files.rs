//! Files, over io_uring and without it.

use std::path::PathBuf;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::{OpenOptions, QueueKind, SeekTo};
use demi_api::op::{Done, Position};
use tempfile::TempDir;

use crate::common::*;

/// The same test with the ring, with a ring for one operation, and without.
fn each(test: impl Fn(&Demi, PathBuf)) {
    for entries in [64, 1, 0] {
        let demi = demi_with(&format!("[catnap]\nfile_ring_entries = {entries}\n"));
        let dir = TempDir::new().unwrap();
        test(&demi, dir.path().join("file"));
    }
}

fn durable() -> OpenOptions {
    OpenOptions { create: true, durable: true, ..OpenOptions::default() }
}

fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..OpenOptions::default() }
}

fn flush(demi: &Demi, qd: QDesc) -> Result<Done, Error> {
    let token = demi.flush(qd).unwrap();
    wait(demi, token)
}

#[test]
fn pushes_append_and_pops_read_at_the_cursor() {
    each(|demi, path| {
        let qd = demi.creat(&path).unwrap();
        assert_eq!(demi.kind(qd), Ok(QueueKind::Stream));
        assert_eq!(pop(demi, qd).unwrap(), b"");
        assert_eq!(push(demi, qd, b"hello "), Ok(Position(0)));
        assert_eq!(push(demi, qd, b"world"), Ok(Position(6)));
        let token = demi.pop_n(qd, 5).unwrap();
        assert_eq!(completion(demi, token).popped().unwrap().to_vec(), b"hello");
        assert_eq!(pop(demi, qd).unwrap(), b" world");
        assert_eq!(pop(demi, qd).unwrap(), b"");
        assert_eq!(push(demi, qd, b"!"), Ok(Position(11)));
        assert_eq!(pop(demi, qd).unwrap(), b"!");
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world!");
    });
}

#[test]
fn many_pushes_at_once_keep_their_order_and_positions() {
    each(|demi, path| {
        let qd = demi.open(&path, &durable()).unwrap();
        let mut expected = Vec::new();
        let mut tokens = Vec::new();
        for number in 0..300_usize {
            let bytes = pattern(number * 7 % 1000);
            tokens.push((demi.push(qd, demi.copy_from(&bytes).unwrap()).unwrap(), expected.len() as u64));
            expected.extend(bytes);
        }
        for (token, position) in tokens.into_iter().rev() {
            assert_eq!(completion(demi, token).pushed(), Ok(Position(position)));
        }
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(pop_exactly(demi, qd, expected.len()), expected);
    });
}

#[test]
fn waiting_pops_are_served_one_after_the_other() {
    each(|demi, path| {
        std::fs::write(&path, pattern(100_000)).unwrap();
        let qd = demi.open(&path, &read_only()).unwrap();
        let tokens: Vec<_> = (0..10).map(|_| demi.pop(qd).unwrap()).collect();
        let read: Vec<u8> =
            tokens.into_iter().flat_map(|token| completion(demi, token).popped().unwrap().to_vec()).collect();
        assert_eq!(read, pattern(100_000));
    });
}

#[test]
fn seek_and_truncate() {
    each(|demi, path| {
        let qd = demi.creat(&path).unwrap();
        push(demi, qd, b"0123456789").unwrap();
        assert_eq!(demi.seek(qd, SeekTo::Position(Position(4))), Ok(Position(4)));
        assert_eq!(pop(demi, qd).unwrap(), b"456789");
        assert_eq!(demi.seek(qd, SeekTo::Head), Ok(Position(0)));
        demi.truncate(qd, Position(3)).unwrap();
        assert_eq!(pop(demi, qd).unwrap(), b"012");
        assert_eq!(demi.seek(qd, SeekTo::End), Ok(Position(3)));
        assert_eq!(push(demi, qd, b"abc"), Ok(Position(3)));
        assert_eq!(pop(demi, qd).unwrap(), b"abc");
        assert!(matches!(demi.truncate(qd, Position(7)), Err(Error::Invalid(_))));
        assert!(matches!(demi.seek(qd, SeekTo::Position(Position(u64::MAX))), Err(Error::Invalid(_))));
        demi.truncate(qd, Position(0)).unwrap();
        assert_eq!(pop(demi, qd).unwrap(), b"");
    });
}

#[test]
fn a_flush_follows_what_was_pushed() {
    each(|demi, path| {
        let qd = demi.creat(&path).unwrap();
        let pushed = demi.push(qd, demi.copy_from(&pattern(1 << 20)).unwrap()).unwrap();
        assert!(matches!(flush(demi, qd), Ok(Done::Flushed)));
        assert_eq!(completion(demi, pushed).pushed(), Ok(Position(0)));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    });
}

#[test]
fn a_closed_file_gets_what_was_pushed() {
    each(|demi, path| {
        let qd = demi.creat(&path).unwrap();
        let tokens: Vec<_> =
            (0..50).map(|_| demi.push(qd, demi.copy_from(&pattern(50_000)).unwrap()).unwrap()).collect();
        let popped = demi.pop(qd).unwrap();
        demi.close(qd).unwrap();
        assert_eq!(demi.pop(qd).unwrap_err(), Error::BadDescriptor);
        // The pop may have been served before the close.
        completion(demi, popped).result.map(drop).unwrap_or_else(|error| assert_eq!(error, Error::Cancelled));
        for token in tokens {
            completion(demi, token).pushed().unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), pattern(50_000).repeat(50));
        assert_eq!(live(demi) >> 16, 0);
    });
}

#[test]
fn dropping_the_instance_waits_for_the_kernel() {
    each(|demi, path| {
        let qd = demi.open(&path, &durable()).unwrap();
        for _ in 0..100 {
            demi.push(qd, demi.copy_from(&pattern(10_000)).unwrap()).unwrap();
            demi.pop(qd).unwrap();
        }
    });
}

#[test]
fn open_options_mean_what_they_say() {
    let demi = demi();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    assert_eq!(demi.open(&path, &OpenOptions::default()), Err(Error::NotFound));
    let exclusive =
        OpenOptions { create: true, exclusive: true, mode: Some(0o600), ..OpenOptions::default() };
    let qd = demi.open(&path, &exclusive).unwrap();
    assert_eq!(demi.open(&path, &exclusive), Err(Error::Exists));
    push(&demi, qd, b"content").unwrap();
    let reader = demi.open(&path, &read_only()).unwrap();
    assert_eq!(demi.push(reader, demi.copy_from(b"x").unwrap()).unwrap_err().error, Error::ReadOnly);
    assert_eq!(demi.truncate(reader, Position(0)), Err(Error::ReadOnly));
    assert_eq!(pop(&demi, reader).unwrap(), b"content");
    let fresh = OpenOptions { truncate: true, ..OpenOptions::default() };
    let fresh = demi.open(&path, &fresh).unwrap();
    assert_eq!(pop(&demi, fresh).unwrap(), b"");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for nonsense in [
        OpenOptions { exclusive: true, ..OpenOptions::default() },
        OpenOptions { read_only: true, truncate: true, ..OpenOptions::default() },
    ] {
        assert!(matches!(demi.open(&path, &nonsense), Err(Error::Invalid(_))));
    }
}

#[test]
fn only_regular_files_can_be_opened() {
    let demi = demi();
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [dir.path().to_path_buf(), PathBuf::from("/dev/null"), PathBuf::from("/dev/tty"), pipe] {
        for options in [OpenOptions::default(), read_only()] {
            let refused = demi.open(&path, &options);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{}: {refused:?}", path.display());
        }
    }
}

#[test]
fn a_recalled_pop_loses_nothing() {
    each(|demi, path| {
        std::fs::write(&path, pattern(1000)).unwrap();
        let qd = demi.open(&path, &read_only()).unwrap();
        let tokens: Vec<_> = (0..3).map(|_| demi.pop_n(qd, 100).unwrap()).collect();
        let mut read = Vec::new();
        for (at, token) in tokens.into_iter().enumerate() {
            if at == 1 && demi.cancel(token).is_ok() {
                assert_eq!(wait(demi, token).unwrap_err(), Error::Cancelled);
                continue;
            }
            read.extend(completion(demi, token).popped().unwrap().to_vec());
        }
        read.extend(pop_exactly(demi, qd, 1000 - read.len()));
        assert_eq!(read, pattern(1000));
    });
}

#[test]
fn a_full_device_fails_the_push_and_leaves_no_trace() {
    // A file system of 1 MiB needs privileges; a file-size limit or /dev/full would not take this path.
    let dir = TempDir::new().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(dir.path())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: may not mount");
        return;
    }
    for entries in [64, 0] {
        let demi = demi_with(&format!("[catnap]\nfile_ring_entries = {entries}\n"));
        let path = dir.path().join(format!("file{entries}"));
        let qd = demi.creat(&path).unwrap();
        push(&demi, qd, &pattern(1000)).unwrap();
        assert_eq!(push(&demi, qd, &pattern(2 << 20)), Err(Error::NoSpace));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1000);
        assert_eq!(push(&demi, qd, b"small"), Ok(Position(1000)));
        drop(demi);
        std::fs::remove_file(path).unwrap();
    }
    let _ = std::process::Command::new("umount").arg(dir.path()).status();
}

#[test]
fn without_a_ring_calls_block_and_are_counted() {
    let dir = TempDir::new().unwrap();
    for (entries, blocking) in [(64, 1), (0, 3)] {
        let demi = demi_with(&format!("[catnap]\nfile_ring_entries = {entries}\n"));
        let qd = demi.creat(dir.path().join("file")).unwrap();
        push(&demi, qd, b"x").unwrap();
        pop(&demi, qd).unwrap();
        assert_eq!(counter(&demi, "file_calls_blocking"), blocking);
        assert_eq!(counter(&demi, "file_writes"), 1);
    }
}

#[test]
fn a_recalled_push_gives_its_place_in_the_ring_to_the_next_file() {
    let demi = demi_with("[catnap]\nfile_ring_entries = 1\n");
    let dir = TempDir::new().unwrap();
    let files = ["a", "b", "c", "d"].map(|name| demi.open(dir.path().join(name), &durable()).unwrap());
    let mut recalled = 0;
    for _ in 0..50 {
        let tokens = files.map(|file| demi.push(file, demi.copy_from(b"x").unwrap()).unwrap());
        let results = [1, 2].map(|at| demi.cancel(tokens[at]).is_ok());
        recalled += results.iter().filter(|recalled| **recalled).count();
        for (at, token) in tokens.into_iter().enumerate() {
            let result = wait(&demi, token);
            match at {
                1 | 2 if results[at - 1] => assert_eq!(result.unwrap_err(), Error::Cancelled),
                _ => drop(result.unwrap()),
            }
        }
    }
    assert_ne!(recalled, 0, "no push ever had to wait for the ring");
}
