//! Each command of `kv`, on what it promises and on what it refuses, in Redis' own words.

mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use support::resp::{Client, Reply, request};
use support::{KV, Server, eventually};

fn start() -> (Server, Client) {
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    let client = Client::connect(server.addr());
    (server, client)
}

/// Lines of a request and its reply, `>` between them.
fn talk(client: &mut Client, script: &str) {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (words, reply) = line.split_once(" > ").unwrap_or_else(|| panic!("no reply in {line}"));
        assert_eq!(client.ask(words), reply, "to {words}");
    }
}

#[test]
fn strings() {
    let (server, mut client) = start();
    talk(
        &mut client,
        "GET a > nil
        SET a 1 > +OK
        get a > $1
        gEt a > $1
        GET > -ERR wrong number of arguments for 'get' command
        GET a b > -ERR wrong number of arguments for 'get' command
        SET a > -ERR wrong number of arguments for 'set' command
        SET a 2 NX > nil
        SET a 2 XX GET > $1
        SET b 2 XX > nil
        SET b 2 NX GET > nil
        SET b 3 NX GET > $2
        GET b > $2
        SET a 3 NX XX > -ERR syntax error
        SET a 3 EX > -ERR syntax error
        SET a 3 EX 1 PX 1 > -ERR syntax error
        SET a 3 KEEPTTL EX 1 > -ERR syntax error
        SET a 3 EX x > -ERR value is not an integer or out of range
        SET a 3 EX 0 > -ERR invalid expire time in 'set' command
        SET a 3 PX -1 > -ERR invalid expire time in 'set' command
        SET a 3 EX 9223372036854775807 > -ERR invalid expire time in 'set' command
        SET a 3 BOGUS > -ERR syntax error
        SETNX a 9 > :0
        SETNX n 9 > :1
        GETSET n 10 > $9
        GETSET m 10 > nil
        GETDEL m > $10
        GETDEL m > nil
        STRLEN n > :2
        STRLEN none > :0
        SETEX t 100 v > +OK
        TTL t > :100
        PSETEX t 100000 v > +OK
        TTL t > :100
        SETEX t 0 v > -ERR invalid expire time in 'setex' command
        MSET x 1 y 2 > +OK
        MSET x 1 y > -ERR wrong number of arguments for 'mset' command
        MGET x none y > [$1 nil $2]
        MGET > -ERR wrong number of arguments for 'mget' command
        TYPE x > +string
        TYPE none > +none",
    );
    server.stop();
}

#[test]
fn integers() {
    let (server, mut client) = start();
    talk(
        &mut client,
        "INCR n > :1
        INCR n > :2
        DECR n > :1
        INCRBY n 41 > :42
        DECRBY n 44 > :-2
        GET n > $-2
        INCRBY n x > -ERR value is not an integer or out of range
        SET s text > +OK
        INCR s > -ERR value is not an integer or out of range
        SET s 01 > +OK
        INCR s > -ERR value is not an integer or out of range
        SET n 9223372036854775807 > +OK
        INCR n > -ERR increment or decrement would overflow
        GET n > $9223372036854775807
        SET n -9223372036854775808 > +OK
        DECR n > -ERR increment or decrement would overflow
        DECRBY n -9223372036854775808 > -ERR decrement would overflow
        SET n 999 EX 100 > +OK
        INCR n > :1000
        TTL n > :100
        INCR > -ERR wrong number of arguments for 'incr' command",
    );
    server.stop();
}

#[test]
fn keys_and_their_expiry() {
    let (server, mut client) = start();
    talk(
        &mut client,
        "TTL a > :-2
        SET a 1 > +OK
        TTL a > :-1
        EXPIRE a 100 > :1
        TTL a > :100
        EXPIRE a 50 NX > :0
        EXPIRE a 50 GT > :0
        EXPIRE a 50 LT > :1
        EXPIRE a 60 XX > :1
        TTL a > :60
        EXPIRE a 60 ZZ > -ERR Unsupported option ZZ
        EXPIRE a x > -ERR value is not an integer or out of range
        EXPIRE a 9223372036854775807 > -ERR invalid expire time in 'expire' command
        EXPIRE none 5 > :0
        PERSIST a > :1
        PERSIST a > :0
        PTTL a > :-1
        EXPIRE a 100 > :1
        SET a 2 KEEPTTL > +OK
        TTL a > :100
        SET a 2 > +OK
        TTL a > :-1
        EXPIRE a -1 > :1
        EXISTS a > :0
        MSET a 1 b 2 c 3 > +OK
        EXISTS a b a none > :3
        DEL a none b > :2
        UNLINK c > :1
        DBSIZE > :0
        SET soon 1 PX 30 > +OK
        SET later 1 EX 100 > +OK",
    );
    assert!(matches!(client.call(&[b"PTTL", b"soon"]), Reply::Integer(0..=30)));
    let start = Instant::now();
    while client.ask("GET soon") != "nil" {
        assert!(start.elapsed() < Duration::from_secs(5), "it does not expire");
        sleep(Duration::from_millis(5));
    }
    talk(&mut client, "EXISTS soon > :0\nTTL soon > :-2\nDBSIZE > :1\nSET soon 1 NX > +OK\nTTL soon > :-1");

    // Nobody asks for these: the sweep removes them.
    for key in 0..500 {
        assert_eq!(client.ask(&format!("SET k{key} v PX 20")), "+OK");
    }
    eventually("the sweep", || client.ask("DBSIZE") == ":2");
    talk(&mut client, "FLUSHALL x > -ERR syntax error\nFLUSHALL ASYNC > +OK\nDBSIZE > :0\nFLUSHDB > +OK");
    server.stop();
}

