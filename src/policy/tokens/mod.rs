//! Counting tokens and requests: what a request will use, and who has room for it.
//!
//! [`estimate`] states what a request will use before it is sent. That is reserved in the [`budget`]
//! of the backend and in the limits of the [`consumer`], and corrected to what the response states.

pub mod budget;
pub mod consumer;
pub mod estimate;
