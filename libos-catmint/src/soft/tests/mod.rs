//! Whole devices on both ends, over each link.

mod calls;
mod net;
mod side;
mod sleep;
