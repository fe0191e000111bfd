//! How breakers, gates and selection behave together, in virtual time.
#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

mod bench;
mod early;
mod gates;
mod half_open;
mod late_results;
mod model;
mod opening;
mod recovery;
mod selection;
mod shipped;
mod workers;
