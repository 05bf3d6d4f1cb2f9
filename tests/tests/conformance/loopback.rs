//! Loopback in each of its flavours, and a pair of it.

use demi_api::Pair;
use demi_tests::Loopback;
use demi_tests::conformance::InProcess;

mod on_the_spot {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<0>>: general streams datagrams storage);
}

mod next_turn {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<1>>: general streams datagrams storage);
}

mod some_turns_later {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<5>>: general streams datagrams storage);
}

mod pair {
    use super::*;

    type Both = Pair<Loopback<1>, Loopback<0>>;
    demi_tests::conformance!(InProcess<Both>: general streams datagrams storage);
}
