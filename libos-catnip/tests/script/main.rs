//! Conversations with one stack, packet by packet, in a form that can be read beside the RFC.
//!
//! Each file of `tests/scripts` is a test of its own, named by its folder and file: `cargo test --test script close/`
//! runs a folder. A script that names no family is run over both; the name of the second test ends in `+v6`. A line is a comment (`#`), a setting (`ipv4`, `ipv6`, `mtu 1280`, `config key = value`, before all else), or
//!
//! ```text
//! [+10ms] [@flow] [repeat 3] statement [; statement …]
//! ```
//!
//! | statement | what it does |
//! |---|---|
//! | `< S 0:0(0) win 65535 <mss 1460>` | the peer sends a segment |
//! | `> S. 0:0(0) ack 1 <mss 1460,*>` | the stack sends one, now or after the line's time, and nothing before it |
//! | `< icmp too_big 1300 seq 1` | the peer, or a router, sends an error about a segment |
//! | `expect nothing` | the stack is silent up to here |
//! | `ignore` | what it has sent up to here does not matter |
//! | `connect`, `accept`, `push 10`, `pop`, `close` … `-> ok` | the application does something, with that outcome |
//! | `await pop -> 10` | something that the application did before has that outcome now |
//! | `count tcp_timeouts 1` | a counter stands at that |
//! | `connected <mss 1460> win 100 rtt 10ms active` | a whole handshake |
//!
//! Sequence numbers count from the direction's SYN, or are absolute after `=`. Flags are `F S R P . U E W`; PSH is looked
//! at where the line has it, or says `[nopsh]`. A window is as it stands in the header. Without an option list, a segment
//! has the timestamps option if both SYNs had it, and else none; `*` stands for whatever there is. In brackets stands
//! what belongs to IP or is out of order: `[ect0]`, `[ce]`, `[badsum]`, `[urg 5]`, `[offset 3]`, `[data 0x616263]`.
//!
//! Times count from the line before, or from when its packet came: `+200ms` is then, a millisecond at most later, and
//! `+100ms..300ms` between the two. The clock stands still otherwise. What the application pushes and the peer sends is a
//! pattern that depends on the sequence number, and is checked where it arrives.
//!
//! `docs/tcp-conformance.md` says which requirement each script shows; a test holds the two together.

mod app;
mod ast;
mod conformance;
mod flow;
mod parse;
mod run;
mod wire;

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};

use self::ast::Script;

/// Every script below a folder, by its name: `group/name`.
fn scripts(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        entries.map(|entry| entry.expect("a readable folder").path()).collect()
    };
    for group in list(root) {
        for path in list(&group) {
            let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            assert_eq!(path.extension(), Some("txt".as_ref()), "{} is no script", path.display());
            found.push((format!("{}/{}", name(&group), name(&path)), path));
        }
    }
    found.sort();
    found
}

/// The tests of one script. What does not name a family runs over both, over links that leave equal room for segments.
fn trials(name: &str, path: &Path) -> Vec<Trial> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let trial = move |name: String, change: fn(&mut Script)| {
        let (file, text) = (file.clone(), text.clone());
        Trial::test(name, move || {
            let mut script = parse::parse(&text).map_err(|(line, what)| format!("{file}:{line}: {what}"))?;
            change(&mut script);
            run::run(&file, &script).map_err(Failed::from)
        })
    };
    let mut trials = vec![trial(name.into(), |_| {})];
    if has_no_family(path) {
        trials.push(trial(format!("{name}+v6"), |script| {
            script.ipv6 = true;
            script.mtu = Some(script.mtu.unwrap_or(1500) + 20);
        }));
    }
    trials
}

fn has_no_family(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    !parse::parse(&text).is_ok_and(|script| script.ipv4 || script.ipv6)
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = scripts(&folder.join("tests/scripts"));
    let names: Vec<String> = scripts.iter().map(|(name, _)| name.clone()).collect();
    let mut trials: Vec<Trial> = scripts.iter().flat_map(|(name, path)| trials(name, path)).collect();
    trials.extend(conformance::trials(folder, names));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
