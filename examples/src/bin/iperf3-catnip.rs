//! `iperf3` over our own stack.

use std::process::ExitCode;

use demi_examples::iperf3;
use demi_libos_catnip::Catnip;

type Demi = demi_api::Demikernel<Catnip>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, iperf3::run)
}
