//! `echo` and `kv` where connections carry messages: two processes of one machine, with shared memory between them, and the
//! key-value server's own client, over streams too.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use demi_api::{Addr, Config, Demikernel, Error, QDesc, SocketKind};
use demi_examples::net;
use demi_libos_catmint::Catmint;
use support::{KV, PATIENCE, Server, command, text, wait_output};
use tempfile::TempDir;

const ECHO: &str = env!("CARGO_BIN_EXE_echo-catmint");
const ECHO_LOG: &str = env!("CARGO_BIN_EXE_echo-catmint-cattree");
const KV_MESSAGES: &str = env!("CARGO_BIN_EXE_kv-catmint");
const KV_LOG: &str = env!("CARGO_BIN_EXE_kv-catmint-cattree");

const LISTEN: [&str; 2] = ["--listen", "10.0.0.1:7777"];
const CONNECT: [&str; 2] = ["--connect", "10.0.0.1:7777"];

/// Sleep at once, or for longer than a test lasts never.
const SLEEPING: &str = "[wait]\nspin_min_us = 0\nspin_max_us = 0\n";
const SPINNING: &str = "[wait]\nspin_min_us = 60000000\nspin_max_us = 60000000\n";

/// A place of its own for two instances to meet.
struct Machine {
    folder: TempDir,
    wait: &'static str,
}

impl Machine {
    fn new(wait: &'static str) -> Machine {
        Machine { folder: tempfile::tempdir().unwrap(), wait }
    }

    fn config(&self, address: &str) -> String {
        let directory = self.folder.path().join("rdma");
        let wait = self.wait;
        format!(
            "{wait}[heap]\nsize_mib = 64\nhuge_pages = \"never\"\n[catmint]\ndevice = \"soft\"\n\
             [catmint.soft.shm]\ndirectory = {directory:?}\naddress = \"{address}\"\n"
        )
    }

    fn file(&self, address: &str) -> PathBuf {
        let path = self.folder.path().join(address);
        std::fs::write(&path, self.config(address)).unwrap();
        path
    }

    fn log(&self) -> String {
        self.folder.path().join("log").display().to_string()
    }

    fn serve(&self, program: &str, args: &[&str]) -> Server {
        let mut command = command(program, args);
        command.args(LISTEN).env("DEMI_CONFIG", self.file("10.0.0.1"));
        Server::start_with(command, 1)
    }

