//! See `demi_tests::fuzz::memif_control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::memif_control(data));
