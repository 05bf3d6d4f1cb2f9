//! Tests of the device: its parts by themselves, the program against two machines, the whole over veth pairs.

mod beside;
pub(crate) mod net;
mod owners;
mod parts;
mod program;
pub(crate) mod sys;
mod veth;
