//! Programs that end in every way, and are started again at once.

use std::process::Stdio;

use rustix::process::Signal;

use super::net::{DEVICES, ECHO, KERNEL_ECHO, Net, OURS, run, with_port};
use super::support::wait_output;

#[test]
fn a_server_that_was_killed_is_back_at_once() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &[]) else { return };
        let addr = with_port(OURS[0], 7);
        for signal in [Signal::KILL, Signal::INT, Signal::KILL, Signal::TERM] {
            let mut server = net.serve(ECHO, &["server", "--listen", &addr], "");
            run(net.theirs(KERNEL_ECHO, &["client", "--connect", &addr, "--count", "100"]));
            server.signal(signal);
            assert_eq!(server.wait().success(), signal != Signal::KILL);
        }
    }
}

#[test]
fn a_client_of_a_server_that_was_killed_is_told_by_the_next() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &["nc"]) else { return };
        let addr = with_port(OURS[0], 7);
        let mut server = net.serve(ECHO, &["server", "--listen", &addr], "");
        let mut nc = net.theirs("nc", &[OURS[0], "7"]);
        let mut nc = nc.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = nc.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"before").unwrap();
        let mut got = [0; 6];
        std::io::Read::read_exact(nc.stdout.as_mut().unwrap(), &mut got).unwrap();
        server.signal(Signal::KILL);
        server.wait();
        let next = net.serve(ECHO, &["server", "--listen", &addr], "");
        // The new server knows no such connection and resets it.
        let _ = std::io::Write::write_all(&mut input, b"after");
        let output = wait_output(nc);
        assert_eq!((got, output.stdout), (*b"before", Vec::new()));
        next.stop();
    }
}
