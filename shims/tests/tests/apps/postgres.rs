//! PostgreSQL: psql and pgbench, over TCP alone; what the transactions did must add up.
//!
//! It refuses to run as root, so as root it is run as nobody, from a folder that is nobody's.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child, shim};
use rustix::process::Signal;

use super::tools::{ask, connect, free_port, path, peer, times};

const NOBODY: u32 = 65534;

pub(crate) fn run(bed: &Bed) {
    let folder = bed.folder().join("postgres");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(bed.folder(), PermissionsExt::from_mode(0o755)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let unprivileged = |mut command: Command| {
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(&folder).env("LC_ALL", "C");
        command
    };
    let data = folder.join("data").display().to_string();
    let mut initdb = Command::new(path("initdb"));
    initdb.args(["-D", &data, "-A", "trust", "-U", "tester", "--no-sync", "--no-locale", "-E", "UTF8"]);
    Child::start(unprivileged(initdb)).succeed(2 * PATIENCE);

    let (addr, port) = (bed.subject_addr(false), free_port());
    let text = port.to_string();
    // A process for each connection, and an instance for each process.
    let mut server = bed.subject_with(&path("postgres"), 16, "");
    readable(bed.folder(), &mut server);
    server.args([
        "-D",
        &data,
        "-p",
        &text,
        "-h",
        addr,
        "-k",
        "",
        "-c",
        "fsync=off",
        "-c",
        "max_connections=40",
    ]);
    server.args(["-c", "shared_buffers=16MB", "-c", "max_wal_size=64MB"]);
    let mut server = Child::start(unprivileged(server));
    drop(connect(bed, &mut server, addr, port));

    let to = ["-h", addr, "-p", &text, "-U", "tester"];
    // It listens before it serves.
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = Child::start(peer(bed, "pg_isready", &to)).result(PATIENCE) {
        assert!(Instant::now() < deadline, "{why}\nthe server:\n{}", server.report());
    }
    let sql = |server: &mut Child, what: &str| {
        ask(bed, server, "psql", &[&to[..], &["-d", "postgres", "-X", "-A", "-t", "-q", "-c", what]].concat())
    };
    assert_eq!(sql(&mut server, "select 6 * 7"), "42");
    // A result of megabytes, and one that takes a while.
    let long = sql(&mut server, "select repeat('x', 1000) from generate_series(1, 3000)");
    assert_eq!((long.lines().count(), long.len()), (3000, 3000 * 1001 - 1));
    assert_eq!(sql(&mut server, "select pg_sleep(0.2), 1"), "|1");
    ask(bed, &mut server, "pgbench", &[&to[..], &["-i", "-q", "-s", "1", "postgres"]].concat());
    let count = (20 * times()).to_string();
    let args = ["-n", "-c", "8", "-j", "2", "-t", &count, "postgres"];
    let said = ask(bed, &mut server, "pgbench", &[&to[..], &args].concat());
    assert!(said.contains("number of failed transactions: 0"), "{said}");
    // The connection is made anew for each.
    let args = ["-n", "-c", "4", "-C", "-S", "-t", "10", "postgres"];
    let said = ask(bed, &mut server, "pgbench", &[&to[..], &args].concat());
    assert!(said.contains("actually processed: 40/40"), "{said}");
    let sums = sql(
        &mut server,
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
         (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers), \
         (select count(*) >= 160 from pgbench_history)",
    );
    assert_eq!(sums, "t|t|t");
    assert!(server.stop(Signal::INT).success(), "{}", server.report());
}

/// Whoever runs the server must be able to read what it is run by, wherever this tree lies: copies stand in.
fn readable(folder: &Path, command: &mut Command) {
    let Some(run) = command.get_program().to_str().filter(|program| program.ends_with("demi-run")) else {
        return;
    };
    assert_eq!(Path::new(run), shim::demi_run());
    let place = folder.join("shim");
    std::fs::create_dir(&place).unwrap();
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
    for entry in std::fs::read_dir(shim::demi_run().parent().unwrap()).unwrap().flatten() {
        let name = entry.file_name();
        let kept = name.to_str().is_some_and(|name| {
            name == "demi-run" || name.starts_with("libdemi_preload_") && name.ends_with(".so")
        });
        if kept {
            std::fs::copy(entry.path(), place.join(name)).unwrap();
        }
    }
    let mut copied = Command::new(place.join("demi-run"));
    copied.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => copied.env(key, value),
            None => copied.env_remove(key),
        };
    }
    *command = copied;
}
