//! `echo` over the kernel's sockets, with a log on our own storage stack.

use std::process::ExitCode;

use demi_api::Pair;
use demi_examples::echo;
use demi_libos_catnap::Catnap;
use demi_libos_cattree::Cattree;

type Demi = demi_api::Demikernel<Pair<Catnap, Cattree>>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, echo::run)
}
