//! The RDMA libOS: messages over reliable connections, with one queue pair for each pair of instances.
#![deny(unsafe_code)]

pub mod device;
pub mod soft;
