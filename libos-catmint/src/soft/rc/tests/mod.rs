//! Two queue pairs.
