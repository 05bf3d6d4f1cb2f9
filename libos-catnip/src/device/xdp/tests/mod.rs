//! Tests of the device: its parts by themselves, the program against two machines, the whole over veth pairs.

mod beside;
mod net;
mod owners;
mod parts;
mod program;
mod sys;
mod veth;
