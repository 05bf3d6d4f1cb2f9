//! `http` over the kernel's sockets.

use std::process::ExitCode;

use demi_examples::http;
use demi_libos_catnap::Catnap;

type Demi = demi_api::Demikernel<Catnap>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, http::run)
}
