//! redis-server: its own benchmark, with and without pipelining, a snapshot during load, and what the snapshot holds.

use demi_shim_tests::{Bed, Child, Stack, eventually};
use rustix::process::Signal;

use super::tools::{ask, connect, finish, free_port, peer, subject, times};

/// Every test that the benchmark does of itself.
const TESTS: [&str; 20] = [
    "PING_INLINE",
    "PING_MBULK",
    "SET",
    "GET",
    "INCR",
    "LPUSH",
    "RPUSH",
    "LPOP",
    "RPOP",
    "SADD",
    "HSET",
    "SPOP",
    "ZADD",
    "ZPOPMIN",
    "LPUSH (needed to benchmark LRANGE)",
    "LRANGE_100 (first 100 elements)",
    "LRANGE_300 (first 300 elements)",
    "LRANGE_500 (first 500 elements)",
    "LRANGE_600 (first 600 elements)",
    "MSET (10 keys)",
];

pub(crate) fn run(bed: &Bed) {
    let addr = bed.subject_addr(false);
    let port = free_port();
    let text = port.to_string();
    let folder = bed.folder().to_str().unwrap().to_owned();
    let arguments = [
        "--bind",
        addr,
        "--port",
        &text,
        "--dir",
        &folder,
        "--save",
        "",
        "--protected-mode",
        "no",
        "--daemonize",
        "no",
        "--enable-debug-command",
        "yes",
    ];
    let mut server = Child::start(subject(bed, "redis-server", &arguments));
    drop(connect(bed, &mut server, addr, port));

    let count = (1000 * times()).to_string();
    for pipeline in ["1", "16"] {
        let args = ["-h", addr, "-p", &text, "-c", "50", "-n", &count, "-P", pipeline, "-q"];
        let said = ask(bed, &mut server, "redis-benchmark", &args);
        for test in TESTS {
            let done = said
                .split(['\r', '\n'])
                .any(|line| line.strip_prefix(test).is_some_and(|rest| rest.contains("requests per second")));
            assert!(done, "no result of {test}:\n{said}");
        }
    }

    let mut cli =
        |args: &[&str]| ask(bed, &mut server, "redis-cli", &[&["-h", addr, "-p", &text], args].concat());
    assert_eq!(cli(&["debug", "populate", "50000", "key", "100"]), "OK");
    // A snapshot while others write; the child that makes it has nothing to do with connections.
    let args = [
        "-h",
        addr,
        "-p",
        &text,
        "-c",
        "50",
        "-n",
        &(20_000 * times()).to_string(),
        "-r",
        "1000",
        "-t",
        "set,get,incr",
        "-q",
    ];
    let mut load = Child::start(peer(bed, "redis-benchmark", &args));
    assert_eq!(cli(&["bgsave"]), "Background saving started");
    eventually("the snapshot is done", || cli(&["info", "persistence"]).contains("rdb_bgsave_in_progress:0"));
    assert!(cli(&["info", "persistence"]).contains("rdb_last_bgsave_status:ok"));
    finish(&mut server, &mut load);

    // And one at rest, which another server reads.
    let mut cli =
        |args: &[&str]| ask(bed, &mut server, "redis-cli", &[&["-h", addr, "-p", &text], args].concat());
    let digest = cli(&["debug", "digest"]);
    assert_eq!(cli(&["save"]), "OK");
    let size = cli(&["dbsize"]);
    assert!(size.parse::<u32>().unwrap() >= 50_000, "{size} keys");
    assert!(server.stop(Signal::TERM).success(), "{}", server.report());

    let fresh = Bed::new(Stack::Kernel).unwrap();
    let port = free_port();
    let text = port.to_string();
    let args = [
        "--bind",
        "127.0.0.1",
        "--port",
        &text,
        "--dir",
        &folder,
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ];
    let mut other = Child::start(subject(&fresh, "redis-server", &args));
    drop(connect(&fresh, &mut other, "127.0.0.1", port));
    eventually("the other server has read it", || {
        ask(&fresh, &mut other, "redis-cli", &["-p", &text, "debug", "digest"]) == digest
    });
    other.stop(Signal::TERM);
}
