//! Envoy's side of the ABI.

mod abi;
mod exports;
mod process;
mod shared;
mod state;

pub(crate) use exports::{KEYS, Module};
pub(crate) use process::{Process, Seen};
pub(crate) use state::{Context, Deferred, HeaderList, PAUSE, Role, Root, header, install, with};
