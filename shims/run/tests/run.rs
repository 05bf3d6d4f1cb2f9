//! `demi-run` itself: what it hands to a program, and what it refuses.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demi-run"));
    command.args(args).stdin(Stdio::null()).env_remove("LD_PRELOAD").env_remove("DEMI_CONFIG");
    command.output().unwrap()
}

fn complaint(args: &[&str]) -> String {
    let output = run(args);
    assert!(!output.status.success(), "{args:?} succeeds");
    String::from_utf8(output.stderr).unwrap()
}

/// A library that every program takes: one that this test has loaded itself.
fn some_library() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc.so"));
    path.expect("this test is linked dynamically").to_owned()
}

#[test]
fn the_program_takes_its_place_with_library_and_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("demi.toml");
    std::fs::write(&config, "[preload]\nguard_ms = 5\n").unwrap();
    let (library, config) = (some_library(), config.to_str().unwrap().to_owned());
    let script = "echo $LD_PRELOAD $DEMI_CONFIG $0 $1; exit 7";
    let output =
        run(&["--library", &library, "--config", &config, "--", "sh", "-c", script, "zero", "--one"]);
    let canonical = |path: &str| PathBuf::from(path).canonicalize().unwrap().display().to_string();
    let expected = format!("{} {} zero --one\n", canonical(&library), canonical(&config));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let library = some_library();
    let bad = file("bad.toml", "[preload]\n\nguard_ms = 0\n");
    let text = file("text", "no program");
    for (args, parts) in [
        (vec!["--library", "/nonexistent.so", "--", "sh"], vec!["/nonexistent.so", "no such library"]),
        (vec!["--library", &library, "--config", &bad, "--", "sh"], vec!["bad.toml:3", "guard_ms"]),
        (vec!["--library", &library, "--config", "/nonexistent", "--", "sh"], vec!["/nonexistent"]),
        (vec!["--library", &library, "--", "/nonexistent"], vec!["/nonexistent", "cannot be read"]),
        (vec!["--library", &library, "--", "no-such-program-here"], vec!["no-such-program-here", "PATH"]),
        (vec!["--library", &library, "--", &text], vec!["text", "neither an ELF program nor a script"]),
    ] {
        let complaint = complaint(&args);
        for part in parts {
            assert!(complaint.contains(part), "{args:?}: {complaint}");
        }
    }
}
