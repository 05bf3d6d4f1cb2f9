//! The key-value server under Redis' own tools, from another namespace.

use super::net::{DEVICES, Net, OURS, run};

const KV: &str = env!("CARGO_BIN_EXE_kv-catnip");

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
