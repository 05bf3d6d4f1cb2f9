//! memif: a NIC made of memory that two processes share, by the memif protocol, version 2.
