//! What is told of a test: a line for people, or one JSON object with iperf3's own names.

use serde_json::{Value, json};

use super::params::{Params, Results};
use crate::cli::{grouped, say};

/// Tells what came of a test, as both sides saw it.
pub(super) fn tell(json: bool, params: &Params, cookie: &[u8], sent: &Results, received: &Results) {
    if json {
        return say(object(params, cookie, sent, received));
    }
    let gbit = |results: &Results| results.total() as f64 * 8e-9 / results.seconds.max(1e-9);
    say(format_args!(
        "{} stream{}: {} bytes sent in {:.2} s ({:.2} Gbit/s), {} received in {:.2} s ({:.2} Gbit/s)",
        params.streams,
        if params.streams == 1 { "" } else { "s" },
        grouped(sent.total()),
        sent.seconds,
        gbit(sent),
        grouped(received.total()),
        received.seconds,
        gbit(received),
    ));
}

fn object(params: &Params, cookie: &[u8], sent: &Results, received: &Results) -> Value {
    let rate = |bytes: u64, seconds: f64| {
        json!({
            "start": 0,
            "end": seconds,
            "seconds": seconds,
            "bytes": bytes,
            "bits_per_second": bytes as f64 * 8.0 / seconds.max(1e-9),
        })
    };
    let streams: Vec<Value> = std::iter::zip(&sent.bytes, &received.bytes)
        .map(|(out, back)| json!({"sender": rate(*out, sent.seconds), "receiver": rate(*back, received.seconds)}))
        .collect();
    json!({
        "start": {
            "version": concat!("demi ", env!("CARGO_PKG_VERSION")),
            "cookie": String::from_utf8_lossy(cookie).trim_end_matches('\0'),
            "test_start": {
                "protocol": "TCP",
                "num_streams": params.streams,
                "blksize": params.len,
                "duration": params.time.as_secs(),
                "bytes": params.bytes,
                "reverse": u8::from(params.reverse),
            },
        },
        "intervals": [],
        "end": {
            "streams": streams,
            "sum_sent": rate(sent.total(), sent.seconds),
            "sum_received": rate(received.total(), received.seconds),
        },
    })
}