#[test]
fn connection_and_server() {
    let (server, mut client) = start();
    talk(
        &mut client,
        "PING > +PONG
        PING hello > $hello
        PING a b > -ERR wrong number of arguments for 'ping' command
        ECHO hello > $hello
        ECHO > -ERR wrong number of arguments for 'echo' command
        SELECT 0 > +OK
        SELECT 1 > -ERR DB index is out of range
        SELECT x > -ERR value is not an integer or out of range
        HELLO 3 > -NOPROTO unsupported protocol version
        HELLO x > -ERR Protocol version is not an integer or out of range
        CONFIG GET save > [$save $]
        CONFIG GET appendonly > [$appendonly $no]
        CONFIG GET nonsense > []
        CONFIG GET > -ERR wrong number of arguments for 'config|get' command
        CONFIG BOGUS > -ERR unknown subcommand 'BOGUS'. Try CONFIG HELP.
        CLIENT GETNAME > nil
        CLIENT SETNAME me > +OK
        CLIENT GETNAME > $me
        CLIENT SETINFO LIB-NAME x > +OK
        CLIENT BOGUS > -ERR unknown subcommand 'BOGUS'. Try CLIENT HELP.
        RESET > +RESET
        CLIENT GETNAME > nil",
    );
    assert_eq!(client.ask("FOO"), "-ERR unknown command 'FOO', with args beginning with: ");
    assert_eq!(client.ask("foo a b"), "-ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
    assert_eq!(client.ask("a\r\nb c"), "-ERR unknown command 'a  b', with args beginning with: 'c' ");
    let hello = client.ask("HELLO 2");
    assert!(hello.starts_with("[$server $demi-kv $version") && hello.contains("$proto :2"), "{hello}");

    let Reply::Integer(count) = client.call(&[b"COMMAND", b"COUNT"]) else { panic!("a number") };
    for (words, per_command) in [("COMMAND", 1), ("COMMAND INFO", 1), ("COMMAND DOCS", 2)] {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let Reply::Array(commands) = client.call(&words) else { panic!("an array") };
        assert_eq!(commands.len() as i64, count * per_command);
    }
    assert_eq!(client.ask("COMMAND INFO get bogus"), "[[$get :2 [+readonly +fast] :1 :1 :1] nil]");
    assert_eq!(client.ask("COMMAND DOCS get bogus"), "[$get [$summary $The value of a key]]");

    let Reply::Bulk(info) = client.call(&[b"INFO"]) else { panic!("a text") };
    let info = String::from_utf8(info).unwrap();
    for part in
        ["# Server\r\n", "connected_clients:1\r\n", "used_memory:", "catnap_recv:", "heap_superblocks:"]
    {
        assert!(info.contains(part), "{part} is missing in {info}");
    }
    let Reply::Bulk(keyspace) = client.call(&[b"INFO", b"keyspace"]) else { panic!("a text") };
    assert_eq!(keyspace, b"# Keyspace\r\n");

    assert_eq!(client.ask("QUIT"), "+OK");
    assert_eq!(client.rest(), b"");
    server.stop();
}

#[test]
fn inline_commands() {
    let (server, mut client) = start();
    client.send(b"\r\n  PING\r\nSET \"a b\" 'c d'\nGET \"a b\"\r\n*0\r\n*-1\r\n");
    assert_eq!(client.reply().to_string(), "+PONG");
    assert_eq!(client.reply().to_string(), "+OK");
    assert_eq!(client.reply().to_string(), "$c d");
    client.send(b"SET \"a\r\nPING\r\n");
    assert_eq!(client.rest(), b"-ERR Protocol error: unbalanced quotes in request\r\n");
    server.stop();
}

#[test]
fn values_of_every_size_come_back() {
    let (server, mut client) = start();
    for len in [0, 1, 63, 64, 511, 512, 513, 4000, 16_383, 16_384, 16_385, 100_000, 1_000_000, 5_000_000] {
        let value: Vec<u8> = (0..len).map(|n: usize| (n ^ n >> 8) as u8).collect();
        assert_eq!(client.call(&[b"SET", b"key", &value]).to_string(), "+OK");
        assert_eq!(client.call(&[b"GET", b"key"]), Reply::Bulk(value.clone()), "{len} bytes");
        assert_eq!(client.call(&[b"STRLEN", b"key"]), Reply::Integer(len as i64));
        let pair = Reply::Array(vec![Reply::Bulk(value.clone()), Reply::Bulk(value)]);
        assert_eq!(client.call(&[b"MGET", b"key", b"key"]), pair, "{len} bytes");
    }
    server.stop();
}

#[test]
fn large_values_stay_where_they_came_in() {
    let (server, mut client) = start();
    let value = vec![b'v'; 9000];
    for key in 0..10 {
        let key = format!("k{key}");
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]).to_string(), "+OK");
    }
    assert_eq!(client.info("values_kept_in_place"), 10);
    assert_eq!(client.info("values_copied"), 0);
    assert_eq!(client.ask("SET small v"), "+OK");
    assert_eq!(client.info("values_copied"), 1);
    server.stop();
}

#[test]
fn long_replies_are_whole() {
    let (server, mut client) = start();
    let value = vec![b'v'; 3000];
    assert_eq!(client.call(&[b"SET", b"k", &value]).to_string(), "+OK");
    let mut mget: Vec<&[u8]> = vec![b"MGET"];
    mget.resize(5001, b"k");
    client.send(&request(&mget));
    client.send(&request(&[b"PING"]));
    let Reply::Array(values) = client.reply() else { panic!("an array") };
    assert_eq!(values.len(), 5000);
    assert!(values.iter().all(|it| *it == Reply::Bulk(value.clone())));
    assert_eq!(client.reply().to_string(), "+PONG");
    server.stop();
}
