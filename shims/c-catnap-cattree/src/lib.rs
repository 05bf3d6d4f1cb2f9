//! `libdemi_catnap_cattree`: the C interface over kernel sockets and a store of logs.

demi_c::export!(demi_api::Pair<demi_libos_catnap::Catnap, demi_libos_cattree::Cattree>);
