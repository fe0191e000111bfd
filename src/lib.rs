//! Spillway: an Envoy filter that fills provisioned Azure OpenAI capacity first and spills the rest.
//!
//! # One request's life
//!
//! ```text
//! client ── HCM ── gateway ── router ── cluster A ── attempt ── A
//!                                 │  429, 5xx, reset, before any byte went to the client
//!                                 └─ retry ── cluster B ── attempt ── B
//! ```
//!
//! 1. The *gateway* role (`filter::gateway`) recognises the call ([`openai::call`]), reads the
//!    facts out of the body ([`openai::request::scan`]), finds the pool ([`config`]) and chooses the first
//!    backend ([`policy::choice`]).
//! 2. The *attempt* role (`filter::attempt`), once per try, rewrites path, host, credential and body
//!    for its backend, classifies the response ([`policy::response::classify`]), updates throttle gate and
//!    circuit breaker ([`policy::backend::gate`], [`policy::backend::breaker`]) and chooses the next backend
//!    ([`policy::failover`]).
//! 3. The gateway role finishes the response: who served it, or why nobody could
//!    ([`openai::response::reply`]).
//!
//! # The map
//!
//! * [`config`]: JSON in, a valid configuration out, every error with its path.
//! * [`policy`]: decisions as pure functions; `now` and randomness are arguments.
//! * [`openai`]: the protocol as pure functions over bytes.
//! * `filter`: the only place that knows Envoy. It translates; it does not decide.
//!
//! Dependencies point one way: `filter` → `config` → `policy`, `openai`. The core builds without
//! the feature `filter`, and then cannot call Envoy.

pub mod config;
pub mod openai;
pub mod policy;

#[cfg(feature = "filter")]
mod filter;
