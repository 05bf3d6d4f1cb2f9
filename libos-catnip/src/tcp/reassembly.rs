//! What arrived out of order, and the SACK blocks that say so.
