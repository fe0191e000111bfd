//! The body of a request: what the gateway reads, and the few bytes that it changes.
//!
//! [`kind`] states how a [`body`] is read: as JSON ([`scan`]) or as a form ([`multipart`]). Both give
//! the same [`facts`]. A [`glance`] at both ends is enough where only the model matters. A [`splice`]
//! changes exactly the bytes that a backend must read differently.

pub mod body;
pub mod facts;
pub mod glance;
pub mod kind;
pub mod multipart;
pub mod scan;
pub mod splice;
