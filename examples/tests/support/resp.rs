//! A client of RESP2 by hand, over plain sockets: an oracle that shares no code with the server.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::PATIENCE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
}

/// `+OK`, `-ERR …`, `:1`, `$text`, `nil`, `[$a nil]`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Status(text) => write!(f, "+{text}"),
            Reply::Error(text) => write!(f, "-{text}"),
            Reply::Integer(value) => write!(f, ":{value}"),
            Reply::Bulk(bytes) => write!(f, "${}", bytes.escape_ascii()),
            Reply::Null => f.write_str("nil"),
            Reply::Array(elements) => {
                let elements: Vec<String> = elements.iter().map(Reply::to_string).collect();
                write!(f, "[{}]", elements.join(" "))
            }
        }
    }
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends words as an array of bulk strings; the reply as text.
    pub fn ask(&mut self, words: &str) -> String {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.call(&words).to_string()
    }

    pub fn call(&mut self, args: &[&[u8]]) -> Reply {
        self.send(&request(args));
        self.reply()
    }

    /// As [`Client::send`] and [`Client::reply`], for a server that may die: none when it has.
    pub fn try_send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.get_mut().write_all(bytes).ok()
    }

    pub fn try_reply(&mut self) -> Option<Reply> {
        let whole = self.stream.fill_buf().ok()?.contains(&b'\n');
        let mut line = String::new();
        // Replies of one line only are asked for in this way.
        if whole || self.stream.read_line(&mut line).ok()? == 0 || !line.ends_with('\n') {
            return if whole { Some(self.reply()) } else { None };
        }
        Some(match line.trim_end().split_at(1) {
            ("+", text) => Reply::Status(text.into()),
            ("-", text) => Reply::Error(text.into()),
            (":", number) => Reply::Integer(number.parse().ok()?),
            _ => return None,
        })
    }

    pub fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut off: {line:?}"));
        let (sign, rest) = line.split_at(1);
        match sign {
            "+" => Reply::Status(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Integer(rest.parse().unwrap()),
            "$" if rest == "-1" => Reply::Null,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..rest.parse::<usize>().unwrap()).map(|_| self.reply()).collect()),
            _ => panic!("no reply: {line:?}"),
        }
    }

    /// No more requests; everything that is still to come.
    pub fn finish(mut self) -> Vec<u8> {
        self.stream().shutdown(Shutdown::Write).unwrap();
        self.rest()
    }

    /// Everything up to the end that the server makes, by a reset or not.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the server keeps the connection");
        }
        bytes
    }

    /// A number that INFO tells.
    pub fn info(&mut self, name: &str) -> u64 {
        let Reply::Bulk(text) = self.call(&[b"INFO"]) else { panic!("INFO is a text") };
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

pub fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
