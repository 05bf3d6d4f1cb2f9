//! `pipeline`: the demo, and messages from plain sockets.

mod support;

use std::io::Write;
use std::net::{TcpStream, UdpSocket};

use support::{PATIENCE, PIPELINE, Server, command, run, text};

#[test]
fn the_demo_filters_and_sorts() {
    let output = run(PIPELINE, &["--demo"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let came_out: Vec<usize> =
        ["EMERG   power", "ALERT   batt", "CRIT    pump", "ERROR   back", "WARNING disk"]
            .iter()
            .map(|name| shown.find(*name).unwrap_or_else(|| panic!("no {name} in\n{shown}")))
            .collect();
    assert!(came_out.is_sorted(), "{shown}");
    assert!(shown.contains("14 sent = 7 came out + 7 filtered out"), "{shown}");
    let all = text(&run(PIPELINE, &["--demo", "--severity", "7"]).stdout);
    assert!(all.contains("14 sent = 14 came out + 0 filtered out"), "{all}");
}

#[test]
fn sources_of_two_kinds_are_merged() {
    let args = ["--listen", "127.0.0.1:0", "--listen", "tcp:127.0.0.1:0", "--severity", "3"];
    let mut server = Server::start_with(command(PIPELINE, &args), 2);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"<7>not this", server.addrs[0]).unwrap();
    udp.send_to(b"<3>from a datagram", server.addrs[0]).unwrap();
    assert_eq!(server.line(), "ERROR   from a datagram");
    for n in 0..3 {
        // Each connection comes and goes; the last line of one has no end and is no message.
        let mut tcp = TcpStream::connect(server.addrs[1]).unwrap();
        write!(tcp, "<2>line {n}\n<6>nor this\n<2>unfinished").unwrap();
        assert_eq!(server.line(), format!("CRIT    line {n}"));
    }
    udp.send_to(b"<1>still here\x1b[1m", server.addrs[0]).unwrap();
    assert_eq!(server.line(), "ALERT   still here.[1m");
    assert_eq!(server.stop(), "stopped: 5 printed; 4 were not urgent enough");
}

#[test]
fn messages_are_sent_on() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = receiver.local_addr().unwrap().to_string();
    let server = Server::start(PIPELINE, &["--listen", "127.0.0.1:0", "--send-to", &to]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bytes = [0; 2048];
    for n in 0..20 {
        sender.send_to(format!("<7>drop {n}").as_bytes(), server.addr()).unwrap();
        sender.send_to(format!("<4>keep {n}").as_bytes(), server.addr()).unwrap();
        let len = receiver.recv(&mut bytes).unwrap();
        assert_eq!(text(&bytes[..len]), format!("<4>WARNING keep {n}"));
    }
    assert!(server.stop().contains("20 messages were not urgent enough"));
}
