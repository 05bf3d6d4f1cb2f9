//! Fault 15: a missing configuration file was a panic.

use std::process::Command;

use demi_api::config::CONFIG_VARIABLE;
use demi_api::{Demikernel, Error};
use demi_libos_catnap::Catnap;

const EXPECTED: &str = "DEMI_TEST_EXPECTED_ERROR";

/// Fault 15: `DEMI_CONFIG` names what is missing, no file, or no configuration. With the fault the process dies; here
/// it gets an error that names the file, and the line where there is one.
///
/// The environment belongs to the whole process, so each case runs in one of its own.
#[test]
fn fault_15_a_bad_configuration_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cases = [
        ("/nonexistent/demi.toml".to_owned(), "/nonexistent/demi.toml"),
        (dir.path().to_str().unwrap().to_owned(), "cannot read"),
        (String::new(), "cannot read"),
        (write("typo.toml", b"[heap]\nsize_mb = 3\n"), "typo.toml"),
        (write("line.toml", b"[heap]\n\nsize_mib = -3\n"), "line 3"),
        (write("binary.toml", b"\xff\xfe\0\0"), "binary.toml"),
        (write("catnap.toml", b"[catnap]\nspin_queues = 99\n"), "spin_queues"),
        (write("small.toml", b"[heap]\nsize_mib = 4\n"), ""),
    ];
    for (path, expected) in cases {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "configuration::an_instance_from_the_environment", "--nocapture"]);
        let output = child.env(CONFIG_VARIABLE, &path).env(EXPECTED, expected).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{path}: nothing ran");
    }
}

/// By itself: no configuration is needed. Under [`EXPECTED`], the other side of the test above.
#[test]
fn an_instance_from_the_environment() {
    let expected = std::env::var(EXPECTED).unwrap_or_default();
    match Demikernel::<Catnap>::from_env() {
        Ok(_) => assert_eq!(expected, "", "an error was expected"),
        Err(Error::Config(message)) => {
            assert!(!expected.is_empty() && message.contains(&expected), "{message:?} lacks {expected:?}");
        }
        Err(other) => panic!("{other}"),
    }
}
