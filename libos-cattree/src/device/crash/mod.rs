//! Losses of power: a device is [recorded](Recorder), and every image that a cut of its [`Trace`] can leave is
//! [made](Cuts).
//!
//! The rules are those of `docs/log-format.md`, "What is assumed of the medium". At a cut
//!
//! - a write that has completed as durable is there, whole, and so is one that had completed before a flush was submitted that
//!   has completed;
//! - of any other write that was submitted, failed ones among them, any subset of the atomic units is there;
//! - where such writes overlap any of them may have come last, but not one that had completed before another was
//!   submitted, and none that had completed before a durable one did is seen through it;
//! - what was discarded is zero or what it was, unit by unit: while the discard is under way as for writes, afterwards by
//!   chance;
//! - everything else is as it was.
//!
//! Not in here: damage to what was not written, which tests do to an image by hand.
//!
//! | file | what it holds |
//! |---|---|
//! | `trace` | the recorder, and what it records |
//! | `cuts` | what is certain and what is in doubt at a cut, and images of both |
//! | `choice` | which images are made where there are too many |

mod choice;
mod cuts;
#[cfg(test)]
mod tests;
mod trace;

pub use self::choice::{Bound, Choice, Pattern};
pub use self::cuts::Cuts;
pub use self::trace::{Event, Outcome, Recorder, Trace};
