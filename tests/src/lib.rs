//! What every libOS must pass, and a libOS that needs no device.
//!
//! - [`loopback`]: [`Loopback`], queues inside one instance. It shows that the suite and the layer above a libOS
//!   need no device, and it decides when things happen: on the spot, in the next turn, or some turns later.
//! - [`mod@conformance`]: one function per behaviour of the API, generic over the libOS. [`conformance!`] makes
//!   tests of them.
//! - [`fuzz`]: what the fuzz targets run, and the ordinary tests with their corpora.
//!
//! The tests that are of one libOS, or of none, are in `tests/`: the faults of earlier implementations, hostile
//! input, random sequences of calls against an oracle.
//!
//! ```
//! use demi_api::{Config, Demikernel, Domain, SocketKind};
//! use demi_tests::Loopback;
//!
//! let config = Config::parse("[heap]\nsize_mib = 4\nlock = false\n", "example")?;
//! let demi = Demikernel::<Loopback>::new(&config)?;
//! let server = demi.socket(Domain::Inet, SocketKind::Datagram)?;
//! demi.bind(server, "127.0.0.1:0".parse::<demi_api::Addr>()?)?;
//! let client = demi.socket(Domain::Inet, SocketKind::Datagram)?;
//! demi.push_to(client, demi.copy_from(b"ping")?, demi.local_addr(server)?)?;
//! let pop = demi.pop(server)?;
//! assert_eq!(demi.wait(pop, None)?.popped()?.to_vec(), b"ping");
//! # Ok::<(), demi_api::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod conformance;
pub mod fuzz;
pub mod loopback;

pub use self::loopback::Loopback;
