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
    clippy::disallowed_types,
    reason = "tests fail by panicking, and measure real time"
)]

mod harness;

mod allowed_operations;
mod bad_input;
mod blame;
mod bodies;
mod breaker;
mod budgets;
mod choosing;
mod client_credentials;
mod consumers;
mod consumers_sharing;
mod credentials;
mod curl;
mod endings;
mod equal_names;
mod exhausted;
mod failover;
mod faults;
mod filters_before;
mod headers;
mod held_responses;
mod hostile_clients;
mod hosts;
mod idle_connections;
mod long_prompts;
mod memory;
mod missing_hosts;
mod models;
mod odd_statuses;
mod operations;
mod overflow;
mod polling;
mod provisioned;
mod realtime;
mod reload;
mod response_headers;
mod retry_budget;
mod rewriting;
mod sdk;
mod service_tiers;
mod settling;
mod shapes;
mod shipped;
mod spillover;
mod stalls;
mod streams;
mod throttling;
mod trailers;
mod transport;
mod traps;
mod unfinished_errors;
mod usage;
mod vm_config;
mod waiting;
mod websockets;
mod workers;
