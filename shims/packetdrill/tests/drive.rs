//! A program in C loads the library and uses it as packetdrill does, in virtual and in real time.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The library that was built beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let beside = test.parent().expect("a folder of tests").join("libdemi_packetdrill.so");
    assert!(beside.exists(), "there is no {}", beside.display());
    beside
}

fn drive(flags: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("drive");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/drive.c");
    let mut cc = Command::new("cc");
    cc.args(["-D_GNU_SOURCE", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(source);
    assert!(cc.arg("-ldl").status().expect("a C compiler").success());
    Command::new("timeout").arg("60").arg(&program).arg(library()).arg(flags).output().expect("the program")
}

fn passes(flags: &str) {
    let output = drive(flags);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn both_ways_in_virtual_time() {
    passes("virtual");
}

#[test]
fn both_ways_in_real_time() {
    passes("real;time_wait_ms=1000");
}

#[test]
fn flags_that_make_no_sense_leave_calls_that_fail() {
    let output = drive("nonsense");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"nonsense\": a flag is"));
}
