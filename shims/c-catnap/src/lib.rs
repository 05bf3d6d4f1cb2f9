//! `libdemi_catnap`: the C interface over kernel sockets and files.

demi_c::export!(demi_libos_catnap::Catnap);
