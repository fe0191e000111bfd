//! The protocol of Azure OpenAI and OpenAI, as pure functions over bytes.

pub mod body;
pub mod call;
pub mod facts;
mod find;
pub mod glance;
pub mod media_type;
pub mod multipart;
#[cfg(test)]
mod random;
pub mod response;
pub mod scan;
pub mod service_tier;
pub mod splice;
