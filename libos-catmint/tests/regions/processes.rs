//! Each instance in a process of its own, which sleeps when there is nothing to do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use demi_api::config::Config;
use demi_api::{Domain, Error, Position, QDesc, QToken, SeekTo, SocketKind};

use super::place::{Demi, Link, Place, create};

const ROLE: &str = "DEMI_TEST_REGION_ROLE";
const CONFIG: &str = "DEMI_TEST_REGION_CONFIG";
const PATH: &str = "DEMI_TEST_REGION_PATH";

const PATIENCE: Duration = Duration::from_secs(60);
const COUNTS: u64 = 3000;
const ROUNDS: u64 = 100;
const LOCK: Position = Position(8);
const RECORD: Position = Position(64);

/// A process that is ended with the test.
struct Process(Child);

impl Process {
    /// Begins one, and waits until it says that it is ready.
    fn start(role: &str, place: &Place, path: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(CONFIG, &place.text)
            .env(PATH, path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines =
            BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let ready = lines.any(|line| line == "ready");
        let process = Process(child);
        assert!(ready, "the process ended before it was ready");
        std::thread::spawn(move || lines.for_each(drop));
        process
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.code().is_none(), "it ended by itself: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn say_ready() {
    println!("ready");
    std::io::stdout().flush().unwrap();
}

/// What is waited for while others use this instance's regions: nobody.
fn nobody(demi: &Demi, place: &str) -> QToken {
    let listener = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(listener, format!("{place}:80").parse::<demi_api::Addr>().unwrap()).unwrap();
    demi.listen(listener, 1).unwrap();
    demi.accept(listener).unwrap()
}

fn fetched(demi: &Demi, token: QToken) -> u64 {
    demi.wait(token, Some(PATIENCE)).unwrap().fetched().unwrap()
}

/// Counts, several at a time, and then changes a record under a lock.
fn count(demi: &Demi, region: QDesc) {
    let mut tokens = std::collections::VecDeque::new();
    let mut last = None;
    for _ in 0..COUNTS {
        tokens.push_back(demi.fetch_and_add(region, Position(0), 1).unwrap());
        if tokens.len() == 16 {
            let had = fetched(demi, tokens.pop_front().unwrap());
            assert!(last < Some(had), "{last:?}, then {had}");
            last = Some(had);
        }
    }
    for token in tokens {
        assert!(last < Some(fetched(demi, token)));
    }
    let me = u64::from(std::process::id());
    for _ in 0..ROUNDS {
        while fetched(demi, demi.compare_and_swap(region, LOCK, 0, me).unwrap()) != 0 {}
        demi.seek(region, SeekTo::Position(RECORD)).unwrap();
        let record = demi.pop_n(region, 64).unwrap();
        let record = demi.wait(record, Some(PATIENCE)).unwrap().popped().unwrap().to_vec();
        assert!(record.iter().all(|byte| *byte == record[0]), "half written: {record:?}");
        demi.seek(region, SeekTo::Position(RECORD)).unwrap();
        let next = demi.copy_from(&[record[0].wrapping_add(1); 64]).unwrap();
        demi.push(region, next).unwrap();
        // Behind the push, as what is asked of a queue takes effect in order.
        assert_eq!(fetched(demi, demi.compare_and_swap(region, LOCK, me, 0).unwrap()), me);
    }
}

/// All kinds of operations, until somebody ends it.
fn hammer(demi: &Demi, region: QDesc) {
    loop {
        demi.seek(region, SeekTo::Position(RECORD)).unwrap();
        let mut tokens = vec![
            demi.push(region, demi.copy_from(&[7; 3000]).unwrap()).unwrap(),
            demi.pop_n(region, 900).unwrap(),
        ];
        tokens.extend((0..8).map(|_| demi.fetch_and_add(region, Position(16), 1).unwrap()));
        for token in tokens {
            demi.wait(token, Some(PATIENCE)).unwrap().result.unwrap();
        }
    }
}

/// Not a test: what the other processes are.
#[test]
#[ignore = "run by the others as a process of its own"]
fn child() {
    let variable = |name: &str| std::env::var(name).expect("the tests set it");
    let (role, path) = (variable(ROLE), variable(PATH));
    let demi = Demi::new(&Config::parse(&variable(CONFIG), "test.toml").unwrap()).unwrap();
    if role == "export" {
        let _region = demi.open(&path, &create()).unwrap();
        let address = path.trim_start_matches("rdma://").split(':').next().unwrap();
        let nobody = nobody(&demi, address);
        say_ready();
        panic!("{:?}", demi.wait(nobody, Some(PATIENCE)));
    }
    let region = demi.open(&path, &Default::default()).unwrap();
    let found = demi.flush(region).unwrap();
    demi.wait(found, Some(PATIENCE)).unwrap().result.unwrap();
    say_ready();
    match role.as_str() {
        "count" => count(&demi, region),
        "hammer" => hammer(&demi, region),
        role => panic!("what is {role}?"),
    }
    demi.close(region).unwrap();
}

/// Has others use this instance's regions until they have ended, and ended well.
fn serve(demi: &Demi, nobody: QToken, mut users: Vec<Process>) {
    let limit = Instant::now() + PATIENCE;
    while !users.is_empty() {
        assert!(Instant::now() < limit, "they come to no end");
        assert_eq!(demi.wait(nobody, Some(Duration::from_millis(20))).err(), Some(Error::TimedOut));
        users.retain_mut(|user| match user.0.try_wait().unwrap() {
            None => true,
            Some(status) => {
                assert!(status.success(), "{status}");
                false
            }
        });
    }
}

/// Starts a user, and serves it meanwhile.
fn start_user(demi: &Demi, nobody: QToken, role: &str, place: &Place, path: &str) -> Process {
    std::thread::scope(|scope| {
        let started = scope.spawn(|| Process::start(role, place, path));
        while !started.is_finished() {
            assert_eq!(demi.wait(nobody, Some(Duration::from_millis(20))).err(), Some(Error::TimedOut));
        }
        started.join().unwrap()
    })
}

fn word(demi: &Demi, qd: QDesc, at: u64) -> u64 {
    fetched(demi, demi.fetch_and_add(qd, Position(at), 0).unwrap())
}

#[test]
fn processes_count_together_and_take_turns_with_a_lock() {
    for link in [Link::Shm, Link::Udp] {
        let folder = tempfile::tempdir().unwrap();
        let [here, one, other] = [(); 3].map(|()| Place::new(link, folder.path()));
        let demi = here.demi();
        let region = demi.open(here.path("words?size=4096"), &create()).unwrap();
        let nobody = nobody(&demi, &here.ip);
        let users =
            [&one, &other].map(|place| start_user(&demi, nobody, "count", place, &here.path("words")));
        serve(&demi, nobody, users.into());
        assert_eq!(word(&demi, region, 0), 2 * COUNTS, "{link:?}");
        assert_eq!(word(&demi, region, LOCK.0), 0);
        demi.seek(region, SeekTo::Position(RECORD)).unwrap();
        let record = demi.wait(demi.pop_n(region, 64).unwrap(), None).unwrap().popped().unwrap();
        assert_eq!(record.to_vec(), [(2 * ROUNDS) as u8; 64]);
    }
}

#[test]
fn killed_users_leave_their_place_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let here = Place::new(Link::Shm, folder.path());
    let demi = here.demi();
    let region = demi.open(here.path("words?size=4096"), &create()).unwrap();
    let nobody = nobody(&demi, &here.ip);
    // Twice as many, one after the other, as may be there at a time.
    for round in 1..=4 {
        let user = Place::new(Link::Shm, folder.path());
        let mut user = start_user(&demi, nobody, "hammer", &user, &here.path("words"));
        let before = word(&demi, region, 16);
        while word(&demi, region, 16) < before + 50 * round {
            assert_eq!(demi.wait(nobody, Some(Duration::from_millis(1))).err(), Some(Error::TimedOut));
        }
        user.kill();
    }
    let users =
        vec![start_user(&demi, nobody, "count", &Place::new(Link::Shm, folder.path()), &here.path("words"))];
    demi.seek(region, SeekTo::Position(RECORD)).unwrap();
    let token = demi.push(region, demi.copy_from(&[0; 64]).unwrap()).unwrap();
    demi.wait(token, None).unwrap().pushed().unwrap();
    serve(&demi, nobody, users);
    assert_eq!(word(&demi, region, 0), COUNTS);
}

#[test]
fn a_killed_exporter_is_noticed() {
    for link in [Link::Shm, Link::Udp] {
        let folder = tempfile::tempdir().unwrap();
        let [there, here] = [(); 2].map(|()| Place::new(link, folder.path()));
        let mut exporter = Process::start("export", &there, &there.path("words?size=100000"));
        let demi = here.demi();
        let region = demi.open(there.path("words"), &Default::default()).unwrap();
        assert_eq!(word(&demi, region, 0), 0);
        exporter.kill();
        let tokens = [
            demi.pop_n(region, 50_000).unwrap(),
            demi.push(region, demi.copy_from(&[1; 50_000]).unwrap()).unwrap(),
            demi.fetch_and_add(region, Position(0), 1).unwrap(),
        ];
        for token in tokens {
            let error = demi.wait(token, Some(PATIENCE)).unwrap().result.unwrap_err();
            assert_eq!(error, Error::ConnectionReset, "{link:?}");
        }
        demi.close(region).unwrap();
        // In its place comes another.
        let _exporter = Process::start("export", &there, &there.path("words?size=64"));
        let region = demi.open(there.path("words"), &Default::default()).unwrap();
        assert_eq!(word(&demi, region, 0), 0);
    }
}
