//! The only place that knows Envoy. It translates callbacks into questions to the core and the
//! core's answers into host calls; it decides nothing.
//!
//! Both roles are one module in one VM per worker. They meet in [`table`]: the requests in flight.
//! A worker is one thread, so the table needs no lock; what workers must agree on goes through
//! [`shared`].

mod answer;
mod arrival;
mod attempt;
mod body;
mod budgets;
mod charge;
mod consumers;
mod contexts;
mod details;
mod exchange;
mod exports;
mod finish;
mod flow;
mod gateway;
mod header_map;
mod held;
mod host;
mod meter;
mod metrics;
mod plan;
mod publish;
mod reading;
mod records;
mod reports;
mod root;
mod routed;
mod sanitize;
mod selection;
mod shared;
mod table;
mod timers;
mod told;
mod worker;
