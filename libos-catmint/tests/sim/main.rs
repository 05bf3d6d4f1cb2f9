//! Instances on perfect hardware in virtual time: the same for the same seed.

mod crowd;
mod world;
