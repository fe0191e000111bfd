//! The real filter, driven natively through the proxy-wasm ABI by a host that the tests play.
//!
//! `host` is Envoy's side of the ABI: imports, shared data, clock, metrics. `envoy` is Envoy's
//! router: it takes one client request through the gateway's and the attempts' callbacks, in Envoy's
//! order and in virtual time. A worker is a thread, as the filter's state is thread-local; a test's
//! process is an `Arc<Process>`, so tests run in parallel. The limits: a word has 64 bits here,
//! and Envoy's own timing and re-entrancy are imitated, so the end-to-end tests stay necessary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "tests fail by panicking, and play the process that workers share"
)]

mod envoy;
mod host;

mod admission;
mod any_order;
mod blame;
mod budgets;
mod clock;
mod configuring;
mod costs;
mod endings;
mod equal_names;
mod estimates;
mod failover;
mod held_responses;
mod hostile;
mod instructions;
mod late_bodies;
mod leaks;
mod races;
mod random;
mod reading;
mod records;
mod refusals;
mod refused;
mod streams;
mod trailers;
mod usage;
mod workers;
