//! Responses: event streams, usage, headers, and the gateway's own replies.

pub mod headers;
pub mod reply;
pub mod stream;
pub mod tier_watch;
pub mod usage;
