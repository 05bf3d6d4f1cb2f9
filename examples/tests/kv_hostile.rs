//! What clients should not do: `kv` answers with an error or a closed connection, serves the others, and forgets.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::net::sockopt::set_socket_linger;
use std::time::Duration;
use support::resp::{Client, Reply, request};
use support::{KV, PATIENCE, Server, eventually};

fn start(args: &[&str]) -> Server {
    Server::start(KV, &[&["--listen", "127.0.0.1:0"], args].concat())
}

/// What a connection is told on which these bytes are sent, up to its end.
fn told(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut client = Client::connect(addr);
    client.send(bytes);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

#[test]
fn malformed_requests_are_told_so_and_closed() {
    let server = start(&[]);
    for bad in [
        &b"*1\r\n$x\r\n"[..],
        b"*x\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-5\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*-7\r\n",
        b"*1\r\n$4\r\nPINGPONG\r\n",
        b"*2\r\n*1\r\n$4\r\nPING\r\n$1\r\na\r\n",
        b"$4\r\nPING\r\n",
        b"*1\r\n$999999999999999999999\r\n",
        b"*99999999999999999999999\r\n",
    ] {
        let reply = told(server.addr(), bad);
        assert!(reply.starts_with("-ERR Protocol error: "), "{}: {reply:?}", bad.escape_ascii());
        assert!(reply.ends_with("\r\n") && reply.matches("\r\n").count() == 1, "{reply:?}");
    }
    // What was asked before is answered first.
    let reply = told(server.addr(), b"*1\r\n$4\r\nPING\r\nECHO a\r\n*1\r\n!");
    assert!(reply.starts_with("+PONG\r\n$1\r\na\r\n-ERR Protocol error: "), "{reply:?}");
    assert_eq!(Client::connect(server.addr()).ask("PING"), "+PONG");
    server.stop();
}

#[test]
fn oversize_requests_are_refused_before_they_come() {
    let server = start(&[]);
    for bad in [&b"*2\r\n$4\r\nECHO\r\n$536870912\r\n"[..], b"*1000000000\r\n", b"*100000000\r\n$1\r\na\r\n"]
    {
        let reply = told(server.addr(), bad);
        assert!(reply.starts_with("-ERR Protocol error: "), "{}: {reply:?}", bad.escape_ascii());
    }
    // A line without an end.
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let sent = (0..64).take_while(|_| stream.write_all(&[b'x'; 1 << 20]).is_ok()).count();
    assert!(sent < 64, "64 MiB of one line were taken");
    assert_eq!(Client::connect(server.addr()).ask("PING"), "+PONG");
    server.stop();
}

#[test]
fn garbage_is_survived() {
    let server = start(&[]);
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..100 {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let len = rng.usize(1..5000);
        let garbage: Vec<u8> = match round % 3 {
            0 => std::iter::repeat_with(|| rng.u8(..)).take(len).collect(),
            1 => std::iter::repeat_with(|| *rng.choice(b"*$:+-0123456789\r\nPING ".iter()).unwrap())
                .take(len)
                .collect(),
            _ => {
                let mut valid = request(&[b"SET", b"key", b"some value"]).repeat(20);
                for _ in 0..3 {
                    let at = rng.usize(..valid.len());
                    valid[at] = rng.u8(..);
                }
                valid
            }
        };
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(Client::connect(server.addr()).ask("PING"), "+PONG");
    server.stop();
}

#[test]
fn requests_may_come_byte_by_byte_or_by_thousands() {
    let server = start(&[]);
    let mut client = Client::connect(server.addr());
    for byte in request(&[b"SET", b"slow", b"one byte at a time"]) {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().to_string(), "+OK");
    assert_eq!(client.ask("GET slow"), "$one byte at a time");

    let mut rng = fastrand::Rng::with_seed(3);
    let mut bytes = Vec::new();
    for n in 0..5000 {
        let n = n.to_string();
        bytes.extend(request(&[b"SET", n.as_bytes(), n.repeat(1 + rng.usize(..40)).as_bytes()]));
        bytes.extend(request(&[b"STRLEN", n.as_bytes()]));
        bytes.extend(request(&[b"GET", n.as_bytes()]));
    }
    let mut writer = client.stream().try_clone().unwrap();
    let writer = thread::spawn(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rng.usize(1..40_000).min(rest.len()));
            writer.write_all(part).unwrap();
            rest = behind;
        }
    });
    for n in 0..5000 {
        assert_eq!(client.reply().to_string(), "+OK");
        let Reply::Integer(len) = client.reply() else { panic!("a length") };
        let n = n.to_string();
        assert_eq!(client.reply(), Reply::Bulk(n.repeat(len as usize / n.len()).into_bytes()));
    }
    writer.join().unwrap();
    server.stop();
}