    /// Runs a client to its end.
    fn ask(&self, program: &str, args: &[&str]) -> Output {
        let mut command = command(program, &["client", "--json"]);
        command.args(CONNECT).args(args).env("DEMI_CONFIG", self.file("10.0.0.2"));
        wait_output(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// An instance of this process, connected to the server.
    fn connect(&self) -> (Demikernel<Catmint>, QDesc) {
        let demi = Demikernel::new(&Config::parse(&self.config("10.0.0.3"), "test").unwrap()).unwrap();
        let addr: Addr = CONNECT[1].parse().unwrap();
        let qd = net::connect(&demi, &addr, SocketKind::Stream).unwrap();
        (demi, qd)
    }
}

/// The numbers that a client has told, by name.
fn numbers(output: &Output) -> BTreeMap<String, serde_json::Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn echo(machine: &Machine, program: &str, size: &str, window: &str, count: u64) {
    let asked = count.to_string();
    let told = numbers(&machine.ask(program, &["--size", size, "--window", window, "--count", &asked]));
    assert_eq!(told["count"].as_u64(), Some(count), "{size} B, window {window}");
}

#[test]
fn echo_of_small_and_large_messages_asleep_and_awake() {
    for (wait, count) in [(SLEEPING, 500), (SPINNING, 200)] {
        let machine = Machine::new(wait);
        let server = machine.serve(ECHO, &["server"]);
        echo(&machine, ECHO, "64", "1", count);
        echo(&machine, ECHO, "64", "32", 4 * count);
        echo(&machine, ECHO, "4096", "4", count);
        echo(&machine, ECHO, "1048576", "2", 20);
        let summary = server.stop();
        assert!(summary.contains("to 4 connections, 0 of them open"), "{summary}");
    }
}

#[test]
fn echo_of_what_is_durable() {
    let machine = Machine::new("");
    let server = machine.serve(ECHO_LOG, &["server", "--log", &machine.log(), "--log-size", "64"]);
    echo(&machine, ECHO_LOG, "64", "8", 500);
    echo(&machine, ECHO, "4096", "1", 100);
    server.stop();
}

/// Sets every key of 50 connections, gets them all, then both at random; returns what was told of each.
fn set_and_get(ask: impl Fn(&[&str]) -> Output, pipeline: &str, size: &str) {
    let told = |requests: &str| {
        let args = ["--clients", "50", "--keys", "40", "--count", "2000", "--requests", requests];
        let told = numbers(&ask(&[&args[..], &["--pipeline", pipeline, "--size", size]].concat()));
        assert_eq!(told["count"], 2000, "{requests}, pipeline {pipeline}, {size} B");
        (told["verified"].as_u64().unwrap(), told["missing"].as_u64().unwrap())
    };
    assert_eq!(told("set"), (0, 0));
    assert_eq!(told("get"), (2000, 0));
    let (verified, missing) = told("mixed");
    assert!((800..1200).contains(&verified) && missing == 0, "{verified} verified, {missing} missing");
}

#[test]
fn fifty_clients_of_the_key_value_server() {
    let machine = Machine::new("");
    let server = machine.serve(KV_MESSAGES, &[]);
    for (pipeline, size) in [("1", "8"), ("16", "64"), ("4", "10000")] {
        set_and_get(|args| machine.ask(KV_MESSAGES, args), pipeline, size);
    }
    let summary = server.stop();
    assert!(summary.contains("18,000 commands of 450 clients, 2000 keys"), "{summary}");
}

#[test]
fn the_same_client_over_streams() {
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    let addr = server.addr().to_string();
    let ask = |args: &[&str]| support::run(KV, &[&["client", "--json", "--connect", &addr], args].concat());
    for (pipeline, size) in [("1", "8"), ("16", "64")] {
        set_and_get(ask, pipeline, size);
    }
    server.stop();
}

#[test]
fn acknowledged_keys_outlive_the_server() {
    let machine = Machine::new("");
    let log = machine.log();
    let serve = || machine.serve(KV_LOG, &["--log", &log, "--log-size", "64"]);
    let server = serve();
    let keys = ["--clients", "50", "--keys", "40", "--count", "2000", "--pipeline", "8", "--requests"];
    numbers(&machine.ask(KV_LOG, &[&keys[..], &["set"]].concat()));
    server.kill();

    let server = serve();
    let told = numbers(&machine.ask(KV_LOG, &[&keys[..], &["get"]].concat()));
    assert_eq!((told["verified"].as_u64(), told["missing"].as_u64()), (Some(2000), Some(0)));

    // One connection sets its keys in turn, so what is acknowledged is the first so many.
    let alone = ["--clients", "1", "--keys", "1000000", "--pipeline", "8"];
    let setting = [&alone[..], &["--requests", "set", "--count", "1000000"]].concat();
    let acknowledged = std::thread::scope(|scope| {
        let client = scope.spawn(|| machine.ask(KV_LOG, &setting));
        sleep(Duration::from_millis(1500));
        server.kill();
        let output = client.join().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let count = said.split("after ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse::<u64>().ok()).unwrap_or_else(|| panic!("{said}"))
    });
    // More than those that it had from before.
    assert!(acknowledged > 100, "{acknowledged}");
    let server = serve();
    let count = acknowledged.to_string();
    let told =
        numbers(&machine.ask(KV_LOG, &[&alone[..], &["--requests", "get", "--count", &count]].concat()));
    assert_eq!((told["verified"].as_u64(), told["missing"].as_u64()), (Some(acknowledged), Some(0)));
    server.stop();
}

/// The next message.
fn reply(demi: &Demikernel<Catmint>, qd: QDesc) -> Result<Vec<u8>, Error> {
    demi.wait(demi.pop(qd)?, Some(PATIENCE))?.popped().map(|message| message.to_vec())
}

#[test]
fn messages_hold_whole_requests_and_whole_replies() {
    let machine = Machine::new("");
    let server = machine.serve(KV_MESSAGES, &[]);
    let (demi, qd) = machine.connect();
    let push = |qd, bytes: &[u8]| demi.push(qd, demi.copy_from(bytes).unwrap()).map(drop).unwrap();
    push(qd, b"*1\r\n$4\r\nPING\r\nSET a 1\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    assert_eq!(reply(&demi, qd).unwrap(), b"+PONG\r\n+OK\r\n$1\r\n1\r\n");

    // Of more segments than an array has, it is one message all the same.
    let value = vec![b'v'; 20_000];
    push(qd, &[b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$20000\r\n", &value[..], b"\r\n"].concat());
    assert_eq!(reply(&demi, qd).unwrap(), b"+OK\r\n");
    push(qd, format!("MGET{}\r\n", " b".repeat(50)).as_bytes());
    let element = [b"$20000\r\n", &value[..], b"\r\n"].concat();
    assert!(reply(&demi, qd).unwrap() == [b"*50\r\n", &element.repeat(50)[..]].concat());

    // More replies than a client may leave unread: none is lost.
    push(qd, &b"PING\r\n".repeat(200_000));
    let mut pongs = 0;
    while pongs < 200_000 {
        let replies = reply(&demi, qd).unwrap();
        assert!(replies.len().is_multiple_of(7) && replies.chunks(7).all(|pong| pong == b"+PONG\r\n"));
        pongs += replies.len() / 7;
    }

    for malformed in [&b"*1\r\n$4\r\nPIN"[..], b"PING", b"*1\r\n:4\r\n", b"$4\r\nPING\r\n"] {
        let addr: Addr = CONNECT[1].parse().unwrap();
        let bad = net::connect(&demi, &addr, SocketKind::Stream).unwrap();
        push(bad, &[b"PING\r\n", malformed].concat());
        let told = String::from_utf8(reply(&demi, bad).unwrap()).unwrap();
        let rest = told.strip_prefix("+PONG\r\n").unwrap_or_else(|| panic!("{told}"));
        let rest = if rest.is_empty() {
            String::from_utf8(reply(&demi, bad).unwrap()).unwrap()
        } else {
            rest.into()
        };
        assert!(rest.starts_with("-ERR Protocol error: ") && rest.ends_with("\r\n"), "{rest}");
        assert_eq!(reply(&demi, bad), Err(Error::EndOfStream));
        demi.close(bad).unwrap();
    }
    push(qd, b"PING\r\n");
    assert_eq!(reply(&demi, qd).unwrap(), b"+PONG\r\n");
    server.stop();
}
