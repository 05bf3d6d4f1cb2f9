//! `kv` over our own stack, with a log on our own storage stack.

use std::process::ExitCode;

use demi_api::Pair;
use demi_examples::kv;
use demi_libos_catnip::Catnip;
use demi_libos_cattree::Cattree;

type Demi = demi_api::Demikernel<Pair<Catnip, Cattree>>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, kv::run)
}
