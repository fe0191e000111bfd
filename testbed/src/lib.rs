//! What the end-to-end tests, the demo and the benchmark share: real Envoy with a shipped configuration, and a
//! client that shows exactly what came back.
//!
//! * [`programs`] finds Envoy, the module and the SDKs.
//! * [`Bootstrap`] is an Envoy configuration with parts that can be changed.
//! * [`Process`] and [`Envoy`] run until they are dropped.
//! * [`Client`] sends requests; a [`Response`] shows what a client saw.
//!
//! It is made for tests: what a caller cannot mend panics, and an error is a text for people, with the log of the
//! program that it is about.

pub mod bootstrap;
mod client;
mod envoy;
mod process;
pub mod programs;

pub use bootstrap::Bootstrap;
pub use client::{Client, Event, Response};
pub use envoy::{Envoy, Options};
pub use process::{Folder, Process, free_port};
