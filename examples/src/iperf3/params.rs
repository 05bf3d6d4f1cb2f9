//! What a test is to be, as its client says, and what came of it, as each side says to the other.

use std::time::Duration;

use serde_json::{Value, json};

use super::wire::{Code, Fault};

/// iperf3's own limits.
pub(super) const MOST_STREAMS: u64 = 128;
pub(super) const MOST_LEN: u64 = 1 << 20;
const MOST_SECONDS: u64 = 86_400;

/// A test that can be run here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Params {
    pub(super) streams: usize,
    /// The server sends.
    pub(super) reverse: bool,
    /// Bytes of a block.
    pub(super) len: usize,
    /// Bytes after which it ends; zero: it ends by time.
    pub(super) bytes: u64,
    /// Zero: it ends by bytes, or when its client says so.
    pub(super) time: Duration,
    /// Bytes of the socket buffers, if not the usual.
    pub(super) window: Option<usize>,
}

/// What would change the test and cannot be had here: a name, and the number that refuses it. Absent, zero and false
/// ask for nothing.
const REFUSED: [(&str, Code); 11] = [
    ("udp", Code::Protocol),
    ("sctp", Code::Protocol),
    ("mptcp", Code::Protocol),
    ("bidirectional", Code::Unimplemented),
    ("omit", Code::Unimplemented),
    ("authtoken", Code::Authorization),
    ("congestion", Code::Congestion),
    ("flowlabel", Code::FlowLabel),
    ("fqrate", Code::Unimplemented),
    ("MSS", Code::Mss),
    ("TOS", Code::Tos),
];

impl Params {
    /// Reads what a client sends. What is missing is as iperf3 has it by default.
    pub(super) fn parse(value: &Value) -> Result<Params, Fault> {
        if !value.is_object() {
            return Err(Fault::new(Code::Parameters, "the parameters are no JSON object"));
        }
        let asked =
            |name: &str| !matches!(&value[name], Value::Null | Value::Bool(false)) && value[name] != 0;
        if let Some((name, code)) = REFUSED.into_iter().find(|(name, _)| asked(name)) {
            return Err(Fault::new(code, format!("\"{name}\" is not supported; run the client without it")));
        }
        if !asked("tcp") {
            return Err(Fault::new(Code::Protocol, "only TCP is supported"));
        }
        let number = |name: &str, usual: u64, range: std::ops::RangeInclusive<u64>, code: Code| {
            let number = if value[name].is_null() { Some(usual) } else { value[name].as_u64() };
            number.filter(|number| range.contains(number)).ok_or_else(|| {
                Fault::new(code, format!("\"{name}\" is {}, and may be {range:?}", value[name]))
            })
        };
        let reverse = asked("reverse");
        if reverse && asked("bandwidth") {
            return Err(Fault::new(Code::Unimplemented, "this server sends at full speed; leave -b out"));
        }
        let window = number("window", 0, 0..=1 << 29, Code::BufferSize)?;
        Ok(Params {
            streams: number("parallel", 1, 1..=MOST_STREAMS, Code::Streams)? as usize,
            reverse,
            len: number("len", 128 << 10, 1..=MOST_LEN, Code::BlockSize)? as usize,
            bytes: number("num", 0, 0..=u64::MAX, Code::Parameters)?,
            time: Duration::from_secs(number("time", 0, 0..=MOST_SECONDS, Code::Duration)?),
            window: (window > 0).then_some(window as usize),
        })
    }

    /// For a server to read.
    pub(super) fn to_json(&self) -> Value {
        let mut value = json!({
            "tcp": true,
            "omit": 0,
            "time": self.time.as_secs(),
            "num": self.bytes,
            "blockcount": 0,
            "parallel": self.streams,
            "len": self.len,
            "client_version": "3.12",
        });
        if self.reverse {
            value["reverse"] = true.into();
        }
        value
    }
}

/// Bytes of each stream, in order, and the time they took.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Results {
    pub(super) bytes: Vec<u64>,
    pub(super) seconds: f64,
}

