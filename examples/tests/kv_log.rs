//! The key-value server with a log: what it has acknowledged is there after it was started again.

mod support;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::resp::{Client, Reply};
use support::{KV, KV_LOG, Server, command, eventually, run, text};
use tempfile::TempDir;

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// A place for a log: on the disk, or in memory.
fn place(on_disk: bool) -> (TempDir, PathBuf) {
    let folder = match on_disk {
        true => tempfile::tempdir(),
        false => tempfile::tempdir_in("/dev/shm"),
    };
    let folder = folder.unwrap();
    let path = folder.path().join("kv.log");
    (folder, path)
}

fn start(path: &Path, size_mib: &str) -> (Server, Client) {
    let args = [&LISTEN[..], &["--log", path.to_str().unwrap(), "--log-size", size_mib]].concat();
    let server = Server::start(KV_LOG, &args);
    let client = Client::connect(server.addr());
    (server, client)
}

#[test]
fn everything_is_there_after_a_restart() {
    for on_disk in [true, false] {
        let (_folder, path) = place(on_disk);
        let (server, mut client) = start(&path, "16");
        let large = vec![b'v'; 300_000];
        for (words, reply) in [
            ("SET gone 1", "+OK"),
            ("FLUSHALL", "+OK"),
            ("SET a 1", "+OK"),
            ("INCRBY a 41", ":42"),
            ("MSET b 2 c 3 d 4", "+OK"),
            ("DEL b nothing", ":1"),
            ("GETDEL c", "$3"),
            ("SET e 5 EX 1000", "+OK"),
            ("SET f 6 PX 1", "+OK"),
            ("SET g 7 PX 20", "+OK"),
            ("EXPIRE g 1000", ":1"),
            ("SET h 8 EX 1000", "+OK"),
            ("PERSIST h", ":1"),
            ("GETSET a x", "$42"),
            ("SET a y XX GET", "$x"),
            ("SETNX a z", ":0"),
        ] {
            assert_eq!(client.ask(words), reply, "{words}");
        }
        assert_eq!(client.call(&[b"SET", b"large", &large]), Reply::Status("OK".into()));
        assert_eq!(client.call(&[b"MSET", b"l1", &large, b"l2", &large]), Reply::Status("OK".into()));
        sleep(Duration::from_millis(30));
        server.kill();
        for _ in 0..2 {
            let (server, mut client) = start(&path, "1");
            for (words, reply) in [
                ("MGET gone a b c d e f g h", "[nil $y nil nil $4 $5 nil $7 $8]"),
                ("TTL a", ":-1"),
                ("TTL h", ":-1"),
                ("DBSIZE", ":8"),
            ] {
                assert_eq!(client.ask(words), reply, "{words}");
            }
            for words in ["TTL e", "TTL g"] {
                let left = client.ask(words);
                assert!((":990"..=":999").contains(&&left[..]) || left == ":1000", "{words}: {left}");
            }
            for key in [&b"large"[..], b"l1", b"l2"] {
                assert_eq!(client.call(&[b"GET", key]), Reply::Bulk(large.clone()));
            }
            server.stop();
        }
    }
}

/// What a client knows of its keys: it sets them to rising numbers, in turn.
struct Known {
    name: usize,
    sent: u64,
    acknowledged: u64,
}

const KEYS: u64 = 40;
const PIPELINE: u64 = 16;

impl Known {
    fn key(&self, key: u64) -> String {
        format!("k{}:{key}", self.name)
    }

    /// Sets keys until the server dies.
    fn set_on(&mut self, addr: std::net::SocketAddr) {
        let mut client = Client::connect(addr);
        let padding = "p".repeat(300);
        loop {
            let numbers = self.sent + 1..=self.sent + PIPELINE;
            let requests: Vec<u8> = numbers
                .flat_map(|number| {
                    let value = format!("{number} {padding}");
                    support::resp::request(&[b"SET", self.key(number % KEYS).as_bytes(), value.as_bytes()])
                })
                .collect();
            self.sent += PIPELINE;
            if client.try_send(&requests).is_none() {
                return;
            }
            for number in self.sent - PIPELINE + 1..=self.sent {
                match client.try_reply() {
                    Some(Reply::Status(ok)) if ok == "OK" => self.acknowledged = number,
                    Some(other) => panic!("{other}"),
                    None => return,
                }
            }
        }
    }

