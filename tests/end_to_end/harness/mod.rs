//! A gateway under test: real Envoy with the real module, in front of mock backends.

mod client;
mod envoy;
mod pool;

pub(crate) use client::{Answer, Client, Event};
pub(crate) use envoy::{Envoy, Settings};
pub(crate) use pool::{Backends, backend};
