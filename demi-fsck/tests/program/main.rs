//! The program, run on images that real workloads leave.

mod command_line;
mod damage;
mod support;
