//! The symbols.

use demi_libos_catnap::Catnap;

struct Carrier;

impl demi_preload::Carrier for Carrier {
    type LibOs = Catnap;

    const IN_KERNEL: bool = true;
}

demi_preload::export!(Carrier);
