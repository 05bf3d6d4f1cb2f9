//! RDMA in user space, for machines without hardware for it: RoCEv2, so that its peers may have some.
//!
//! | module | what it is |
//! |---|---|
//! | [`cm`] | the connection manager, without I/O |
//! | [`rc`] | reliable connections, without I/O |
//! | [`wire`] | packets, and the connection manager's messages |
//! | [`link`] | what carries packets |

pub mod cm;
pub mod link;
pub mod rc;
pub mod wire;
