//! `iperf3` over the kernel's sockets.

use std::process::ExitCode;

use demi_examples::iperf3;
use demi_libos_catnap::Catnap;

type Demi = demi_api::Demikernel<Catnap>;

fn main() -> ExitCode {
    demi_examples::main(Demi::new, iperf3::run)
}
