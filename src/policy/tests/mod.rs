//! How breakers, gates and selection behave together, in virtual time.
#![allow(clippy::arithmetic_side_effects, reason = "tests fail by panicking")]

mod early;
mod model;
mod recovery;
mod selection;
mod shipped;
mod state;
mod workers;
