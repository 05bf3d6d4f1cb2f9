//! The libOS through the instance's API, on real sockets and files of this machine.

mod adopted;
mod closing;
mod common;
mod connections;
mod datagrams;
mod files;
mod misuse;
mod options;
mod streams;
mod waiting;
