//! `libdemi_catmint`: the C interface over RDMA.

demi_c::export!(demi_libos_catmint::Catmint);
