//! The conformance suite, for every libOS that needs no hardware, and pairs of them.
//!
//! Tests over AF_XDP need root, and say so where they are skipped.
#![deny(unsafe_code)]

mod cables;
mod catmint;
mod catnap;
mod catnip;
mod cattree;
mod facing;
mod loopback;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
