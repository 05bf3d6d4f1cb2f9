//! What the logs withstand: losses of power at every point, failures of every request, damage anywhere.
//!
//! | file | what it holds |
//! |---|---|
//! | `model` | what an application was told, and so may find again |
//! | `world` | an instance over a device in memory that is recorded and may fail |
//! | `app` | an application that does what chance tells it |
//! | `reference` | a second reader of images, from the document alone |
//! | `power` | loss of power |
//! | `faults` | requests that fail |
//! | `calls` | calls that meet operations under way |
//! | `kill` | a process that dies |
//! | `limits` | full and read-only devices, positions that name nothing |
//! | `damage` | bits that flip, blocks that are lost |
//!
//! `DEMI_SEEDS` says how many runs there are of each kind, `DEMI_SEED` where they begin: a run that fails prints its seed.
#![forbid(unsafe_code)]

mod app;
mod calls;
mod damage;
mod faults;
mod kill;
mod limits;
mod model;
mod power;
mod reference;
mod world;
