//! Spillway and models of other gateways in virtual time, before backends that keep Azure's rules.
//!
//! A simulation is a load ([`load`]), some deployments ([`azure`]) and a gateway ([`spillway`], [`peers`]), which
//! meet in a [`world`] of events. What happened ([`record`]) is measured ([`figures`]) and compared with what
//! one would do who sees into the backends. [`scenarios`] are those that `docs/routing.md` shows.
//!
//! The same seed gives the same bytes: there is no clock, and each number that is drawn at random comes from it.

pub mod azure;
pub mod figures;
pub mod load;
pub mod peers;
pub mod random;
pub mod record;
pub mod scenarios;
pub mod simulation;
pub mod spillway;
pub mod world;
