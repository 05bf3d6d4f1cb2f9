//! `libdemi_catmint_cattree`: the C interface over RDMA and a store of logs.

demi_c::export!(demi_api::Pair<demi_libos_catmint::Catmint, demi_libos_cattree::Cattree>);
