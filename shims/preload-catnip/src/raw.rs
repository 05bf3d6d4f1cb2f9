//! The symbols.

use demi_libos_catnip::Catnip;

struct Carrier;

impl demi_preload::Carrier for Carrier {
    type LibOs = Catnip;

    const IN_KERNEL: bool = false;
}

demi_preload::export!(Carrier);
