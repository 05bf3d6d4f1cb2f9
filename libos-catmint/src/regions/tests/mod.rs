//! Two instances on a model of perfect hardware, and who means no good.
//!
//! | file | what it holds |
//! |---|---|
//! | `world` | instances on one fabric, in virtual time |
//! | `here` | regions of one's own |
//! | `there` | regions of others: finding, order, bounds, closing |
//! | `lost` | what is revoked, killed, too slow, too much |
//! | `hostile` | users and exporters that are none |
//! | `oracle` | random operations, beside an array |

mod here;
mod hostile;
mod lost;
mod oracle;
mod there;
mod world;
