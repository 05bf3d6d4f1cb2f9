//! Many bytes, each compared: `nc` of the kernel's against our server, and our client against a server of the kernel's;
//! on a good network and on a bad one.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use super::net::{DEVICES, Device, ECHO, KERNEL_ECHO, Net, OURS, THEIRS, run, with_port};
use super::support::{Server, eventually};

/// Bytes compared at a time.
const BLOCK: usize = 1 << 16;

/// One frame in a hundred is lost, one in fifty comes late, each way.
pub(super) const BAD: &str = "[catnip.fault]\nseed = 7\nloss = 0.01\nreorder = 0.02\nreorder_by_us = 500\n";

/// How much to move; the environment may want more.
pub(super) fn mib(usual: usize) -> usize {
    std::env::var("DEMI_BULK_MIB").map_or(usual, |text| text.parse().expect("DEMI_BULK_MIB is a number"))
}

/// Blocks that differ from each other, the same each time.
fn blocks(mib: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(mib as u64);
    (0..mib << 20 >> 16).map(move |_| {
        let mut block = vec![0; BLOCK];
        rng.fill(&mut block);
        block
    })
}

/// Feeds a command, and compares what it says with what it was fed.
fn there_and_back(mut command: Command, mib: usize) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let feeding = thread::spawn(move || blocks(mib).all(|block| input.write_all(&block).is_ok()));
    let mut got = vec![0; BLOCK];
    let compared = blocks(mib).enumerate().try_for_each(|(number, block)| {
        let read = output.read_exact(&mut got).map_err(|error| format!("block {number}: {error}"));
        read.and_then(|()| if got == block { Ok(()) } else { Err(format!("block {number} is another")) })
    });
    let rest = compared.clone().map(|()| output.read(&mut got).unwrap());
    if compared.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    assert_eq!((compared, rest), (Ok(()), Ok(0)), "{command:?}");
    assert!(feeding.join().unwrap() && status.success(), "{command:?}: {status}");
}

/// Our server, which sends back what `nc` sends it.
fn kernel_to_catnip(net: &Net, to: usize, mib: usize, more: &str) {
    let server = net.serve(ECHO, &["server", "--listen", &with_port(OURS[to], 7)], more);
    there_and_back(net.theirs("nc", &["-N", "-w", "20", OURS[to], "7"]), mib);
    server.stop();
}

/// A server on sockets of the kernel's, which sends back what our client sends it; the client compares.
fn catnip_to_kernel(net: &Net, to: usize, mib: usize, more: &str) {
    let any = ["0.0.0.0:7", "[::]:7"][to];
    let server = Server::start_with(net.theirs(KERNEL_ECHO, &["server", "--listen", any]), 1);
    let count = (mib * 16).to_string();
    let said = run(net.catnip(
        ECHO,
        &[
            "client",
            "--connect",
            &with_port(THEIRS[to], 7),
            "--size",
            "65536",
            "--window",
            "16",
            "--count",
            &count,
            "--json",
        ],
        more,
    ));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["count"].to_string(), count);
    server.stop();
}

#[test]
fn nc_gets_back_what_it_sends() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &["nc"]) else { return };
        for to in [0, 1] {
            kernel_to_catnip(&net, to, mib(32), "");
        }
    }
}

#[test]
fn our_client_gets_back_what_it_sends() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &[]) else { return };
        for to in [0, 1] {
            catnip_to_kernel(&net, to, mib(32), "");
        }
    }
}

#[test]
fn nothing_is_amiss_on_a_network_that_loses_and_reorders() {
    for device in [Device::AfXdp, Device::Tap] {
        let Some(net) = Net::new(device, &["nc"]) else { return };
        for to in [0, 1] {
            kernel_to_catnip(&net, to, mib(8), BAD);
            catnip_to_kernel(&net, to, mib(8), BAD);
        }
    }
}

#[test]
fn datagrams_go_both_ways() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &[]) else { return };
        for to in [0, 1] {
            // The last is larger than a frame: fragments, both ways.
            for size in ["8", "1400", "8000"] {
                let args = ["--udp", "--size", size, "--window", "4", "--count", "300"];
                let server = net.serve(ECHO, &["server", "--udp", "--listen", &with_port(OURS[to], 7)], "");
                let addr = with_port(OURS[to], 7);
                run(net.theirs(KERNEL_ECHO, &[&["client", "--connect", &addr][..], &args].concat()));
                server.stop();
            }
        }
    }
}

#[test]
fn a_recording_and_counters_are_there_for_who_asks() {
    let Some(net) = Net::new(Device::AfXdp, &["nc"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcapng");
    let more = format!("[catnip.pcap]\nfile = {path:?}\nsnap_len = 128\n");
    let server = net.serve(ECHO, &["server", "--counters", "--listen", &with_port(OURS[0], 7)], &more);
    there_and_back(net.theirs("nc", &["-N", OURS[0], "7"]), 1);
    eventually("the recording", || std::fs::metadata(&path).is_ok_and(|it| it.len() > 100_000));
    let (_, counters) = server.stop_with_complaints();
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    assert!(counters["tcp_received"].as_u64() > Some(700), "{counters}");
    assert_eq!(counters["pcap_missed"], 0);
    assert_eq!(std::fs::read(&path).unwrap()[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
}
