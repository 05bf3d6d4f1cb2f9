//! See `demi_tests::fuzz::middle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::middle(data));
