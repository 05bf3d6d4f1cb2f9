//! See `demi_tests::fuzz::roce_peer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::roce_peer(data));
