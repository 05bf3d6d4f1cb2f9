//! Two queue pairs, a wire with faults, and an oracle.

mod oracle;
mod rules;
mod world;
