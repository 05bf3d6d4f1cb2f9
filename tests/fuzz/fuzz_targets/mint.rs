//! See `demi_tests::fuzz::mint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::mint(data));
