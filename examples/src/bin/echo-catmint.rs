//! `echo` over RDMA.

use std::process::ExitCode;

use demi_examples::echo;
use demi_libos_catmint::Catmint;

type Demi = demi_api::Demikernel<Catmint>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, echo::run)
}
