//! Regions over RDMA in user space, on both of its links.
//!
//! | file | what it holds |
//! |---|---|
//! | `place` | instances' configurations |
//! | `two` | two instances in one thread |
//! | `processes` | instances in processes of their own, some of which are killed |
//! | `stranger` | a device that asks as the document says, and then does as it pleases |

mod place;
mod processes;
mod stranger;
mod two;
