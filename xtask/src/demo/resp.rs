//! A small RESP client, for where redis's own cannot be had: one connection, pipelined.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::term;

/// Requests outstanding.
const PIPELINE: u64 = 16;

/// Drives the server with each command and shows the figures.
pub(super) fn run(address: SocketAddr, requests: u64) -> Result<()> {
    let mut client = Client::connect(address)?;
    let commands: [&[&str]; 4] = [&["PING"], &["SET", "key", "value"], &["GET", "key"], &["INCR", "count"]];
    let mut rows = Vec::new();
    for words in commands {
        let mut batches = Vec::new();
        let begin = Instant::now();
        for _ in 0..requests.div_ceil(PIPELINE) {
            let sent = Instant::now();
            for _ in 0..PIPELINE {
                client.send(words)?;
            }
            client.stream.get_mut().flush()?;
            for _ in 0..PIPELINE {
                client.answer()?;
            }
            batches.push(sent.elapsed());
        }
        let rate = (batches.len() as u64 * PIPELINE) as f64 / begin.elapsed().as_secs_f64();
        batches.sort();
        let at = |share: usize| batches.get((batches.len() - 1) * share / 100).copied().unwrap_or_default();
        rows.push([
            words[0].to_owned(),
            term::thousands(rate),
            format!("{:.3}", at(50).as_secs_f64() * 1e3),
            format!("{:.3}", at(99).as_secs_f64() * 1e3),
        ]);
    }
    println!("{}", term::table(&["command", "requests/s", "p50 ms", "p99 ms"], rows));
    for words in [&["SET", "greeting", "hello"][..], &["GET", "greeting"], &["DBSIZE"]] {
        client.send(words)?;
        println!("> {}\n{}", words.join(" "), client.answer()?);
    }
    Ok(())
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Ok(self.stream.get_mut().write_all(request.as_bytes())?)
    }

    /// Reads one answer that is not an array.
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        let Some(length) = line.strip_prefix('$') else {
            ensure!(line.starts_with(['+', ':']), "the server answered {line:?}");
            return Ok(line[1..].to_owned());
        };
        let length: i64 = length.parse().context("length of a bulk string")?;
        if !(0..=1 << 20).contains(&length) {
            bail!("the server answered {line:?}");
        }
        let mut bulk = vec![0; length as usize + 2];
        self.stream.read_exact(&mut bulk)?;
        Ok(String::from_utf8_lossy(&bulk[..length as usize]).into_owned())
    }
}
