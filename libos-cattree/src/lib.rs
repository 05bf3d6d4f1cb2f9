//! # Cattree: logs on a block device
//!
//! One device, or file, holds many named logs. A push appends one element and completes when it is durable; a pop
//! takes the next one at the descriptor's cursor.
//!
//! ## Layers, from below
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the seam to block devices, and those that there are |
//! | [`mod@format`] | what lies on the device: `docs/log-format.md` in code, without I/O |
//! | `log` | one log: elements become batches at its end, and are read at cursors |
//! | `store` | the image: logs and segments, checkpoints, opening, control calls |
//! | [`fsck`] | checking and mending images that nobody has open |
//! | `cattree` | the [`LibOs`](demi_api::libos::LibOs): descriptors above, logs below |

mod cattree;
mod config;
pub mod device;
pub mod format;
pub mod fsck;
mod log;
mod store;

pub use self::cattree::Cattree;
pub use self::config::{CattreeSection, DeviceSection, MemSection};
pub use self::store::{MakeOptions, OpenError};
