//! How breakers, gates and selection behave together, in virtual time.
//!
//! Each test names its item. Items that need no test here:
//! - 3: there is no window of the last N calls, only windows by time.
//! - 13: exactly one probe is let through, so N is 1.
//! - 19, forced states: there are none; the rule for reloads is tested in `records`.
//! - 33 to 36 and 38 to 47 concern requests, replies, budgets and metrics, not these decisions.
#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

mod early;
mod model;
mod selection;
mod shipped;
mod state;
mod workers;
