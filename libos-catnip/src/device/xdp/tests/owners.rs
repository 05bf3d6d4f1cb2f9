//! Owners of an interface, one after the other: those that die, those that lack something, and what they are told.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use demi_api::error::Error;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::net::{LINK, Net, config, heap, inside};
use super::veth::{End, frame};
use crate::device::Queue;
use crate::device::xdp::interface::Interface;
use crate::device::xdp::open::is_released;
use crate::device::xdp::socket::{Binding, Socket};
use crate::device::xdp::{CopyMode, Mode, Xdp, XdpConfig};

/// Not a test: a process of its own that opens a device and holds it until it is killed, for at most a minute.
#[test]
#[ignore = "run by `a_killed_owner_leaves_nothing_behind`"]
fn holder() {
    let Ok(name) = std::env::var("DEMI_XDP_HOLD") else { return };
    let heap = heap(32);
    let xdp = inside(&name, || Xdp::open(&heap, &config(0))).unwrap();
    println!("holding {}", xdp.caps().mtu);
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    let Some(net) = Net::new(1500, 1) else { return };
    let mut two = End::open(&net, 1, &config(1));
    for round in 0..3 {
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["device::xdp::tests::owners::holder", "--exact", "--ignored", "--nocapture"])
            .env("DEMI_XDP_HOLD", net.name(0))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("holding 1500")));
        let memory = heap(32);
        let refused = net.open(0, &memory, &XdpConfig { attach_wait_ms: 30, ..config(0) });
        let Err(Error::Config(text)) = refused else { panic!("{refused:?}") };
        assert!(
            text.contains(&format!("held by process {} (", holder.id())) && !text.contains(" and process"),
            "{text}"
        );
        println!("round {round}: {text}");
        assert_eq!(memory.stats().bytes_live, 0);

        holder.kill().unwrap();
        let start = Instant::now();
        let mut one = End::open(&net, 0, &config(0));
        println!("round {round}: attached again after {:?}", start.elapsed());
        one.send(&frame(0, 100, round), &[]);
        assert!(two.receive_from(Some(&mut one), 1)[0].data == frame(0, 100, round)[..]);
        two.send(&frame(1, 100, round), &[]);
        assert!(one.receive_from(Some(&mut two), 1)[0].data == frame(1, 100, round)[..]);
        one.close();
        holder.wait().unwrap();
    }
    two.close();
}

#[test]
fn a_queue_is_known_to_be_released() {
    let Some(net) = Net::new(1500, 1) else { return };
    let memory = heap(8);
    for mode in [Mode::Generic, Mode::Native] {
        let xdp = net.open(0, &memory, &XdpConfig { mode, ..config(0) }).unwrap();
        let interface = net.inside(0, || Interface::find(LINK).unwrap());
        assert!(!net.inside(0, || is_released(&interface, &[0], Duration::from_millis(20))));
        drop(xdp);
        assert!(net.inside(0, || is_released(&interface, &[0], Duration::from_secs(5))));
    }
}

#[test]
fn a_queue_that_is_taken_is_named() {
    let Some(net) = Net::new(1500, 2) else { return };
    let (memory, small) = (heap(8), heap(2));
    let interface = net.inside(0, || Interface::find(LINK).unwrap());
    // A socket without a program, as one that another tool has left.
    let other = net.inside(0, || {
        let socket = Socket::new().unwrap();
        socket.register(&small.region(), 2048).unwrap();
        let rings = (socket.transmit_rings(64).unwrap(), socket.receive_rings(64).unwrap());
        socket.bind(interface.index, 1, Binding { zero_copy: false, gather: false }).unwrap();
        (socket, rings)
    });
    let open = |wait| net.open(0, &memory, &XdpConfig { attach_wait_ms: wait, ..config(0) });
    let text = open(20).unwrap_err().to_string();
    assert!(text.contains("another AF_XDP socket has queue 1"), "{text}");
    drop(other);
    drop(open(2000).unwrap());
    assert_eq!(memory.stats().bytes_live, 0);
}

#[test]
fn an_interface_that_goes_away_is_survived() {
    let Some(net) = Net::new(1500, 2) else { return };
    for mode in [Mode::Generic, Mode::Native] {
        let mut one = End::open(&net, 0, &XdpConfig { mode, ..config(0) });
        let mut two = End::open(&net, 1, &XdpConfig { mode, ..config(1) });
        one.send(&frame(0, 100, 1), &[]);
        assert_eq!(two.receive_from(Some(&mut one), 1)[0].data.len(), 100);
        if mode == Mode::Native {
            net.ip(0, "link del v0");
        } else {
            net.ip(0, "link set v0 down");
        }
        for at in 0..100 {
            one.send(&frame(0, 200, at), &[100]);
            two.send(&frame(1, 200, at), &[]);
            one.turn();
            two.turn();
        }
        assert!(two.inbox.is_empty());
        one.close();
        two.close();
        if mode == Mode::Generic {
            net.ip(0, "link set v0 up");
        }
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let Some(net) = Net::new(1500, 1) else { return };
    let memory = heap(8);
    let refusal = |change: &dyn Fn(&mut XdpConfig)| {
        let mut config = config(0);
        change(&mut config);
        net.open(0, &memory, &config).unwrap_err().to_string()
    };
    assert!(refusal(&|config| config.interface = "nothere".into()).contains("no such interface"));
    assert!(refusal(&|config| config.interface = String::new()).contains("name the `interface`"));
    assert!(refusal(&|config| config.interface = "far-too-long-a-name".into()).contains("1 to 15 bytes"));
    assert!(refusal(&|config| config.addresses.clear()).contains("0 `addresses`"));
    assert!(
        refusal(&|config| config.addresses = vec![[224, 0, 0, 1].into()])
            .contains("not the address of one host")
    );
    assert!(refusal(&|config| config.rx_buffers = 7).contains("`rx_buffers` = 7"));
    assert!(refusal(&|config| config.copy = CopyMode::ZeroCopy).contains("cannot bind to queue 0"));
    assert!(refusal(&|config| config.rx_buffers = 16384).contains("out of buffer memory"));
    net.ip(0, "link set v0 down");
    assert!(refusal(&|_| {}).contains("is down"));
    assert_eq!(memory.stats().bytes_live, 0);
}

#[test]
fn what_is_not_permitted_says_what_it_takes() {
    let Some(net) = Net::new(1500, 1) else { return };
    // More than the memory that a process without privileges may lock.
    let memory = heap(32);
    let all = capabilities(None).unwrap();
    let every =
        CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::BPF | CapabilitySet::SYS_ADMIN;
    for (without, advice) in [(every, "run as root, or with"), (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK")] {
        let opened = net.inside(0, || {
            // Of this thread only, and only until it is back.
            set_capabilities(None, CapabilitySets { effective: all.effective - without, ..all }).unwrap();
            let opened = Xdp::open(&memory, &config(0));
            set_capabilities(None, all).unwrap();
            opened
        });
        let text = match opened {
            Ok(_) if without == CapabilitySet::IPC_LOCK => continue, // Here everyone may lock as much.
            opened => opened.unwrap_err().to_string(),
        };
        println!("{text}");
        assert!(text.contains(advice), "{text}");
    }
}
