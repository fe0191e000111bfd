//! The protocol of Azure OpenAI and OpenAI, as pure functions over bytes.

pub mod bytes;
pub mod call;
pub mod media_type;
#[cfg(test)]
mod random;
pub mod request;
pub mod response;
pub mod service_tier;
