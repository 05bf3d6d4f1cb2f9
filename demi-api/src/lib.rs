//! One API of queue descriptors over interchangeable libOSes.
//!
//! Work in progress: modules are listed in the order in which data meets them.
#![forbid(unsafe_code)]

pub mod addr;
pub mod config;
pub mod desc;
pub mod error;
pub mod libos;
pub mod op;
pub mod sga;
pub mod time;
pub mod token;

pub use demi_memalloc as memalloc;
