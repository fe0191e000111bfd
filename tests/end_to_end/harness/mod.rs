//! A gateway under test: real Envoy with the real module, in front of mock backends.

mod asking;
mod bootstrap;
mod client;
mod clusters;
mod envoy;
mod listeners;
mod names;
pub(crate) mod raw;
mod setup;
pub(crate) mod shipped;

pub(crate) use asking::{Asking, assert_for, first_and_second, forgetful};
pub(crate) use client::{Answer, Client, Event};
pub(crate) use clusters::Hosts;
pub(crate) use envoy::{Envoy, Settings};
pub(crate) use names::{Name, NameServer};
pub(crate) use setup::{
    CHAT, Gateway, Setup, chat_body, deployment_of, eventually, host_of, key_of,
};
