//! Instances on perfect hardware in virtual time: the same for the same seed.

#![deny(unsafe_code)]

mod crowd;
mod failures;
mod meeting;
mod memory;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
mod world;