impl Results {
    /// Reads what the other side says of as many streams as there are.
    pub(super) fn parse(value: &Value, streams: usize) -> Result<Results, Fault> {
        let list = value["streams"].as_array().map_or(&[][..], Vec::as_slice);
        let (mut bytes, mut seconds) = (vec![None; streams], 0_f64);
        for stream in list {
            let place = (0..streams).find(|place| stream["id"] == id(*place));
            let place =
                place.ok_or_else(|| Fault::new(Code::Results, "a stream that is none of the test's"))?;
            bytes[place] = stream["bytes"].as_u64();
            seconds = seconds.max(stream["end_time"].as_f64().unwrap_or(0.0));
        }
        let bytes = bytes.into_iter().collect::<Option<_>>();
        let bytes = bytes.ok_or_else(|| Fault::new(Code::Results, "not each stream's bytes are in them"))?;
        Ok(Results { bytes, seconds })
    }

    /// For the other side to read, which asks for every number that is here. Load and retransmissions are not
    /// measured: a sender says that it has none of the latter, and -1 is unknown.
    pub(super) fn to_json(&self, sends: bool) -> Value {
        let stream = |(place, bytes): (usize, &u64)| {
            json!({
                "id": id(place),
                "bytes": bytes,
                "retransmits": -1,
                "jitter": 0,
                "errors": 0,
                "packets": 0,
                "start_time": 0,
                "end_time": self.seconds,
            })
        };
        json!({
            "cpu_util_total": 0,
            "cpu_util_user": 0,
            "cpu_util_system": 0,
            "sender_has_retransmits": if sends { 0 } else { -1 },
            "streams": self.bytes.iter().enumerate().map(stream).collect::<Vec<_>>(),
        })
    }

    pub(super) fn total(&self) -> u64 {
        self.bytes.iter().fold(0, |total, bytes| total.saturating_add(*bytes))
    }
}

/// How iperf3 counts streams: 1, 3, 4, 5, …
fn id(place: usize) -> u64 {
    place as u64 + if place == 0 { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_back_as_they_went() {
        for (streams, reverse, bytes, time) in [(1, false, 0, 10), (128, true, 1 << 40, 0)] {
            let params =
                Params { streams, reverse, len: 4096, bytes, time: Duration::from_secs(time), window: None };
            assert_eq!(Params::parse(&params.to_json()).unwrap(), params);
        }
        let least = Params::parse(&json!({"tcp": true, "window": 4096})).unwrap();
        assert_eq!((least.streams, least.len, least.window), (1, 128 << 10, Some(4096)));
    }

    #[test]
    fn what_is_not_supported_has_a_number() {
        for (more, code) in [
            (json!({"tcp": null, "udp": true}), Code::Protocol),
            (json!({"tcp": null}), Code::Protocol),
            (json!({"bidirectional": true}), Code::Unimplemented),
            (json!({"omit": 3}), Code::Unimplemented),
            (json!({"authtoken": "x"}), Code::Authorization),
            (json!({"congestion": "reno"}), Code::Congestion),
            (json!({"reverse": true, "bandwidth": 1000}), Code::Unimplemented),
            (json!({"parallel": 0}), Code::Streams),
            (json!({"parallel": 129}), Code::Streams),
            (json!({"parallel": "many"}), Code::Streams),
            (json!({"len": (1 << 20) + 1}), Code::BlockSize),
            (json!({"time": 86_401}), Code::Duration),
            (json!({"time": 1e300}), Code::Duration),
            (json!({"num": -1}), Code::Parameters),
        ] {
            let mut value = json!({"tcp": true});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(Params::parse(&value).unwrap_err().code, code, "{value}");
        }
        for value in [json!([]), json!("tcp"), json!(null)] {
            assert_eq!(Params::parse(&value).unwrap_err().code, Code::Parameters);
        }
    }

    #[test]
    fn results_are_of_every_stream_and_no_other() {
        let results = Results { bytes: vec![1, 2, u64::MAX], seconds: 1.5 };
        let value = results.to_json(true);
        assert_eq!(value["streams"][2]["id"], 4);
        assert_eq!(Results::parse(&value, 3).unwrap(), results);
        assert_eq!(results.total(), u64::MAX);
        for streams in [2, 4] {
            assert_eq!(Results::parse(&value, streams).unwrap_err().code, Code::Results);
        }
        assert_eq!(Results::parse(&json!({"streams": 7}), 1).unwrap_err().code, Code::Results);
    }
}
