//! memcached with four threads, by its text and its binary protocol, from several connections at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use demi_shim_tests::{Bed, Child};
use rustix::process::Signal;

use super::tools::{connect, free_port, subject, times};

const CONNECTIONS: usize = 8;

pub(crate) fn run(bed: &Bed) {
    let (addr, port) = (bed.subject_addr(false), free_port());
    let text = port.to_string();
    let args = ["-l", addr, "-p", &text, "-U", "0", "-t", "4", "-m", "64", "-u", "root", "-R", "20"];
    let mut server = Child::start(subject(bed, "memcached", &args));
    let streams: Vec<TcpStream> =
        (0..2 * CONNECTIONS).map(|_| connect(bed, &mut server, addr, port)).collect();
    let failed = std::thread::scope(|scope| {
        let clients: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| {
                scope.spawn(
                    move || if number % 2 == 0 { by_text(stream, number) } else { by_bytes(stream, number) },
                )
            })
            .collect();
        clients
            .into_iter()
            .filter_map(|client| client.join().unwrap_or_else(|_| Err("it panicked".to_owned())).err())
            .next()
    });
    if let Some(why) = failed {
        panic!("{why}\n{}", server.report());
    }
    assert!(server.stop(Signal::TERM).success(), "{}", server.report());
}

/// Values of many sizes, set, read alone and together, counted, replaced only where they are unchanged, deleted.
fn by_text(stream: TcpStream, number: usize) -> Result<(), String> {
    let mut output = stream.try_clone().map_err(|error| error.to_string())?;
    let mut input = BufReader::new(stream);
    let mut tell = |what: &[u8]| output.write_all(what).map_err(|error| format!("sending: {error}"));
    let mut expect = |expected: &[u8]| {
        let mut got = vec![0; expected.len()];
        input.read_exact(&mut got).map_err(|error| format!("receiving: {error}"))?;
        if got == expected { Ok(()) } else { Err(format!("got {:?}", String::from_utf8_lossy(&got))) }
    };
    for round in 0..50 * times() as usize {
        let value = vec![b'a' + (round % 26) as u8; 1 << (round % 17)];
        let key = format!("text-{number}-{round}");
        tell(format!("set {key} 7 0 {}\r\n", value.len()).as_bytes())?;
        tell(&value)?;
        tell(b"\r\n")?;
        expect(b"STORED\r\n")?;
        tell(format!("get {key} none-{key}\r\n").as_bytes())?;
        expect(format!("VALUE {key} 7 {}\r\n", value.len()).as_bytes())?;
        expect(&value)?;
        expect(b"\r\nEND\r\n")?;
        // Many commands at once: answers come in order.
        let counter = format!("counter-{number}-{round}");
        let mut batch = format!("set {counter} 0 0 1 noreply\r\n0\r\n");
        let mut answers = String::new();
        for count in 1..=40 {
            batch.push_str(&format!("incr {counter} 1\r\n"));
            answers.push_str(&format!("{count}\r\n"));
        }
        tell(batch.as_bytes())?;
        expect(answers.as_bytes())?;
        tell(format!("delete {counter}\r\nget {counter}\r\nnonsense\r\n").as_bytes())?;
        expect(b"DELETED\r\nEND\r\nERROR\r\n")?;
    }
    tell(b"quit\r\n")?;
    let mut rest = String::new();
    input.read_line(&mut rest).map_err(|error| format!("at the end: {error}"))?;
    if rest.is_empty() { Ok(()) } else { Err(format!("after quit: {rest}")) }
}

/// A request of the binary protocol.
fn request(opcode: u8, opaque: u32, key: &[u8], extras: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, opcode];
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0, 0, 0]);
    bytes.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    bytes.extend(opaque.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([extras, key, value].concat());
    bytes
}

/// As by text: set, get, a key that is not there, and quit.
fn by_bytes(mut stream: TcpStream, number: usize) -> Result<(), String> {
    const GET: u8 = 0;
    const SET: u8 = 1;
    const QUIT: u8 = 7;
    const FINE: u16 = 0;
    const NOT_FOUND: u16 = 1;
    let answer = |stream: &mut TcpStream, opcode: u8, opaque: u32, status: u16| {
        let mut header = [0; 24];
        stream.read_exact(&mut header).map_err(|error| format!("receiving: {error}"))?;
        let expected = (0x81, opcode, opaque.to_be_bytes(), status.to_be_bytes());
        if (header[0], header[1], header[12..16].try_into().unwrap(), header[6..8].try_into().unwrap())
            != expected
        {
            return Err(format!("a header {header:02x?} after {opcode}, {opaque}"));
        }
        let mut body = vec![0; u32::from_be_bytes(header[8..12].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).map_err(|error| format!("receiving: {error}"))?;
        Ok(body.split_off(header[4].into()))
    };
    for round in 0..50 * times() {
        let key = format!("bytes-{number}-{round}");
        let value = vec![round as u8; 3 << (round % 15)];
        let both = [
            request(SET, round, key.as_bytes(), &[0; 8], &value),
            request(GET, round + 1, key.as_bytes(), &[], &[]),
            request(GET, round + 2, b"none", &[], &[]),
        ];
        stream.write_all(&both.concat()).map_err(|error| format!("sending: {error}"))?;
        answer(&mut stream, SET, round, FINE)?;
        if answer(&mut stream, GET, round + 1, FINE)? != value {
            return Err(format!("another value of {key}"));
        }
        answer(&mut stream, GET, round + 2, NOT_FOUND)?;
    }
    stream.write_all(&request(QUIT, 9, &[], &[], &[])).map_err(|error| format!("sending: {error}"))?;
    answer(&mut stream, QUIT, 9, FINE)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        other => Err(format!("after quit: {other:?}")),
    }
}
