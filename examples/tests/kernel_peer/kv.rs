//! The key-value server under Redis' own tools, from another namespace.

use super::net::{DEVICES, Net, OURS, run};

const KV: &str = env!("CARGO_BIN_EXE_kv-catnip");
const KV_LOG: &str = env!("CARGO_BIN_EXE_kv-catnip-cattree");

#[test]
fn redis_benchmark_finds_no_fault() {
    for device in DEVICES {
        let Some(net) = Net::new(device, &["redis-benchmark"]) else { return };
        for to in [0, 1] {
            let server = net.serve(KV, &["--listen", &super::net::with_port(OURS[to], 6379)], "");
            for more in
                [&["-n", "10000", "-c", "50", "-P", "16"][..], &["-n", "2000", "-d", "20000", "-c", "10"]]
            {
                let tests = ["-h", OURS[to], "-t", "ping,set,get,incr,mset", "--csv"];
                let lines = run(net.theirs("redis-benchmark", &[&tests[..], more].concat()));
                for name in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
                    assert!(lines.contains(&format!("\"{name}\",")), "{name} is missing in {lines}");
                }
                assert!(!lines.to_lowercase().contains("error"), "{lines}");
            }
            server.stop();
        }
    }
}

#[test]
fn a_log_keeps_what_redis_benchmark_has_set() {
    let Some(net) = Net::new(DEVICES[0], &["redis-benchmark"]) else { return };
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("kv.log");
    let log = ["--log", path.to_str().unwrap(), "--log-size", "32"];
    let listen = super::net::with_port(OURS[0], 6379);
    let args = [&["--listen", &listen][..], &log].concat();
    let server = net.serve(KV_LOG, &args, "");
    let load =
        ["-h", OURS[0], "-t", "set,incr,mset", "-n", "10000", "-c", "50", "-P", "16", "-r", "500", "--csv"];
    let lines = run(net.theirs("redis-benchmark", &load));
    assert!(lines.contains("\"SET\",") && !lines.to_lowercase().contains("error"), "{lines}");
    let keys = run(net.theirs("redis-cli", &["-h", OURS[0], "dbsize"]));
    server.kill();
    let server = net.serve(KV_LOG, &args, "");
    assert_eq!(run(net.theirs("redis-cli", &["-h", OURS[0], "dbsize"])), keys);
    assert!(keys.trim().parse::<u32>().unwrap() > 900, "{keys}");
    server.stop();
}
