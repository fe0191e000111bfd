//! Spillway and models of other gateways in virtual time, in front of backends that follow Azure's rules.
//!
//! A simulation is a load ([`load`], or a recorded [`trace`]), some deployments ([`azure`]) and a gateway
//! ([`spillway`], [`peers`]), which meet in a [`world`] of events. It leaves a [`record`], from which [`figures`] are
//! computed. They are compared with a gateway that sees into the backends. `docs/routing.md` shows the [`scenarios`].
//!
//! The same seed gives the same bytes: there is no clock, and every random number comes from the seed.

pub mod azure;
pub mod figures;
pub mod load;
pub mod peers;
pub mod random;
pub mod record;
pub mod scenarios;
pub mod simulation;
pub mod spillway;
pub mod trace;
pub mod world;
