//! `kv` with the tools of Redis itself. Where they are not installed these tests say so and do nothing.

mod support;

use std::process::{Command, Stdio};

use support::{KV, Server, command, text, wait_output};

/// Whether a tool can be run; says why not.
fn is_here(tool: &str) -> bool {
    let here = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if here.is_err() {
        eprintln!("SKIPPED: {tool} is not installed; `apt-get install redis-tools` brings it");
    }
    here.is_ok()
}

fn run_tool(server: &Server, tool: &str, args: &[&str]) -> String {
    let port = server.addr().port().to_string();
    let mut command = command(tool, &[&["-h", "127.0.0.1", "-p", &port], args].concat());
    let output = wait_output(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "", "{tool} complains");
    stdout
}

#[test]
fn redis_cli() {
    if !is_here("redis-cli") {
        return;
    }
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    for (args, expected) in [
        (&["ping"][..], "PONG\n"),
        (&["set", "greeting", "hello world"], "OK\n"),
        (&["get", "greeting"], "hello world\n"),
        (&["incr", "n"], "1\n"),
        (&["mget", "greeting", "none"], "hello world\n\n"),
        (&["ttl", "greeting"], "-1\n"),
        (&["-r", "3", "incr", "n"], "2\n3\n4\n"),
        (&["command", "count"], "36\n"),
        (&["client", "setname", "x"], "OK\n"),
    ] {
        assert_eq!(run_tool(&server, "redis-cli", args), expected, "{args:?}");
    }
    assert!(run_tool(&server, "redis-cli", &["info"]).contains("# Demi"));
    assert!(run_tool(&server, "redis-cli", &["nonsense"]).starts_with("ERR unknown command 'nonsense'"));
    server.stop();
}

#[test]
fn redis_cli_pipe_mode() {
    if !is_here("redis-cli") {
        return;
    }
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("requests");
    let requests: Vec<u8> = (0..20_000)
        .flat_map(|n: u32| support::resp::request(&[b"SET", n.to_string().as_bytes(), b"v"]))
        .collect();
    std::fs::write(&path, requests).unwrap();
    let port = server.addr().port().to_string();
    let mut pipe = command("redis-cli", &["-p", &port, "--pipe"]);
    let pipe = pipe.stdin(std::fs::File::open(&path).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = wait_output(pipe.spawn().unwrap());
    assert!(text(&output.stdout).contains("errors: 0, replies: 20000"), "{}", text(&output.stdout));
    assert_eq!(run_tool(&server, "redis-cli", &["dbsize"]), "20000\n");
    server.stop();
}

#[test]
fn redis_benchmark() {
    if !is_here("redis-benchmark") {
        return;
    }
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    let tests = "ping,set,get,incr,mset";
    for more in [
        &["-n", "20000", "-c", "50", "-P", "16"][..],
        &["-n", "5000", "-c", "20"],
        &["-n", "2000", "-d", "20000"],
    ] {
        let lines = run_tool(&server, "redis-benchmark", &[&["-t", tests, "--csv"], more].concat());
        for name in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
            assert!(lines.contains(&format!("\"{name}\",")), "{name} is missing in {lines}");
        }
    }
    server.stop();
}
