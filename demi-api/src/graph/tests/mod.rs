//! Operators over a libOS that follows a script. What operators do over real libOSes is tested in the workspace's
//! `tests`; here are the cases that need to hold a libOS still.

mod closing;
mod connect;
mod framing;
mod operators;
mod random;
mod script;
