//! The protocol of Azure OpenAI and OpenAI, as pure functions over bytes.

pub mod call;
mod find;
pub mod media_type;
#[cfg(test)]
mod random;
pub mod request;
pub mod response;
pub mod service_tier;
