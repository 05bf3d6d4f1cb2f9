//! # Catnip: a network stack of one's own, over NICs in user space
//!
//! TCP, UDP and IP, run to completion on the application's core, over a device that takes and gives bursts of frames in
//! the instance's own heap. What the application pushes above the copy threshold is what the device reads; what the
//! device writes is what the application pops.
//!
//! ## Principles
//!
//! - **No I/O in the protocols.** Time, randomness and memory come in through [`Cx`](demi_api::libos::Cx); frames come and
//!   go through [`device::Queue`]. So a whole network of stacks runs in one thread, on a clock that jumps, and does the
//!   same for the same seed.
//! - **What arrives is an allegation.** Every length, index and number from the wire is checked once, where it comes in.
//!   A hostile peer costs bounded memory and time.
//! - **Plain data.** A connection is a struct without a pointer into anything but the heap.
//!
//! ## Layers, from below
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the seam to NICs, and those that there are |
//! | `ip` | Ethernet, ARP and NDP, IPv4 and IPv6, ICMP, fragments, routes, address configuration |
//! | `timer`, `ports`, `line` | a timer wheel; who has which port; a short queue |
//! | `flow` | conversations that are under way, by what their headers have in common |
//! | `udp` | RFC 768 |
//! | `tcp` | RFC 9293 and what was added to it |
//! | `siblings` | other instances on the same interface |
//! | `aids` | faults and recordings that the configuration puts before any device |
//! | `catnip` | the [`LibOs`](demi_api::libos::LibOs): descriptors above, frames below |

mod aids;
mod catnip;
mod config;
pub mod device;
mod flow;
mod ip;
mod line;
mod ports;
mod siblings;
mod tcp;
mod timer;
mod udp;

pub use self::aids::{FaultSection, PcapSection};
pub use self::catnip::Catnip;
pub use self::config::{CatnipSection, CongestionChoice, CookieChoice, DeviceSection, EcnChoice};
pub use self::ip::{IpConfig, RouteConfig};
