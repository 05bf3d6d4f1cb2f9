//! A process that is killed while it pushes to a log in a file; the next one finds what it was told, and goes on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::libos::OpenOptions;
use demi_api::op::Position;
use demi_libos_cattree::Cattree;

/// Where the child finds the file; without it, it is not a child.
const FILE: &str = "DEMI_KILL_FILE";
/// How many elements the log keeps, about.
const KEPT: usize = 200;
/// How many pushes are outstanding.
const WINDOW: usize = 16;

/// The element with this number: it begins with it.
fn element(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let longest = if rng.u8(..10) == 0 { 100_000 } else { 4000 };
    let mut bytes = vec![0; 8 + rng.usize(..longest)];
    rng.fill(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn open(file: &Path) -> Result<Demikernel<Cattree>, Error> {
    let text = format!(
        "[heap]\nsize_mib = 16\nlock = false\nhuge_pages = \"never\"\n\
         [cattree]\nsegment_size = 131072\n[cattree.device]\nkind = \"uring\"\npath = {file:?}\n"
    );
    Demikernel::new(&Config::parse(&text, "kill")?)
}

/// The numbers of the first and the last element; none is missing between them, and each is as it was pushed.
fn read(demi: &Demikernel<Cattree>) -> Option<(u64, u64)> {
    let log = demi.open("log", &OpenOptions { read_only: true, ..OpenOptions::default() }).ok()?;
    let mut range: Option<(u64, u64)> = None;
    loop {
        let pop = demi.pop(log).unwrap();
        let popped = match demi.wait(pop, Some(Duration::from_millis(100))) {
            Ok(completion) => completion.popped().unwrap().to_vec(),
            Err(Error::TimedOut) => {
                demi.cancel(pop).unwrap();
                break demi.close(log).unwrap();
            }
            Err(error) => panic!("{error}"),
        };
        let number = u64::from_le_bytes(popped[..8].try_into().unwrap());
        assert!(popped == element(number), "element {number} is not what was pushed");
        let first = range.map_or(number, |(first, last)| {
            assert_eq!(number, last + 1, "elements are missing");
            first
        });
        range = Some((first, number));
    }
    range
}

/// Pushes until it is killed, and says what it is told: `acked` a number, or that what is before one is `discarded`.
#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else { return };
    let demi = open(&file).unwrap();
    let mut next = read(&demi).map_or(0, |(_, last)| last + 1);
    let log =
        demi.open("log", &OpenOptions { create: true, durable: true, ..OpenOptions::default() }).unwrap();
    println!("\nopened");
    let mut pushes = VecDeque::new();
    let mut kept: VecDeque<(u64, Position)> = VecDeque::new();
    loop {
        while pushes.len() < WINDOW {
            let token = demi.push(log, demi.copy_from(&element(next)).unwrap()).unwrap();
            pushes.push_back((next, token));
            next += 1;
        }
        let (number, token) = pushes.pop_front().expect("there are some");
        let position = demi.wait(token, None).unwrap().pushed().unwrap();
        println!("acked {number}");
        kept.push_back((number, position));
        if kept.len() == KEPT {
            kept.drain(..KEPT / 2);
            let (number, position) = kept[0];
            println!("discards {number}");
            demi.discard(log, position).unwrap();
            println!("discarded {number}");
        }
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_it_was_told() {
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let file = tempfile::Builder::new().prefix("demi-kill").tempfile_in(dir).unwrap();
    file.as_file().set_len(12 << 20).unwrap();
    match open(file.path()) {
        Ok(demi) => drop(demi),
        Err(error @ (Error::PermissionDenied | Error::System(_))) => {
            println!("left out: no io_uring here ({error})");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let rounds = std::env::var("DEMI_SEEDS").map_or(12, |rounds| rounds.parse().expect("a number"));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut acked_before = None;
    for round in 0..rounds {
        let told = run(file.path(), Duration::from_millis(rng.u64(..120)));
        let began = Instant::now();
        let demi = loop {
            // What the dead process had under way may hold the file for a moment.
            match open(file.path()) {
                Err(Error::Config(text))
                    if text.contains("another instance") && began.elapsed() < Duration::from_secs(10) =>
                {
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        let found = read(&demi);
        println!("round {round}: {told:?}, found {found:?}");
        let acked = told.acked.or(acked_before);
        if let Some(acked) = acked {
            let (first, last) = found.expect("the log is there");
            assert!(last >= acked, "{acked} was acknowledged, and {last} is the last");
            assert!(told.discarded.is_none_or(|discarded| first >= discarded), "what was discarded is there");
            assert!(first <= told.discards.unwrap_or(first), "more is discarded than was asked for");
        }
        acked_before = found.map(|(_, last)| last);
    }
    assert!(
        acked_before.is_some_and(|last| last > KEPT as u64),
        "there was no time to push: {acked_before:?}"
    );
}

/// What a child said.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    acked: Option<u64>,
    discards: Option<u64>,
    discarded: Option<u64>,
}

/// Kills a child this long after it has opened the image.
fn run(file: &Path, after: Duration) -> Told {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--ignored", "--nocapture"])
        .env(FILE, file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "opened"), "the child did not open the image");
    let reader = std::thread::spawn(move || {
        let mut told = Told::default();
        for line in lines {
            let Some((what, number)) = line.split_once(' ') else { continue };
            // The last line may be cut off.
            let Ok(number) = number.parse() else { continue };
            match what {
                "acked" => told.acked = Some(number),
                "discards" => told.discards = Some(number),
                "discarded" => told.discarded = Some(number),
                _ => {}
            }
        }
        told
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "the child ended by itself: {status}");
    reader.join().unwrap()
}
