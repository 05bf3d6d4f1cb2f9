//! Storage: durable appends and reads one after the other, and how long each takes.
//!
//! - `raw`: a bare io_uring, which everything else here is compared with
//! - `demi`: elements of a log, through cattree

mod demi;
mod raw;

pub(crate) use demi::{Args as DemiArgs, run as demi, wipe};
pub(crate) use raw::{Args as RawArgs, run as raw};
