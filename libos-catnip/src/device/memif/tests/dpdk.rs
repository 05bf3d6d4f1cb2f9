//! DPDK's `net_memif` as the peer: `dpdk-testpmd` forwards what comes in at one port out of the other.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

/// One testpmd at a time: each spins on a core.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Past the test harness, which keeps what passing tests print to itself.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// A running testpmd. Its end is the end of its standard input; it is killed if that does not do.
struct Testpmd(Child);

impl Testpmd {
    /// Two ports: one that listens at `server`, one that connects to `client`.
    fn start(server: &Path, client: &Path) -> Option<Testpmd> {
        let port = |number: u32, role: &str, socket: &Path| {
            let socket = socket.display();
            format!("--vdev=net_memif{number},role={role},id={number},socket={socket},socket-abstract=no")
        };
        let child = Command::new("dpdk-testpmd")
            .args([
                "--lcores=(0-1)@(0-1)",
                "--no-huge",
                "-m",
                "64",
                "--no-pci",
                "--no-shconf",
                "--no-telemetry",
            ])
            .args([port(0, "server", server), port(1, "client", client)])
            .args(["--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=8192"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Testpmd(child)),
            Err(error) => {
                say(&format!(
                    "SKIPPED memif against DPDK: cannot start dpdk-testpmd (in Debian's dpdk-dev): {error}"
                ));
                None
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        for _ in 0..50 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One device connects to testpmd, the other is connected to by it.
fn ends(dir: &Path, mtu: usize) -> Option<(Testpmd, End, End)> {
    let (first, second) = (dir.join("first.sock"), dir.join("second.sock"));
    let client = MemifConfig { id: 0, mtu, ..config(Role::Client, &first) };
    let server = MemifConfig { id: 1, mtu, ..config(Role::Server, &second) };
    let (mut server, mut client) = (End::open(&server), End::open(&client));
    let testpmd = Testpmd::start(&first, &second)?;
    ready(&mut server, &mut client);
    Some((testpmd, server, client))
}

/// Waits until testpmd forwards in both directions: it drops what it has for a port whose link it has not noticed yet.
fn ready(server: &mut End, client: &mut End) {
    let probe = vec![0xFF; 60];
    let mut through = [false; 2];
    until(&mut [server, client], |ends| {
        for (through, end) in through.iter_mut().zip(ends) {
            *through |= !end.take().is_empty();
            end.push(&probe);
            end.send();
            std::thread::sleep(Duration::from_millis(5));
        }
        through == [true; 2]
    });
    // Probes that are still under way.
    let start = std::time::Instant::now();
    until(&mut [server, client], |ends| {
        ends.iter_mut().for_each(|end| drop(end.take()));
        start.elapsed().as_millis() > 200
    });
}

/// Sends `frames` from one end, and expects them at the other.
fn forwarded(from: &mut End, to: &mut End, frames: &[Vec<u8>]) {
    let mut got = Vec::new();
    for frame in frames {
        from.push(frame);
    }
    until(&mut [from, to], |ends| {
        ends[0].send();
        got.extend(ends[1].take());
        got.len() >= frames.len()
    });
    for (number, (got, sent)) in got.iter().zip(frames).enumerate() {
        assert_eq!(got.len(), sent.len(), "length of frame {number}");
        assert!(got == sent, "bytes of frame {number}");
    }
}

#[test]
fn testpmd_forwards_frames_intact() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let Some((testpmd, mut server, mut client)) = ends(dir.path(), 9000) else { return };
    for round in 0..50 {
        let lens = (0..40).map(|at| 14 + (round * 40 + at) * 37 % 1501);
        let frames: Vec<_> = lens.enumerate().map(|(at, len)| pattern(len, round + at)).collect();
        forwarded(&mut client, &mut server, &frames);
        forwarded(&mut server, &mut client, &frames);
    }
    let jumbo: Vec<_> = (0..20).map(|number| pattern(9018 - number * 333, number)).collect();
    forwarded(&mut client, &mut server, &jumbo);
    forwarded(&mut server, &mut client, &jumbo);
    for end in [&server, &client] {
        assert_eq!(end.counter("memif_violations") + end.counter("memif_rx_bad_length"), 0);
        assert_eq!(end.counter("memif_interrupts_sent"), 0, "testpmd polls");
    }
    drop(testpmd);
    until(&mut [&mut server, &mut client], |ends| ends.iter().all(|end| !end.device.is_up()));
    say("memif against DPDK: dpdk-testpmd forwarded 4040 frames of 14 to 9018 bytes intact, in both roles");
}

#[test]
fn testpmd_comes_back_after_it_was_killed() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let Some((mut testpmd, mut server, mut client)) = ends(dir.path(), 1500) else { return };
    testpmd.0.kill().unwrap();
    drop(testpmd);
    until(&mut [&mut server, &mut client], |ends| ends.iter().all(|end| !end.device.is_up()));
    // It does not remove the file that it left, and would not start with it.
    let (first, second) = (dir.path().join("first.sock"), dir.path().join("second.sock"));
    std::fs::remove_file(&first).unwrap();
    let Some(_testpmd) = Testpmd::start(&first, &second) else { return };
    ready(&mut server, &mut client);
    forwarded(&mut client, &mut server, &[pattern(1514, 1)]);
    forwarded(&mut server, &mut client, &[pattern(1514, 2)]);
}
