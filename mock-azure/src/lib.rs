//! A backend that keeps Azure OpenAI's rules, and breaks them on demand. The rules and their sources are in
//! `docs/azure.md`.
//!
//! Spillway's promises are about what happens when a deployment throttles, fails or stalls, so its tests
//! and its demo need a deployment that does so as Azure does, at the moment they choose. A [`Mock`] is
//! one Azure OpenAI resource on a local port. One request goes through it like this:
//!
//! 1. [`listener`](Mock) accepts the connection, `link` wraps its socket so that a fault can break it;
//! 2. `service` reads and records the request ([`Record`]) and takes the [`Fault`] that waits for it;
//! 3. `route` finds operation and deployment, `facts` what the body asks for and how much that costs,
//!    `refusals` what is wrong with the request itself (when switched on);
//! 4. `limits` admits it or refuses it: a sliding minute for Standard, a leaky bucket for Provisioned;
//! 5. `answers` writes a true-to-shape answer as a `script` of chunks and pauses;
//! 6. the fault rewrites that script, and the script is played to the client.
//!
//! `/_mock/…` on the same port (`control`) does over HTTP what the methods of [`Mock`] do in a test.

mod answers;
mod config;
mod control;
mod facts;
mod faults;
mod ids;
mod limits;
mod link;
mod listener;
mod lock;
mod mock;
mod problems;
mod record;
mod refusals;
mod route;
mod script;
mod service;
mod state;
mod websocket;

pub use config::{Kind, Latency, MockConfig};
pub use faults::{Ending, ErrorShape, Fault};
pub use mock::Mock;
pub use record::{Record, body_hash};
pub use refusals::{REFUSAL_MARKER, RefusalResponse, refusal_names, refusal_responses};
