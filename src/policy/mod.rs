//! Decisions, as pure functions: which backend, until when a gate is closed, when a breaker trips.
//!
//! Nothing here knows Envoy, a clock, randomness or a log. `now` and every random number are
//! arguments; what workers share is a record that a caller reads, lets a function change, and
//! writes back. A function may therefore run several times for one event (a lost race re-runs it).

pub mod backend;
mod calendar;
pub mod choice;
mod codec;
pub mod failover;
pub mod keys;
pub mod pool;
pub mod response;
pub mod time;
pub mod tokens;
pub mod window;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
