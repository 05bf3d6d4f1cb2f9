//! `libdemi_cattree`: the C interface over a store of logs.

demi_c::export!(demi_libos_cattree::Cattree);
