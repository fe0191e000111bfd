//! A gateway under test: real Envoy with the real module, in front of mock backends.

mod asking;
mod clusters;
mod names;
pub(crate) mod raw;
mod settings;
mod setup;
pub(crate) mod shipped;
mod watched;

pub(crate) use asking::{
    Asking, assert_for, everything, first_and_second, first_elsewhere, forgetful,
};
pub(crate) use clusters::Hosts;
pub(crate) use names::{Name, NameServer};
pub(crate) use settings::Settings;
pub(crate) use setup::{
    CHAT, Gateway, Setup, chat_body, deployment_of, eventually, host_of, key_of,
};
pub(crate) use testbed::{Client, Event, Response};
