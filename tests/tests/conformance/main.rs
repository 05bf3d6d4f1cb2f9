//! The conformance suite, for every libOS that needs no device, and pairs of them.
#![forbid(unsafe_code)]

mod catnap;
mod catnip;
mod facing;
mod loopback;
