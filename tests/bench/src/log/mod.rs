//! Storage: durable appends and reads one after the other, and how long each takes.
//!
//! - `raw`: a bare io_uring, which everything else here is compared with

mod raw;

pub(crate) use raw::{Args as RawArgs, run as raw};
