//! A device with faults, seeded: loss, reordering, duplication, corruption, delay, a rate.
