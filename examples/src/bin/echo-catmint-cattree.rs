//! `echo` over RDMA, with a log on our own storage stack.

use std::process::ExitCode;

use demi_api::Pair;
use demi_examples::echo;
use demi_libos_catmint::Catmint;
use demi_libos_cattree::Cattree;

type Demi = demi_api::Demikernel<Pair<Catmint, Cattree>>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, echo::run)
}
