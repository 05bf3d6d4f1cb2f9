//! `libdemi_catnip_cattree`: the C interface over a user-space TCP stack and a store of logs.

demi_c::export!(demi_api::Pair<demi_libos_catnip::Catnip, demi_libos_cattree::Cattree>);
