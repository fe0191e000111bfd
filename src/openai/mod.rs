//! The protocol of Azure OpenAI and OpenAI, as pure functions over bytes.

pub mod api;