    /// Whether the server has what was acknowledged, and nothing that was not sent.
    fn check(&self, client: &mut Client) {
        for key in 0..KEYS {
            // The newest number of this key that is not above the limit.
            let newest = |limit: u64| (limit + 1).saturating_sub(KEYS)..=limit;
            let least = newest(self.acknowledged).find(|number| number % KEYS == key && *number > 0);
            let got = match client.call(&[b"GET", self.key(key).as_bytes()]) {
                Reply::Bulk(value) => {
                    let value = String::from_utf8(value).unwrap();
                    value.split(' ').next().unwrap().parse::<u64>().unwrap()
                }
                Reply::Null => 0,
                other => panic!("{other}"),
            };
            assert!(got == 0 || got % KEYS == key);
            let least = least.unwrap_or(0);
            assert!(
                (least..=self.sent).contains(&got),
                "{}: {got} is there, {least} was acknowledged, {} sent",
                self.key(key),
                self.sent
            );
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kills_at_any_time_and_compactions() {
    let mut rng = fastrand::Rng::new();
    for (on_disk, rounds) in [(false, 8), (true, 4)] {
        let (_folder, path) = place(on_disk);
        let mut known: Vec<Known> = (0..8).map(|name| Known { name, sent: 0, acknowledged: 0 }).collect();
        let mut compactions = 0;
        for round in 0..rounds {
            // Small, so that it is compacted many times a second.
            let (server, mut client) = start(&path, "8");
            known.iter().for_each(|known| known.check(&mut client));
            let addr = server.addr();
            let before: u64 = known.iter().map(|known| known.acknowledged).sum();
            std::thread::scope(|scope| {
                for known in &mut known {
                    scope.spawn(move || known.set_on(addr));
                }
                sleep(Duration::from_millis(rng.u64(300..1500)));
                compactions += client.info("log_compactions");
                server.kill();
            });
            let after: u64 = known.iter().map(|known| known.acknowledged).sum();
            assert!(after > before, "round {round}");
        }
        assert!(compactions > 0);
        let (server, mut client) = start(&path, "8");
        known.iter().for_each(|known| known.check(&mut client));
        server.stop();
    }
}

#[test]
fn redis_benchmark_is_killed_in_the_middle() {
    let (_folder, path) = place(true);
    let (server, _) = start(&path, "64");
    let port = server.addr().port().to_string();
    let mut load = command("redis-benchmark", &["-p", &port, "-t", "set", "-c", "50", "-P", "16"]);
    load.args(["-n", "100000000", "-r", "10000", "-q"]);
    let load = load.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let Ok(mut load) = load else {
        eprintln!("SKIPPED: redis-benchmark is not installed; `apt-get install redis-tools` brings it");
        return;
    };
    let mut known = Known { name: 0, sent: 0, acknowledged: 0 };
    let addr = server.addr();
    std::thread::scope(|scope| {
        scope.spawn(|| known.set_on(addr));
        sleep(Duration::from_millis(1500));
        server.kill();
    });
    let _ = load.kill();
    load.wait().unwrap();
    assert!(known.acknowledged > 0);
    let (server, mut client) = start(&path, "64");
    known.check(&mut client);
    let Reply::Integer(keys) = client.call(&[b"DBSIZE"]) else { panic!("DBSIZE is a number") };
    assert!(keys > 1000, "{keys}");
    server.stop();
}

#[test]
fn redis_benchmark_finds_no_fault() {
    let (_folder, path) = place(false);
    let (server, mut client) = start(&path, "256");
    let port = server.addr().port().to_string();
    for more in [&["-n", "20000", "-c", "50", "-P", "16"][..], &["-n", "2000", "-c", "20", "-d", "20000"]] {
        let args = ["-p", &port, "-t", "set,get,incr,mset", "--csv"];
        let mut load = command("redis-benchmark", &[&args[..], more].concat());
        let piped = std::process::Stdio::piped;
        let Ok(load) = load.stdout(piped()).stderr(piped()).spawn() else {
            eprintln!("SKIPPED: redis-benchmark is not installed; `apt-get install redis-tools` brings it");
            return;
        };
        let output = support::wait_output(load);
        let lines = text(&output.stdout);
        assert!(output.status.success(), "{}", text(&output.stderr));
        for name in ["SET", "GET", "INCR", "MSET (10 keys)"] {
            assert!(lines.contains(&format!("\"{name}\",")), "{name} is missing in {lines}");
        }
    }
    assert_eq!(client.ask("CONFIG GET appendonly"), "[$appendonly $yes]");
    server.stop();
}

#[test]
fn a_full_log_refuses_what_grows_and_goes_on_reading() {
    let (_folder, path) = place(false);
    let (server, mut client) = start(&path, "4");
    let value = vec![b'v'; 10_000];
    let mut stored = 0;
    let full = loop {
        match client.call(&[b"SET", format!("k{stored}").as_bytes(), &value]) {
            Reply::Status(_) => stored += 1,
            Reply::Error(text) => break text,
            other => panic!("{other}"),
        }
        assert!(stored < 1000, "more than the log can hold");
    };
    assert!(full.starts_with("MISCONF the log is full: remove keys"), "{full}");
    assert!(stored > 60, "{stored}");
    let check = |client: &mut Client, keys: std::ops::Range<usize>| {
        for key in keys {
            assert_eq!(client.call(&[b"GET", format!("k{key}").as_bytes()]), Reply::Bulk(value.clone()));
        }
    };
    check(&mut client, 0..stored);
    assert_eq!(client.ask(&format!("EXISTS k{stored}")), ":0");
    server.kill();
    let (server, mut client) = start(&path, "4");
    check(&mut client, 0..stored);
    for key in 0..stored - 10 {
        assert_eq!(client.ask(&format!("DEL k{key}")), ":1");
    }
    eventually("there is room again", || {
        client.call(&[b"SET", b"new", &value]) == Reply::Status("OK".into())
    });
    // As often as one likes, for the old values are got rid of.
    for _ in 0..2000 {
        assert_eq!(client.call(&[b"SET", b"new", &value]), Reply::Status("OK".into()));
    }
    server.kill();
    let (server, mut client) = start(&path, "4");
    check(&mut client, stored - 10..stored);
    assert_eq!(client.ask("DBSIZE"), ":11");
    server.stop();
}

#[test]
fn a_failing_device_loses_nothing_that_was_acknowledged() {
    let (_folder, path) = place(true);
    let listen = format!("{} --log {} --log-size 16", LISTEN.join(" "), path.display());
    // Beyond a limit that is set later, writes fail.
    let server =
        Server::start_with(command("sh", &["-c", &format!("trap '' XFSZ; exec {KV_LOG} {listen}")]), 1);
    let mut client = Client::connect(server.addr());
    assert_eq!(client.ask("MSET a 1 b 2"), "+OK");
    let limit = Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) };
    prlimit(Pid::from_raw(server.id() as i32), Resource::Fsize, limit).unwrap();
    client.send(b"SET a 3\r\nDEL b\r\nSET c 4\r\nGET a\r\n");
    for _ in 0..3 {
        let reply = client.reply().to_string();
        assert!(reply.starts_with("-MISCONF the log has failed ("), "{reply}");
    }
    client.reply();
    for (words, reply) in [("GET a", "$1"), ("GET b", "$2"), ("EXISTS c", ":0"), ("DBSIZE", ":2")] {
        assert_eq!(client.ask(words), reply, "{words}");
    }
    assert!(client.ask("SET a 5").contains("nothing can be changed until a restart"));
    let (_, complaints) = server.stop_with_complaints();
    assert!(complaints.contains("the log has failed"), "{complaints}");
    let (server, mut client) = start(&path, "16");
    // What was refused may be found nevertheless; what was acknowledged must be.
    let found = client.ask("MGET a b");
    assert!(found == "[$1 $2]" || found == "[$3 nil]", "{found}");
    assert_eq!(client.ask("SET a 6"), "+OK");
    server.stop();
}

fn refused(program: &str, args: &[&str], parts: &[&str]) {
    let output = run(program, &[&LISTEN[..], args].concat());
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn a_log_that_cannot_be_had_is_refused_with_a_reason() {
    let (folder, path) = place(false);
    let name = path.to_str().unwrap();
    let (server, _client) = start(&path, "8");
    refused(KV_LOG, &["--log", name], &[name, "another instance has it open"]);
    server.stop();
    refused(KV, &["--log", name], &["keeps no logs", "-cattree"]);
    refused(KV_LOG, &["--log"], &["--log needs a PATH", "[cattree.device]"]);
    refused(KV_LOG, &["--log", "/nonexistent/kv.log"], &["/nonexistent/kv.log"]);
    let other = folder.path().join("other");
    std::fs::write(&other, vec![b'x'; 8 << 20]).unwrap();
    refused(KV_LOG, &["--log", other.to_str().unwrap()], &["holds something, but no logs"]);

    // The configuration can name the device as well.
    let config = folder.path().join("demi.toml");
    std::fs::write(&config, format!("[cattree.device]\nkind = \"uring\"\npath = {name:?}\n")).unwrap();
    let config = config.to_str().unwrap();
    refused(KV_LOG, &["--config", config, "--log", name], &["say --log without PATH"]);
    let server = Server::start(KV_LOG, &[&LISTEN[..], &["--config", config, "--log"]].concat());
    assert_eq!(Client::connect(server.addr()).ask("DBSIZE"), ":0");
    server.stop();
}

#[test]
fn a_record_that_is_not_known_is_named_with_its_place() {
    use demi_api::{Config, Demikernel, OpenOptions};
    use demi_libos_cattree::Cattree;

    let (_folder, path) = place(false);
    let (server, mut client) = start(&path, "8");
    assert_eq!(client.ask("SET a 1"), "+OK");
    server.stop();
    for (element, parts) in [
        (&b"KV\x01\0\x04\x63"[..], &["at byte 5: a record of the unknown kind 99"][..]),
        (b"KV\x02\0", &["version 2 is not known"]),
        (b"hello", &["not of a key-value server"]),
        (b"KV\x01\0\x02\xff\xff\xff\xff", &["at byte 4: a record is cut off"]),
    ] {
        let text = format!("[heap]\nsize_mib = 8\n[cattree.device]\nkind = \"uring\"\npath = {path:?}\n");
        let demi = Demikernel::<Cattree>::new(&Config::parse(&text, "test").unwrap()).unwrap();
        let qd = demi.open("kv", &OpenOptions { durable: true, ..OpenOptions::default() }).unwrap();
        let token = demi.push(qd, demi.copy_from(element).unwrap()).unwrap();
        let position = demi.wait(token, None).unwrap().pushed().unwrap();
        drop(demi);
        refused(KV_LOG, &["--log", path.to_str().unwrap()], parts);
        refused(KV_LOG, &["--log", path.to_str().unwrap()], &["in element 2 from its beginning"]);
        let demi = Demikernel::<Cattree>::new(&Config::parse(&text, "test").unwrap()).unwrap();
        let qd = demi.open("kv", &OpenOptions { durable: true, ..OpenOptions::default() }).unwrap();
        demi.truncate(qd, position).unwrap();
    }
    let (server, mut client) = start(&path, "8");
    assert_eq!(client.ask("GET a"), "$1");
    server.stop();
}
