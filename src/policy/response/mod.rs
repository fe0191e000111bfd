//! What a response means: for the backend that sent it, and for the request.
//!
//! [`classify`] decides, and asks [`refusal`] what a 429 is about. The other modules read headers: how long the
//! backend is out, and how much capacity is left.

pub mod classify;
pub mod headers;
mod http_date;
pub mod rate_limits;
pub mod refusal;
pub mod retry_after;
