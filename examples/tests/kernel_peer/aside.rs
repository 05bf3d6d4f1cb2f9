//! What is around a connection: `ping` of either side, and the kernel that shares the interface.

use super::net::{BESIDE, DEVICES, Device, ECHO, Net, OURS, run, with_port};

/// Echo requests of usual size, of several fragments, and in a quick train.
fn ping(device: Device, command: impl Fn(&[&str]) -> std::process::Command, to: &str) {
    for more in
        [&["-c", "3", "-i", "0.01"][..], &["-c", "2", "-i", "0.01", "-s", "5000"], &["-c", "200", "-f"]]
    {
        let command = command(&[&["-q", "-W", "5"], more, &[to]].concat());
        let said = run(command);
        assert!(said.contains(" 0% packet loss"), "{device:?}, {more:?}: {said}");
    }
}

#[test]
fn the_kernel_pings_catnip() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &["ping"]) else { return };
        let server = net.serve(ECHO, &["server", "--listen", &with_port(OURS[0], 7)], "");
        for to in OURS {
            ping(device, |args| net.theirs("ping", args), to);
        }
        server.stop();
    }
}

#[test]
fn what_is_not_for_catnip_reaches_the_kernel_beside_it() {
    let Some(net) = Net::new(Device::AfXdp, &["ping"]) else { return };
    let server = net.serve(ECHO, &["server", "--listen", &with_port(OURS[0], 7)], "");
    for to in BESIDE {
        ping(Device::AfXdp, |args| net.theirs("ping", args), to);
    }
    for to in super::net::THEIRS {
        ping(Device::AfXdp, |args| net.beside("ping", args), to);
    }
    server.stop();
}
