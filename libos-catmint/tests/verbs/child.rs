//! Another process with a device of its own, to be killed.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use demi_api::sga::SgArray;
use demi_libos_catmint::device::{Access, Event, Qp, RdmaDevice, Then};

use super::ends::End;

/// In this variable: what the process is to do, and at which address.
pub(super) const ROLE: &str = "DEMI_VERBS_CHILD";
/// One that was not killed ends by itself.
const LIFE: Duration = Duration::from_secs(30);

pub(super) struct Child {
    process: std::process::Child,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub(super) fn start(role: &str, ip: IpAddr) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("this runs"));
        let mut process = command
            .env(ROLE, format!("{role} {ip}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        Child { process, output }
    }

    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it is text");
        line.trim().to_owned()
    }

    /// Where it listens.
    pub(super) fn addr(&mut self) -> SocketAddr {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("{line:?} is no address"))
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it was killed");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the other process does.
pub(super) fn run(role: &str) {
    let (role, ip) = role.split_once(' ').expect("role and address");
    let mut end = End::open();
    let (_, addr) = end.listen(SocketAddr::new(ip.parse().expect("it is one"), 0));
    say(addr);
    let region =
        end.device.region(65536, Access { read: true, ..Access::default() }).expect("there is memory");
    let place = end.device.place(region).expect("it was just made");
    let mut connected: Option<Qp> = None;
    // Fewer than the other side has receives.
    let mut sent = 0;
    if role == "taking" {
        end.receives(200);
    }
    let begin = Instant::now();
    while begin.elapsed() < LIFE {
        end.turn();
        match end.events.pop_front() {
            Some(Event::Request { .. }) if role == "listening" => say("asked"),
            Some(Event::Request { id, .. }) => {
                let (device, cx) = end.both();
                device.accept(&cx, id, b"hello").expect("there is a queue pair left");
            }
            Some(Event::Established { qp, .. }) => connected = Some(qp),
            _ => {}
        }
        if role == "sending"
            && let Some(qp) = connected
            && sent < 150
            && end.device.room(qp) > 100
        {
            sent += 1;
            let head = [&place.addr.to_ne_bytes()[..], &place.key.to_ne_bytes()[..]].concat();
            end.send(qp, &head, SgArray::new(), Then::Quiet);
        }
    }
}

fn say(what: impl std::fmt::Display) {
    println!("{what}");
    let _ = std::io::stdout().flush();
}
