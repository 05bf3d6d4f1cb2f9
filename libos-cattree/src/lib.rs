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
//! | [`format`] | what lies on the device: `docs/log-format.md` in code, without I/O |

pub mod device;
pub mod format;
