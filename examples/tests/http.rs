//! `http` over sockets of the kernel: plain bytes, and `curl` where it is installed.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use support::{PATIENCE, Server, command, text, wait_output};

const HTTP: &str = env!("CARGO_BIN_EXE_http-catnap");

/// Sends bytes, ends, and takes what comes back.
fn exchange(server: &Server, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part).unwrap();
    }
    let mut answer = Vec::new();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // A server that refuses may reset what it did not want to read.
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn files_are_served_with_their_digest() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/abc"), "abc").unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let server = Server::start(HTTP, &["--listen", "127.0.0.1:0", "--root", folder.path().to_str().unwrap()]);
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"{abc}\"\r\n\r\n");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    assert_eq!(exchange(&server, &[&get("/sub/abc")]), format!("{head}abc"));
    assert_eq!(exchange(&server, &[b"HEAD /sub/abc HTTP/1.1\r\nHost: x\r\n\r\n"]), head);
    // One after the other, and byte by byte.
    let twice = [get("/sub/abc?again"), get("/sub/abc")].concat();
    assert_eq!(exchange(&server, &[&twice]), format!("{head}abc{head}abc"));
    let bytes: Vec<&[u8]> = twice.chunks(1).collect();
    assert_eq!(exchange(&server, &bytes), format!("{head}abc{head}abc"));
    assert!(exchange(&server, &[&get("/empty")]).contains("Content-Length: 0\r\n"));
    for path in ["/", "/sub", "/sub/../sub/abc", "/../empty", "/sub/abc/"] {
        assert!(exchange(&server, &[&get(path)]).starts_with("HTTP/1.1 404 "), "{path}");
    }
    server.stop();
}

#[test]
fn what_is_sent_is_digested() {
    let server = Server::start(HTTP, &["--listen", "127.0.0.1:0"]);
    let put = b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let answer = exchange(
        &server,
        &[put, b"a", b"bc", b"HEAD /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"],
    );
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  3\n";
    let expected = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{abc}\
         HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\nConnection: close\r\n\r\n",
        abc.len()
    );
    assert_eq!(answer, expected);
    let empty = exchange(&server, &[b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n"]);
    assert!(
        empty.ends_with("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  0\n"),
        "{empty}"
    );
    server.stop();
}

#[test]
fn what_is_no_request_is_refused_and_bounded() {
    let server = Server::start(HTTP, &["--listen", "127.0.0.1:0"]);
    let long = [&b"GET / HTTP/1.1\r\nHost: "[..], &vec![b'x'; 9000]].concat();
    for (request, status) in [
        (&b"nonsense\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (&long, 431),
    ] {
        let answer = exchange(&server, &[request]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    // One that stops in the middle is let go of.
    assert_eq!(exchange(&server, &[b"GET / HT"]), "");
    server.stop();
}

#[test]
fn curl_goes_both_ways() {
    if Command::new("curl").arg("-V").stdout(Stdio::null()).status().is_err() {
        return eprintln!("SKIPPED: curl is not installed; `cargo xtask setup` installs it");
    }
    let server = Server::start(HTTP, &["--listen", "127.0.0.1:0", "--generate", "5000001"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    let (file, url) = (file.to_str().unwrap(), format!("http://{}/generated", server.addr()));
    let curl = |args: &[&str]| {
        let mut command = command("curl", &[&["-sS", "--fail", "--max-time", "25"], args].concat());
        let output = wait_output(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    // Twice over one connection.
    let tag = curl(&["-w", "%header{etag}", "-o", file, &url, "-o", "/dev/null", &url]);
    let digest = tag.get(1..65).unwrap();
    assert_eq!(tag, format!("\"{digest}\"").repeat(2));
    assert_eq!(curl(&["-T", file, &url]), format!("{digest}  5000001\n"));
    assert_eq!(server.stop(), "stopped: 3 requests of 2 clients answered");
}
