//! Two links in one process, peers that break the rules, and processes that die.

mod hostile;
mod pair;
