//! What workers know of a backend: whether it is left alone, until when, and how much of it is left.
//!
//! The throttle [`gate`] closes for the time that the backend named. The circuit [`breaker`] opens
//! when its [`rules`] count too many faults. The [`headroom`] is what response headers say is left.
//! [`records`] holds all of them as bytes.

pub mod breaker;
pub mod gate;
pub mod headroom;
pub mod records;
pub mod rules;
