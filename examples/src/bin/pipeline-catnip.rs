//! `pipeline` over our own stack.

use std::process::ExitCode;

use demi_examples::pipeline;
use demi_libos_catnip::Catnip;

type Demi = demi_api::Demikernel<Catnip>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, pipeline::run)
}
