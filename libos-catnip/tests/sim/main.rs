//! Whole stacks in one thread, on a clock that jumps: data arrives exactly once and in order, whatever the network does,
//! and the same seed does the same to the letter.
//!
//! `DEMI_SEEDS` says how many seeds of each kind to run, in place of the usual number; `DEMI_SEED` runs a single one, for
//! the seed that a failure names.

mod datagrams;
mod ecn;
mod idle;
mod listen;
mod memory;
mod pacing;
mod raw;
mod rest;
mod tail;
mod time_wait;
mod transfer;
mod window;
mod world;
