//! The one completion queue.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;
