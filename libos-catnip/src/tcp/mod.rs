//! TCP: RFC 9293, and what was added to it.

mod congestion;
mod rack;
mod reassembly;
mod rtt;
mod scoreboard;
mod seq;
