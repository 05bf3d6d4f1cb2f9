//! Programs over the Demi API, each written once for every libOS.
//!
//! A body here is generic over `L: LibOs`; a file of `src/bin` names the libOS and nothing else:
//!
//! ```no_run
//! use demi_examples::echo;
//! use demi_libos_catnap::Catnap;
//!
//! type Demi = demi_api::Demikernel<Catnap>;
//!
//! fn main() -> std::process::ExitCode {
//!     demi_examples::main(Demi::new, echo::run)
//! }
//! ```
//!
//! | module | program |
//! |---|---|
//! | [`echo`] | server and client over TCP, UDP and UNIX sockets, with a latency histogram |
//! | [`http`] | an HTTP/1.1 server of files in memory, for `curl` |
//! | [`iperf3`] | bulk transfer in the protocol of iperf3, as its server or as its client |
//! | [`kv`] | a key-value server that speaks RESP2: `redis-cli` and `redis-benchmark` talk to it |
//! | [`relay`] | a UDP relay |
//! | [`pipeline`] | merge, filter, map and sort on live queues |
//!
//! What they share: [`cli`] (arguments, errors, exit codes), [`net`] (listening, connecting), [`stop`] (signals),
//! [`latency`] (a histogram and its picture), [`log`] (where logs are).
//!
//! Exit codes: 0 done or stopped by a signal, 1 failed, 2 wrong arguments.
#![forbid(unsafe_code)]

pub mod cli;
pub mod echo;
pub mod http;
pub mod iperf3;
pub mod kv;
pub mod latency;
pub mod log;
pub mod net;
pub mod pipeline;
pub mod relay;
pub mod stop;

pub use cli::main;
