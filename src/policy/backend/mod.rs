//! What workers know about a backend: whether it may be chosen, when again, and how much capacity is left.
//!
//! The throttle [`gate`] closes for the time that the backend named. The circuit [`breaker`] opens when its [`rules`]
//! count too many faults. The [`headroom`] is the capacity that response headers state as left. [`records`] contains
//! all of them as bytes.

pub mod breaker;
pub mod gate;
pub mod headroom;
pub mod records;
pub mod rules;
