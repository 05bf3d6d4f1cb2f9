//! `echo` over the kernel's sockets.

use std::process::ExitCode;

use demi_examples::echo;
use demi_libos_catnap::Catnap;

type Demi = demi_api::Demikernel<Catnap>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, echo::run)
}
