//! What people see first: help, and errors that say what to do next.
//!
//! The help texts stand in `tests/help`; `UPDATE_HELP=1 cargo test -p demi-examples` writes them anew.

mod support;

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use support::{ECHO, IPERF3, KV, PIPELINE, RELAY, command, run, text, wait_output};

#[test]
fn help_is_as_recorded() {
    for (program, args, file) in [
        (ECHO, &["--help"][..], "echo"),
        (ECHO, &["server", "--help"], "echo-server"),
        (ECHO, &["client", "--help"], "echo-client"),
        (KV, &["--help"], "kv"),
        (KV, &["client", "--help"], "kv-client"),
        (IPERF3, &["--help"], "iperf3"),
        (RELAY, &["--help"], "relay"),
        (PIPELINE, &["--help"], "pipeline"),
    ] {
        let output = run(program, args);
        assert!(output.status.success());
        let help = text(&output.stdout);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/help/{file}.txt"));
        if std::env::var_os("UPDATE_HELP").is_some() {
            std::fs::write(&path, &help).unwrap();
        }
        let recorded = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(help, recorded, "{} is out of date", path.display());
    }
}

#[test]
fn wrong_arguments_name_the_argument() {
    for (program, args, parts) in [
        (KV, &["--listen", "nowhere"][..], &["nowhere", "--listen", "IP:PORT"][..]),
        (KV, &["--listen"], &["--listen <ADDR>"]),
        (KV, &["--lisen", "127.0.0.1:1"], &["--lisen", "--listen"]),
        (KV, &["--maxmemory", "many"], &["many", "--maxmemory"]),
        (ECHO, &["client"], &["--connect"]),
        (ECHO, &["client", "--connect", "127.0.0.1:1", "--size", "0"], &["--size", "1.."]),
        (ECHO, &["sever"], &["sever", "server"]),
        (IPERF3, &["--time", "1"], &["--server", "--client <ADDR>"]),
        (IPERF3, &["--client", "nowhere"], &["nowhere", "--client", "IP:PORT"]),
        (IPERF3, &["--client", "127.0.0.1", "--parallel", "129"], &["129", "--parallel", "1..=128"]),
        (RELAY, &["--listen", "127.0.0.1:0"], &["--forward"]),
        (PIPELINE, &[], &["--listen", "--demo"]),
        (PIPELINE, &["--listen", "tcp:here"], &["tcp:here", "IP:PORT"]),
        (PIPELINE, &["--demo", "--severity", "8"], &["8", "--severity"]),
    ] {
        let output = run(program, args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty());
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in: {said}");
        }
    }
}

/// Fails with code 1 and one line, which contains all of `parts`.
fn fails(program: &str, args: &[&str], parts: &[&str]) {
    let output = run(program, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn an_address_in_use() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = tcp.local_addr().unwrap().to_string();
    let parts = ["cannot listen on ", &taken, "address already in use", "choose another port"];
    fails(KV, &["--listen", &taken], &parts);
    fails(ECHO, &["server", "--listen", &taken], &parts);
    fails(PIPELINE, &["--listen", &format!("tcp:{taken}")], &parts);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = udp.local_addr().unwrap().to_string();
    let parts = ["cannot listen on ", &taken, "address already in use", "choose another port"];
    fails(ECHO, &["server", "--udp", "--listen", &taken], &parts);
    fails(RELAY, &["--listen", &taken, "--forward", "127.0.0.1:9"], &parts);
    fails(PIPELINE, &["--listen", &taken], &parts);
}

#[test]
fn an_address_of_another_machine() {
    fails(
        KV,
        &["--listen", "192.0.2.1:7"],
        &["cannot listen on 192.0.2.1:7", "use an address of this machine"],
    );
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(ECHO, &["client", "--connect", &free], &["cannot connect to ", &free, "is the server running?"]);
    fails(ECHO, &["client", "--udp", "--connect", &free], &[&free, "is the server running with --udp?"]);
    fails(
        ECHO,
        &["client", "--connect", "unix:/nonexistent/s"],
        &["unix:/nonexistent/s", "is the server running?"],
    );
    fails(ECHO, &["client", "--udp", "--size", "4", "--connect", &free], &["--udp needs --size 8 or more"]);
}

#[test]
fn a_bad_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demi.toml");
    std::fs::write(&path, "[heap]\nsiz_mib = 3\n").unwrap();
    let name = path.to_str().unwrap();
    for args in [&["--config", name, "--listen", "127.0.0.1:0"][..], &["--listen", "127.0.0.1:0"]] {
        let mut command = command(KV, args);
        command.env("DEMI_CONFIG", name);
        let command = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = wait_output(command.spawn().unwrap());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains(name) && said.contains("line 2") && said.contains("siz_mib"), "{said}");
    }
    fails(KV, &["--config", "/nonexistent.toml"], &["/nonexistent.toml", "No such file"]);
    fails(KV, &["--maxmemory", "4000", "--listen", "127.0.0.1:0"], &["--maxmemory", "raise heap.size_mib"]);
}
