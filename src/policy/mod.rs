//! Decisions as pure functions: which backend, until when a gate is closed, when a breaker opens.
//!
//! Nothing here knows Envoy, a clock, randomness or a log. `now` and every random number are arguments. Workers share
//! records: a caller reads one, lets a function change it, and writes it back. So a function may run several times
//! for one event (after a lost race it runs again).

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
