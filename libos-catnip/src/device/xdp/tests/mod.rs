//! Tests of the device: its parts by themselves, the program against two machines, the whole over veth pairs.

mod net;
mod parts;
mod program;
mod sys;
mod veth;
mod veth_more;
