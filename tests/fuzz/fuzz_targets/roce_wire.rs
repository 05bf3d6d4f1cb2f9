//! See `demi_tests::fuzz::roce_wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| demi_tests::fuzz::roce_wire(data));
