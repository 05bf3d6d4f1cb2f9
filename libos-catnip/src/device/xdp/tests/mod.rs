//! Tests of the device: its parts by themselves, the program against two machines, the whole over veth pairs, by itself
//! or among others on its interface.

mod beside;
pub(crate) mod net;
mod owners;
mod parts;
mod program;
mod share;
pub(crate) mod sys;
mod veth;
