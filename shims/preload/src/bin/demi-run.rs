//! Runs a program on a libOS.

fn main() {}
