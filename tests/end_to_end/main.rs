//! The filter in real Envoy, in front of backends that keep Azure's rules: what the client sees and
//! what the backends received.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod harness;

mod breaker;
mod choosing;
mod exhausted;
mod reload;
mod retry_budget;
mod sdk;
mod throttling;
mod waiting;
mod workers;