#[test]
fn a_half_closed_client_gets_its_replies() {
    let server = start(&[]);
    let mut client = Client::connect(server.addr());
    client.send(&request(&[b"ECHO", &[b'x'; 3000]]).repeat(2000));
    let reply = client.finish();
    assert_eq!(reply.len(), 2000 * (b"$3000\r\n\r\n".len() + 3000));
    server.stop();
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = start(&[]);
    let mut client = Client::connect(server.addr());
    let before = (client.info("heap_objects"), client.info("used_memory"));
    let partial = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n"[..], &[b'v'; 40_000]].concat();
    for n in 0..200 {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.write_all(&partial[..1 + n * 37 % partial.len()]).unwrap();
        if n % 2 == 0 {
            set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    }
    eventually("clients to be forgotten", || client.info("connected_clients") == 1);
    eventually("the heap to be as it was", || {
        (client.info("heap_objects"), client.info("used_memory")) == before
    });
    assert_eq!(client.info("stale_posts"), 0);
    server.stop();
}

#[test]
fn ten_thousand_connections_opened_and_dropped() {
    let server = start(&[]);
    let mut client = Client::connect(server.addr());
    let before = client.info("heap_objects");
    for _ in 0..10_000 {
        let stream = TcpStream::connect(server.addr()).unwrap();
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    eventually("clients to be forgotten", || client.info("connected_clients") == 1);
    assert_eq!(client.info("heap_objects"), before);
    assert_eq!(client.ask("PING"), "+PONG");
    server.stop();
}

#[test]
fn two_hundred_clients_at_a_time() {
    let server = start(&["--max-clients", "201"]);
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(server.addr())).collect();
    for round in 0..10 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&request(&[b"SET", format!("k{n}").as_bytes(), format!("v{round}").as_bytes()]));
            client.send(&request(&[b"INCR", b"total"]));
        }
        for client in &mut clients {
            assert_eq!(client.reply().to_string(), "+OK");
            assert!(matches!(client.reply(), Reply::Integer(_)));
        }
    }
    assert_eq!(clients[0].ask("GET total"), "$2000");
    assert_eq!(clients[7].ask("GET k199"), "$v9");
    clients.push(Client::connect(server.addr()));
    assert_eq!(clients[200].ask("PING"), "+PONG");
    let mut extra = Client::connect(server.addr());
    assert_eq!(extra.rest(), b"-ERR max number of clients reached\r\n");
    drop(clients);
    server.stop();
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let server = start(&[]);
    let mut other = Client::connect(server.addr());
    let value = vec![b'v'; 60_000];
    assert_eq!(other.call(&[b"SET", b"big", &value]).to_string(), "+OK");
    let before = other.info("used_memory");

    // 120 MB of replies are asked for, which is more than the heap.
    let mut slow = Client::connect(server.addr());
    slow.send(&request(&[b"GET", b"big"]).repeat(2000));
    thread::sleep(Duration::from_millis(200));
    assert!(other.info("used_memory") < before + (4 << 20), "replies pile up");
    assert_eq!(other.ask("PING"), "+PONG");
    for _ in 0..2000 {
        assert_eq!(slow.reply(), Reply::Bulk(value.clone()));
    }
    drop(slow);
    eventually("the heap to be as it was", || other.info("used_memory") <= before);
    server.stop();
}

#[test]
fn out_of_memory_is_said_and_survived() {
    let server = start(&["--maxmemory", "4"]);
    let mut client = Client::connect(server.addr());
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.";
    for (value, step) in [(vec![b'v'; 50_000], 1), (vec![b'v'; 100], 50)] {
        let mut stored = 0;
        while client.call(&[b"SET", format!("k{stored}").as_bytes(), &value]).to_string() == "+OK" {
            stored += 1;
            assert!(stored < 100_000, "there is no limit");
        }
        assert!(stored > 20 * step, "only {stored} values of {} bytes", value.len());
        assert_eq!(client.call(&[b"SET", b"one more", &value]).to_string(), oom);
        assert_eq!(client.call(&[b"MSET", b"a", &value, b"b", &value]).to_string(), oom);
        assert_eq!(client.ask("EXISTS a b"), ":0");
        assert_eq!(client.call(&[b"GET", b"k0"]), Reply::Bulk(value));
        assert_eq!(client.ask("FLUSHALL"), "+OK");
    }
    assert_eq!(client.ask("SET k v"), "+OK");
    server.stop();
}

#[test]
fn a_shortage_of_descriptors_is_waited_out_and_said_once() {
    let limited = support::command("sh", &["-c", "ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0", KV]);
    let server = Server::start_with(limited, 1);
    let mut clients: Vec<Client> = (0..60).map(|_| Client::connect(server.addr())).collect();
    assert_eq!(clients[0].ask("PING"), "+PONG");
    thread::sleep(Duration::from_millis(100));
    let before = server.ticks();
    thread::sleep(Duration::from_secs(1));
    let spent = server.ticks() - before;
    assert!(spent <= 20, "{spent}0 ms of a second spent on connections that cannot be accepted");
    // Whoever waits is served as soon as others leave.
    let mut late = clients.split_off(40);
    drop(clients);
    late.iter_mut().for_each(|client| assert_eq!(client.ask("PING"), "+PONG"));
    let (_, said) = server.stop_with_complaints();
    assert_eq!(said.matches("cannot accept for now").count(), 1, "{said}");
}
