//! Random sequences of calls against oracles that are too simple to be wrong.
#![forbid(unsafe_code)]

mod operators;
mod streams;
mod world;
