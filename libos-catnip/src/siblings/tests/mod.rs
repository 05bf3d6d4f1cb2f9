//! Tests: messages and who is asked by themselves, sockets between siblings, and whole instances in processes of their own
//! over a veth pair with the kernel as their peer.

mod mesh;
mod messages;
mod processes;
mod worker;
