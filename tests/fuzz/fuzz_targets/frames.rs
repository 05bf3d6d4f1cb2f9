//! See `demi_tests::fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::frames(data));
