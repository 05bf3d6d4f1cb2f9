//! `libdemi_catnip`: the C interface over a user-space TCP stack.

demi_c::export!(demi_libos_catnip::Catnip);
